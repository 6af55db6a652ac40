"""The owner's page in a real browser: hostile texts stay texts, other pages get nothing, and it is read on any screen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser

from tests.browsers import Watched, chromium
from tests.owner_houses import House, Opened, fill_with_evil, furnish, served

pytestmark = pytest.mark.timeout(300)


class Place:
    """A home with hostile texts in it, its page, and a browser."""

    def __init__(self, house: House, ids: dict[str, str], opened: Opened, browser: Browser) -> None:
        self.house, self.ids, self.opened, self.browser = house, ids, opened, browser
        self.host = urlsplit(opened.origin).netloc

    def window(self, width: int = 1400, scheme: str = "light") -> Watched:
        window = Watched(
            self.browser, self.host, viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        window.page.goto(self.opened.site.link())
        window.page.wait_for_url(self.opened.origin + "/")
        return window

    def paths(self) -> list[str]:
        ids = self.ids
        plain = (
            "",
            "requests",
            "agreements",
            "datasets",
            "tasks",
            "departures",
            "audit",
            "settings",
            "security",
        )
        requests = ("evil", "evil_before", "evil_statistics", "evil_rule", "changed", "approved")
        return [
            *(f"/{name}" for name in plain),
            *(f"/requests/{ids[name]}" for name in requests),
            "/datasets/evil",
            "/datasets/heart_failure",
            f"/tasks/{ids['evil_task']}",
            f"/tasks/{ids['failed']}",
        ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("house")
    house = House(folder)
    ids = {**furnish(house), **fill_with_evil(house, folder)}
    with served(house.home) as opened, chromium() as browser:
        yield Place(house, ids, opened, browser)
    house.close()


@pytest.mark.parametrize(("width", "scheme"), [(320, "dark"), (1400, "light")])
def test_no_text_of_others_runs_and_every_page_fits_its_screen(place: Place, width: int, scheme: str) -> None:
    window = place.window(width, scheme)
    for path in place.paths():
        window.page.goto(place.opened.origin + path)
        assert window.page.evaluate("window.pwned") is None, path
        assert window.width() <= width, path
        assert window.page.locator("h1").count() == 1, path
    assert window.wrong == [], "nothing was refused by the policy, nothing asked of another host"
    window.context.close()


def test_the_page_is_walked_through_by_keyboard_alone(place: Place) -> None:
    window = place.window()
    page = window.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    focus = "getComputedStyle(document.activeElement).outlineStyle"
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        text = page.evaluate("document.activeElement.textContent").strip()
        assert page.evaluate(focus) != "none", f"{text} shows no focus"
        seen.append(text)
        if text.startswith("Look and decide"):
            break
    assert any(text.startswith("Requests") for text in seen)
    page.keyboard.press("Enter")
    page.wait_for_url("**/requests/*")
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_label("Note to the researcher").count() == 1
    assert page.get_by_role("button", name="Approve for this dataset").count() == 1
    assert window.wrong == []
    window.context.close()


def test_the_secret_of_a_link_is_gone_from_the_address_and_it_works_once(place: Place) -> None:
    link = place.opened.site.link()
    window = Watched(place.browser, place.host)
    window.page.goto(link)
    window.page.wait_for_url(place.opened.origin + "/")
    assert "#" not in window.page.url
    assert window.page.evaluate("document.cookie") == "", "no script reads the session"
    window.page.go_back()
    assert link.partition("#")[2] not in window.page.url
    again = Watched(place.browser, place.host)
    again.page.goto(link)
    again.page.get_by_text("used already").wait_for()
    window.context.close()
    again.context.close()


EVIL_PAGE = """<!doctype html><title>evil</title><iframe id=f src="{origin}/requests"></iframe>
<form id=a method=post action="{origin}/requests/{id}/approve"><input name=by value=Mallory><input name=seen value="{seen}">
<input name=csrf value=guess></form>
<img src="{origin}/static/page.css"><script>
fetch("{origin}/requests", {{credentials: "include"}}).then(r => r.text()).then(t => document.title = "read " + t.length)
  .catch(() => document.title = "refused");
fetch("{origin}/settings", {{method: "POST", mode: "no-cors", credentials: "include", body: "name=workers&value=9"}});
</script>"""


def test_a_page_of_another_server_reads_frames_and_changes_nothing(place: Place) -> None:
    grant = place.house.grants.get(place.ids["changed"])
    body = EVIL_PAGE.format(origin=place.opened.origin, id=grant.id, seen="pending 0 0.000000").encode()

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        window = place.window()
        page = window.page
        before = [tuple(row) for row in place.house.database.rows("SELECT id, status FROM grants")]
        for host in ("127.0.0.1", "localhost"):  # the same site on another port, and another site
            page.goto(f"http://{host}:{server.server_address[1]}/")
            page.wait_for_function("document.title === 'refused'")
            frame = page.frame_locator("#f")
            assert frame.get_by_text("What researchers asked for").count() == 0
            page.evaluate("document.getElementById('a').submit()")
            page.get_by_text("A form is taken only from this page itself.").wait_for()
        after = [tuple(row) for row in place.house.database.rows("SELECT id, status FROM grants")]
        assert after == before
        page.goto(place.opened.origin + "/requests")
        assert page.get_by_role("heading", level=1).inner_text() == "Requests", (
            "the owner is signed in as before"
        )
        window.context.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_is_printed_is_the_content_alone(place: Place, tmp_path: Path) -> None:
    window = place.window()
    window.page.goto(f"{place.opened.origin}/requests/{place.ids['changed']}")
    window.page.emulate_media(media="print")
    assert not window.page.get_by_role("navigation", name="Pages").is_visible()
    assert not window.page.get_by_role("button", name="Reject").is_visible()
    assert window.page.get_by_text("What is new since the last approval").is_visible()
    window.page.pdf(path=tmp_path / "request.pdf")
    assert (tmp_path / "request.pdf").stat().st_size > 10_000
    window.context.close()
