"""A person who signs in to the owner's page in Chromium, at a provider that is another site, and decides."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Browser, Page

from tests.browsers import Watched


def signs_in_and_approves(
    browser: Browser, origin: str, provider: str, at_provider: Callable[[Page], None], grant: str, shown: str
) -> None:
    """Sign in, look at a request, approve it, see who the audit log names, and sign out.

    Args:
        origin, provider: of the page, and of the provider, `http://HOST:PORT`.
        at_provider: what the person does there.
        grant: id of a request that waits.
        shown: as the audit log names the person.
    """
    window = Watched(browser, origin.removeprefix("http://"), viewport={"width": 320, "height": 700})
    page = window.page
    page.goto(origin)
    link = page.get_by_role("link", name=f"Sign in at {provider.removeprefix('http://')}")
    assert window.width() <= 320
    assert window.wrong == []
    link.click()
    page.wait_for_url(f"{provider}/**")
    at_provider(page)
    page.wait_for_url(f"{origin}/")
    window.wrong.clear()  # what the provider's own pages asked for
    assert page.evaluate("document.cookie") == "", "no script reads the session"
    page.goto(f"{origin}/requests/{grant}")
    assert page.get_by_label("Your name, for the audit log").count() == 0
    assert window.width() <= 320
    page.get_by_role("button", name="Approve for this dataset").click()
    page.get_by_text("approved: ").first.wait_for()
    page.goto(f"{origin}/audit")
    page.get_by_text(f"by {shown}").first.wait_for()
    assert window.width() <= 320
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("link", name="sign out there, too").wait_for()
    page.goto(f"{origin}/requests")
    page.wait_for_url(f"{origin}/enter")
    assert window.wrong == [], "nothing was refused by the policy, nothing asked of another host"
    window.context.close()
