"""A real browser for tests: the distribution's Chromium, without a screen, which asks nobody but the page for anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.parts import program

FLAGS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium for a block; where there is none the test is skipped, or fails in CI."""
    path = program("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A window of a browser, with all that went wrong in it.

    Args:
        host: of the page; every request to another one is noted.
    """

    def __init__(self, browser: Browser, host: str, **about: Any) -> None:
        self.context: BrowserContext = browser.new_context(**about)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.wrong: list[str] = []
        self.page.on(
            "console", lambda message: self._note(message.type in ("error", "warning"), message.text)
        )
        self.page.on("pageerror", lambda error: self._note(True, str(error)))
        self.page.on(
            "dialog", lambda dialog: (self._note(True, f"dialog {dialog.message}"), dialog.dismiss())
        )
        self.page.on(
            "request",
            lambda request: self._note(
                urlsplit(request.url).netloc not in (host, "") and request.url != "about:blank", request.url
            ),
        )

    def _note(self, is_wrong: bool, text: str) -> None:
        if is_wrong:
            self.wrong.append(text)

    def width(self) -> int:
        """Return how wide the page is drawn."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))
