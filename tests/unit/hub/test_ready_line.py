"""The lines that a hub prints when it is ready."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.hub.cli import _say_ready
from fedjob.hub.config.home import Running


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("https://0.0.0.0:8844", "fedjob hub invite PARTY --url https://NAME:8844"),
        ("http://127.0.0.1:8844", ""),
    ],
)
def test_a_hub_on_every_address_says_that_parties_need_a_name(
    url: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    running = Running(1, url, "mqtt://127.0.0.1:1844", "mosquitto", "2.0", 2, "storage", "tokens")
    accounts: Any = None  # only an external broker is told of them
    _say_ready(running, accounts)
    printed = capsys.readouterr()
    assert printed.out == f"hub ready: {url} mqtt://127.0.0.1:1844 (broker: mosquitto 2.0)\n"
    assert named in printed.err
    assert bool(printed.err) == bool(named)
