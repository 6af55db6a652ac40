"""The first paint of the researcher's page: a home of 1,000 jobs, one of which has 100,000 events. Run: python benchmarks/many_jobs.py."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.asgi import Visitor
from tests.browsers import Watched, chromium
from tests.researcher_homes import RunningJob, long_log, many_jobs, served_jobs

PAINT = "performance.getEntriesByName('first-contentful-paint').map(one => one.startTime)[0]"


def main() -> None:
    """Print seconds of the first and of later answers, and of the first paint in Chromium."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--events", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        many_jobs(home, given.jobs - 1)
        running = RunningJob(home, name="at-work")
        long_log(running.folder, given.events)
        size_mb = running.folder.events.stat().st_size / 1e6
        print(f"{given.jobs} jobs, one with {given.events} events ({size_mb:.0f} MB)")
        paths = {
            "list": "/jobs",
            "job": f"/jobs/{running.folder.path.name}",
            "log": f"/jobs/{running.folder.path.name}/log",
        }
        with served_jobs(home) as opened:
            visitor = Visitor(opened.site, opened.origin)
            visitor.enter()
            for name in ("list", "list", "job", "job", "log"):
                began = time.monotonic()
                answer = visitor.get(paths[name])
                print(
                    f"answer {name:5} {time.monotonic() - began:6.3f} s  {len(answer.body) / 1e3:6.0f} kB  {answer.status}"
                )
            with chromium() as browser:
                window = Watched(
                    browser, urlsplit(opened.origin).netloc, viewport={"width": 1400, "height": 900}
                )
                window.page.goto(opened.site.link())
                window.page.wait_for_url(opened.origin + "/jobs")
                for name, path in paths.items():
                    window.page.goto(opened.origin + path)
                    while (painted := window.page.evaluate(PAINT)) is None:
                        time.sleep(0.05)
                    print(f"first paint {name:5} {painted / 1000:6.3f} s")
                window.context.close()
        running.close()


if __name__ == "__main__":
    main()
