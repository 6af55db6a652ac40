"""Sign-in to the owner's page at a certified OpenID provider, oidc-provider, as a process of its own.

`make openid` installs it with npm below `build/openid`; `make test` leaves this out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browsers import chromium
from tests.owner_houses import House, furnish
from tests.parts import missing, program
from tests.processes import Processes
from tests.signing_in import signs_in_and_approves

INSTALLED = Path(__file__).parents[2] / "build" / "openid"
pytestmark = pytest.mark.timeout(300)


def _as(name: str) -> Callable[[Page], None]:
    def sign_in(page: Page) -> None:
        page.get_by_placeholder("Enter any login").fill(name)
        page.get_by_placeholder("and password").fill("any")
        page.get_by_role("button", name="Sign-in").click()
        page.get_by_role("button", name="Continue").click()

    return sign_in


@pytest.mark.parametrize("secret_in", ["client_secret_basic", "client_secret_post", "none"])
def test_people_sign_in_at_the_certified_provider_and_others_do_not(
    secret_in: str, processes: Processes, free_port: Callable[[], int], tmp_path: Path
) -> None:
    if not (INSTALLED / "node_modules").is_dir():
        missing("build/openid, which `make openid` installs,")
    port, provider_port = free_port(), free_port()
    secret = "" if secret_in == "none" else "s3cret: with % and +, of the client"
    client = {
        "client_id": "fedjob page",
        **({"client_secret": secret} if secret else {}),
        "redirect_uris": [f"http://127.0.0.1:{port}/enter/openid/back"],
        "token_endpoint_auth_method": secret_in,
        "application_type": "native",
    }
    (tmp_path / "clients.json").write_text(json.dumps([client]))
    processes.start(
        program("node"),
        INSTALLED / "provider.js",
        str(provider_port),
        tmp_path / "clients.json",
        ready="ready",
    )
    issuer = f"http://localhost:{provider_port}"

    house = House(tmp_path)
    ids = furnish(house)
    home = ("--home", house.home.root)
    settings = {
        "page_issuer": issuer,
        "page_client_id": "fedjob page",
        "page_people": "email=ben@clinic.example, group=data protection, email=newt@clinic.example",
    }
    if secret:
        (house.home.root / "page_secret").write_text(secret)
        (house.home.root / "page_secret").chmod(0o600)
        settings["page_secret_file"] = "page_secret"
    words = [word for pair in settings.items() for word in pair]
    processes.run("fedjob", "node", "config", "set", *home, *words)
    page = ("fedjob", "node", "page", *home, "--openid")
    checked = processes.run(*page, "--port", str(port), "--check").stdout
    assert "sign-in redirect URL" in checked
    elsewhere = processes.run(*page, "--port", str(port), "--url", "https://x.example", "--check", expect=1)
    assert "register https://x.example/enter/openid/back" in " ".join(elsewhere.stdout.split())
    processes.start(*page, "--port", str(port), ready="page ready", fork=True)
    origin = f"http://127.0.0.1:{port}"
    with chromium() as browser:
        shown_as = f"ben of the clinic <{issuer}#ben>"
        signs_in_and_approves(browser, origin, issuer, _as("ben"), ids["changed"], shown_as)
        for name, enters in (("cy", True), ("newt", False), ("eve", False)):
            context = browser.new_context()
            shown = context.new_page()
            shown.set_default_timeout(60_000)
            shown.goto(f"{origin}/enter/openid")
            _as(name)(shown)
            if enters:
                shown.wait_for_url(f"{origin}/")
            else:
                shown.get_by_text("is not among the people who may enter").wait_for()
            context.close()
    house.close()
