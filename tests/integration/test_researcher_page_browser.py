"""The researcher's page in a real browser: it lives while a job runs, fits any screen, and runs no text of others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser

from fedjob import Job
from fedjob.researcher.storage.folder import JobFolder
from tests.browsers import Watched, chromium
from tests.owner_houses import Opened
from tests.researcher_homes import RunningJob, served_jobs, trained, with_evil_texts

pytestmark = pytest.mark.timeout(300)


class JobsInBrowser:
    """A home with a trained job, a running one and a hostile one, its page, and a browser."""

    def __init__(
        self, opened: Opened, browser: Browser, done: Job, running: RunningJob, evil: JobFolder
    ) -> None:
        self.opened, self.browser = opened, browser
        self.done, self.running, self.evil = done, running, evil

    def window(self, width: int = 1400, scheme: str = "light") -> Watched:
        host = urlsplit(self.opened.origin).netloc
        window = Watched(self.browser, host, viewport={"width": width, "height": 900}, color_scheme=scheme)
        window.page.goto(self.opened.site.link())
        window.page.wait_for_url(self.opened.origin + "/jobs")
        return window


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobsInBrowser]:
    home = tmp_path_factory.mktemp("home")
    done = trained(home, tmp_path_factory.mktemp("data"))
    running = RunningJob(home, name="at-work")
    running.begin_round(1)
    evil = with_evil_texts(home)
    with served_jobs(home) as opened, chromium() as browser:
        yield JobsInBrowser(opened, browser, done, running, evil)
    running.close()


@pytest.mark.parametrize(("width", "scheme"), [(320, "dark"), (800, "dark"), (1400, "light")])
def test_no_text_of_others_runs_and_every_page_fits_its_screen(
    place: JobsInBrowser, width: int, scheme: str
) -> None:
    window = place.window(width, scheme)
    ids = (place.evil.path.name, place.done.id)
    paths = [f"/jobs/{id_}{part}" for id_ in ids for part in ("", "/result", "/log", "/settings")]
    for path in ["/jobs", f"/compare?job={ids[0]}&job={ids[1]}", *paths]:
        window.page.goto(place.opened.origin + path)
        if "/settings" not in path and "compare" not in path:
            window.page.wait_for_timeout(300)  # the parts that the stream sends are put in
        assert window.page.evaluate("window.pwned") is None, path
        assert window.width() <= width, path
        assert window.page.locator("h1").count() == 1, path
    assert window.wrong == [], "nothing was refused by the policy, nothing asked of another host"
    window.context.close()


def test_what_happens_appears_without_loading_the_page_again(place: JobsInBrowser) -> None:
    window = place.window()
    page = window.page
    page.goto(f"{place.opened.origin}/jobs/{place.running.folder.path.name}")
    page.get_by_label("Changes").fill("rounds=7")
    for iteration in (10, 20, 30):
        place.running.reports(1, "clinic-bern", 1 / iteration, iteration)
    page.get_by_text("while nodes train in round 1").wait_for()
    place.running.end_round(1)
    page.get_by_text("Round 1 (train)").wait_for()
    place.running.begin_round(2)
    page.get_by_text("so far").wait_for()
    assert page.get_by_label("Changes").input_value() == "rounds=7", "what somebody types stays"
    assert window.wrong == []
    window.context.close()


def test_two_jobs_are_found_ticked_and_compared_by_keyboard_alone(place: JobsInBrowser) -> None:
    window = place.window()
    page = window.page
    page.get_by_label("Compare risk").focus()
    page.keyboard.press("Space")
    page.get_by_label("Compare at-work").focus()
    page.keyboard.press("Space")
    page.wait_for_timeout(2500)  # the list is drawn anew meanwhile, and the ticks stay
    page.get_by_role("button", name="Compare those that are ticked").press("Enter")
    page.wait_for_url("**/compare?*")
    assert page.get_by_role("heading", name="Settings that differ").count() == 1
    assert page.get_by_role("table", name="The jobs").get_by_role("row").count() == 3
    assert window.wrong == []
    window.context.close()


def test_a_download_is_a_file_that_the_browser_keeps(place: JobsInBrowser, tmp_path: Path) -> None:
    window = place.window()
    window.page.goto(f"{place.opened.origin}/jobs/{place.done.id}/result")
    with window.page.expect_download() as waited:
        window.page.get_by_role("button", name="Download").click()
    waited.value.save_as(tmp_path / "job.zip")
    assert waited.value.suggested_filename == f"{place.done.id}.zip"
    assert (tmp_path / "job.zip").read_bytes()[:2] == b"PK"
    picture = window.page.locator("img.picture")
    picture.scroll_into_view_if_needed()
    window.page.wait_for_function("() => document.querySelector('img.picture').naturalWidth > 100")
    assert window.wrong == []
    window.context.close()
