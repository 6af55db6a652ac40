"""The picture of docs/researcher_page.md: a job at three made-up clinics while it runs. Run: python docs/researcher_page.py."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from fedjob import FedAvg, Job, sandbox_federation
from fedjob.starting_points.torch_plan import RiskNetwork
from tests.browsers import Watched, chromium
from tests.researcher_homes import patients, served_jobs

PICTURE = Path(__file__).with_name("researcher_page.png")
COLOURS = 128
ROWS = {"clinic-bern": 900, "clinic-oslo": 300, "clinic-porto": 2400}
ARGS = {
    "lr": 0.01,
    "epochs": 4,
    "batch_size": 16,
    "test_ratio": 0.2,
    "test_on_global_updates": True,
    "test_metric": ["accuracy", "roc_auc"],
}


def main() -> None:
    """Draw the page of a job in its fifth round or a later one."""
    data = {node: patients(seed, rows) for seed, (node, rows) in enumerate(ROWS.items())}
    with sandbox_federation(data) as session:
        job = Job(
            FedAvg(),
            training_plan=RiskNetwork,
            data={"tags": ["data"]},
            session=session,
            name="readmission-risk",
            model_args={"hidden": 8},
            training_args=ARGS,
            rounds=200,
            seed=1,
        ).submit()
        while len(job.breakpoints) < 1 or int(job.breakpoints[-1].name[6:]) < 4:
            time.sleep(0.2)
        with served_jobs(session.home) as opened, chromium() as browser:
            window = Watched(
                browser, urlsplit(opened.origin).netloc, viewport={"width": 1280, "height": 1250}
            )
            window.page.goto(opened.site.link())
            window.page.wait_for_url(opened.origin + "/jobs")
            window.page.goto(f"{opened.origin}/jobs/{job.id}")
            window.page.get_by_text("while nodes train").first.wait_for()
            drawn = window.page.screenshot()
            window.context.close()
        job.kill()
    with Image.open(io.BytesIO(drawn)) as picture:
        picture.convert("RGB").quantize(COLOURS).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
