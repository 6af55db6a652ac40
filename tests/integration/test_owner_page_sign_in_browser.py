"""Sign-in to the owner's page in a real browser: settings, check and page as commands, and a provider on another site."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browsers import chromium
from tests.owner_houses import House, furnish
from tests.processes import Processes
from tests.sign_in_provider import CLIENT, SECRET, SignInProvider
from tests.signing_in import signs_in_and_approves

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def provider() -> Iterator[SignInProvider]:
    made = SignInProvider("localhost")
    made.people = {"ann-1": {"name": "Ann Lindqvist"}, "eve-9": {"name": "Eve"}}
    with made.running():
        yield made


def test_a_person_signs_in_at_another_site_and_decides_under_their_name(
    provider: SignInProvider, processes: Processes, free_port: Callable[[], int], tmp_path: Path
) -> None:
    house = House(tmp_path)
    ids = furnish(house)
    port = free_port()
    home = ("--home", house.home.root)
    page = ("fedjob", "node", "page", *home, "--port", str(port), "--openid")

    assert "the setting page_issuer is empty" in processes.run(*page, expect=1).stderr
    (house.home.root / "page_secret").write_text(SECRET)
    (house.home.root / "page_secret").chmod(0o600)
    client = ("page_issuer", provider.issuer, "page_client_id", CLIENT, "page_secret_file", "page_secret")
    processes.run("fedjob", "node", "config", "set", *home, *client)
    nobody = processes.run(*page, expect=1).stderr
    assert "page_people is empty, and nobody could enter" in nobody
    assert "Traceback" not in nobody
    processes.run("fedjob", "node", "config", "set", *home, "page_people", "sub=ann-1")
    assert "--openid needs an address that stays" in processes.run(*page[:-3], "--openid", expect=1).stderr
    refused = processes.run(*page, "--check", expect=1).stdout
    assert f"register http://127.0.0.1:{port}/enter/openid/back as redirect URL" in " ".join(refused.split())
    provider.redirect_urls = {f"http://127.0.0.1:{port}/enter/openid/back"}
    assert " no " not in processes.run(*page, "--check").stdout
    found = json.loads(processes.run("fedjob", "node", "doctor", *home, "--json", expect=1).stdout)
    assert {row["check"] for row in found if row["ok"]} >= {"sign-in", "sign-in keys", "sign-in client"}

    served = processes.start(*page, ready="page ready", fork=True)
    assert f"people sign in at {provider.issuer}" in served.log()
    with chromium() as browser:
        signs_in_and_approves(
            browser,
            f"http://127.0.0.1:{port}",
            f"http://{provider.host}",
            lambda shown: shown.get_by_role("link", name="ann-1").click(),
            ids["changed"],
            f"Ann Lindqvist <{provider.issuer}#ann-1>",
        )
    served.stop()
    house.close()
