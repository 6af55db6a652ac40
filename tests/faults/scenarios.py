"""What hospitals have, as scenarios: each a federation, what its ways are like, and a job that must not notice.

`python -m tests.faults` runs them all; a few run among the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedjob import Quorum
from tests.faults.federation import WIDTH, Ways
from tests.faults.line import LineProperties
from tests.faults.script import HTTP_FAULTS, MQTT_FAULTS, TCP_FAULTS, Fault

Setting = Literal["mqtt", "ws", "tls", "inspected", "squid", "netns-4mbit", "netns-256kbit"]
"""The federation: a broker with a port of its own, or at the hub's; one port with TLS, directly or inspected; behind a
real squid; over a link with 5 % loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One row of the table.

    Args:
        rounds, width, pause_s: of the job; `pause_s` is that of each of a round's two steps.
        at_least: times that the faults have to have happened for the row to count.
        long: takes many minutes, because it is about minutes.
    """

    name: str
    setting: Setting
    ways: tuple[Ways, ...] = ()
    rounds: int = 20
    width: int = WIDTH
    pause_s: float = 0.0
    quorum: Quorum | None = None
    at_least: int = 0
    long: bool = False


def _of_http() -> list[Scenario]:
    made = []
    for kind in HTTP_FAULTS:
        fault = Fault(kind=kind, rate=0.15, num=502 * (kind == "status"), seconds=1.0)
        made.append(Scenario(name=f"HTTP: {kind}", setting="mqtt", ways=(Ways(faults=(fault,)),), at_least=2))
    return made


def _of_mqtt() -> list[Scenario]:
    rates = {"garble": 0.02, "disconnect": 0.02, "drop": 0.1, "lose_ack": 0.2}
    settings: tuple[Setting, ...] = ("mqtt", "ws")
    made = []
    for setting in settings:
        for kind in MQTT_FAULTS:
            fault = Fault(kind=kind, rate=rates.get(kind, 0.15), seconds=2.0, num=1)
            name = f"MQTT over {'WebSocket' if setting == 'ws' else 'TCP'}: {kind}"
            made.append(Scenario(name=name, setting=setting, ways=(Ways(faults=(fault,)),), at_least=2))
    return made


def _of_tcp() -> list[Scenario]:
    made = []
    for kind in TCP_FAULTS:
        most = 2 if kind == "blackhole" else 6
        fault = Fault(kind=kind, rate=0.7, num=100_000, most=most)
        ways = (Ways(faults=(fault,)),)
        made.append(Scenario(name=f"TCP: {kind}", setting="tls", ways=ways, at_least=int(kind != "refuse")))
    return made


def _line(**properties: float) -> tuple[Ways, ...]:
    return (Ways(line=LineProperties(**properties)),)


LINES = [
    Scenario(name="4 Mbit/s", setting="tls", ways=_line(bits_per_s=4e6)),
    Scenario(name="256 kbit/s", setting="tls", ways=_line(bits_per_s=256e3)),
    Scenario(
        name="256 kbit/s, model of 1 MB", setting="tls", ways=_line(bits_per_s=256e3), rounds=2, width=36_000
    ),
    Scenario(name="64 kbit/s, 300 ms", setting="tls", ways=_line(bits_per_s=64e3, delay_s=0.3), rounds=4),
    Scenario(name="300 ms each way", setting="tls", ways=_line(delay_s=0.3)),
    Scenario(name="300 ms each way, 100 ms jitter", setting="tls", ways=_line(delay_s=0.3, jitter_s=0.1)),
    Scenario(
        name="outages of 6 s every 10 s",
        setting="tls",
        ways=_line(outage_s=6, every_s=10, until_outage_s=2),
        pause_s=0.5,
    ),
    Scenario(name="a real squid with a login", setting="squid"),
    Scenario(name="TLS inspected by a private authority", setting="inspected"),
    Scenario(
        name="TLS inspected, and faults",
        setting="inspected",
        ways=(
            Ways(
                faults=(
                    Fault(kind="status", rate=0.1, num=503),
                    Fault(kind="flip_answer", rate=0.1),
                    Fault(kind="drop", rate=0.05),
                    Fault(kind="corrupt", rate=0.05),
                )
            ),
        ),
        at_least=2,
    ),
    Scenario(name="4 Mbit/s, 5 % loss (namespaces)", setting="netns-4mbit", at_least=100),
    Scenario(name="256 kbit/s, 5 % loss (namespaces)", setting="netns-256kbit", at_least=100),
    Scenario(
        name="idle connections forgotten after 60 s",
        setting="tls",
        ways=_line(idle_s=60.0),
        rounds=4,
        pause_s=35.0,
        long=True,
    ),
    Scenario(
        name="outages of 6 min every 10 min, one hospital",
        setting="tls",
        ways=(
            Ways(
                line=LineProperties(outage_s=360, every_s=600, until_outage_s=30),
                parties=("clinic-1",),
            ),
        ),
        pause_s=7.0,
        quorum=Quorum(required="all"),
        long=True,
    ),
    Scenario(
        name="outages of 6 min every 10 min, everybody",
        setting="tls",
        ways=_line(outage_s=360, every_s=600, until_outage_s=30),
        pause_s=7.0,
        long=True,
    ),
]

SCENARIOS = [*_of_http(), *_of_mqtt(), *_of_tcp(), *LINES]
