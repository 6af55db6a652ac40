"""The time that an honest party waits at a hub while others are in a bad mood, with each broker and over each way to it.

    python benchmarks/bad_mood.py [--idle 1000] [--messages 100000] [--logins 10000] [--seconds 60]

It asks for the list of parties over HTTP, and sends itself a message over MQTT, all the time. Printed are the median and
the largest time of each, and how much hub and broker grew. Reach: nothing takes longer than 2 s.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fedjob.identity.membership import broker_at_hub, enrol
from tests.bad_mood import Dial, Honest, flood, idle, log_in_often, messenger
from tests.bare_mqtt import BareClient, WebSocketClient, connect
from tests.hubs import keys_of
from tests.processes import Processes

MB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--logins", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="longest time of each mood")
    parser.add_argument("--broker", choices=["mosquitto", "amqtt"])
    given = parser.parse_args()
    for kind in ["mosquitto", "amqtt"] if given.broker is None else [given.broker]:
        with (
            tempfile.TemporaryDirectory(prefix="fedjob-bench-") as folder,
            Processes(Path(folder)) as processes,
        ):
            _measure(Path(folder), processes, kind, given)


def _measure(folder: Path, processes: Processes, kind: str, given: argparse.Namespace) -> None:
    home = folder / "hub"
    processes.start(
        "fedjob", "hub", "start", "--home", home, "--port", "0", "--mqtt-port", "0", "--broker-kind", kind, name="hub"
    ).wait_for("hub ready")  # fmt: skip
    running = json.loads((home / "running.json").read_text())
    url, broker = running["url"], running["broker_url"].removeprefix("mqtt://").split(":")
    honest, mallory = (enrol(url, party, "node", keys_of(party)) for party in ("honest", "mallory"))
    ways: dict[str, Dial] = {
        "MQTT": lambda: BareClient(broker[0], int(broker[1])),
        "WebSocket": lambda: WebSocketClient(broker_at_hub(url)),
    }

    def session(dial: Dial, party: str, password: str) -> BareClient:
        client = dial()
        assert client.login(connect(party, password)).code == 0
        return client

    def asks() -> None:
        headers = {"Authorization": f"Bearer {honest.token}"}
        assert requests.get(f"{url}/v1/parties", headers=headers, timeout=20).status_code == 200

    def hurries() -> str:
        counts: list[int] = []

        def hurry() -> None:
            with requests.Session() as http:
                http.headers["Authorization"] = f"Bearer {mallory.token}"
                for _ in range(given.messages // 8):
                    counts.append(http.get(f"{url}/v1/parties", timeout=20).status_code)
                    if len(counts) > given.seconds * 1000:
                        return

        threads = [threading.Thread(target=hurry, daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(given.seconds)
        return f"{len(counts)} requests, {counts.count(429)} of them refused"

    def stays_idle(dial: Dial) -> str:
        held = idle(dial, given.idle)
        threading.Event().wait(5)
        for client in held:
            client.close()
        return f"{len(held)} idle connections"

    def floods(dial: Dial) -> str:
        with session(dial, "mallory", mallory.broker_password) as client:
            sent = flood(client, "mallory", "honest", given.messages, within_s=given.seconds)
            threading.Event().wait(5)  # what is on its way is still to be carried
        return f"{sent} messages"

    def logs_in(dial: Dial) -> str:
        done: list[tuple[int, int]] = []

        def some() -> None:
            password, count = mallory.broker_password, given.logins // 16
            done.append(log_in_often(dial, "mallory", password, count, within_s=given.seconds))

        threads = [threading.Thread(target=some, daemon=True) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return f"{sum(sent for sent, _ in done)} logins, {sum(let_in for _, let_in in done)} of them let in"

    http = int(url.rpartition(":")[2])
    moods: list[tuple[str, Callable[[], str]]] = [
        ("HTTP", lambda: stays_idle(lambda: BareClient("127.0.0.1", http))),
        ("HTTP", hurries),
    ]
    for name, dial in ways.items():
        moods += [(name, lambda dial=dial: stays_idle(dial))]  # type: ignore[misc]
        moods += [(name, lambda dial=dial: floods(dial)), (name, lambda dial=dial: logs_in(dial))]  # type: ignore[misc]
    for way, mood in moods:
        with ExitStack() as stack:
            before = [_rss(running[pid]) for pid in ("pid", "broker_pid")]
            people = {"HTTP": stack.enter_context(Honest(asks))}
            for name, dial in ways.items():
                client = stack.enter_context(session(dial, "honest", honest.broker_password))
                people[name] = stack.enter_context(Honest(messenger(client, "honest", name.lower())))
            what = mood()
            grown = [_rss(running[pid]) - was for pid, was in zip(("pid", "broker_pid"), before, strict=True)]
        times = "; ".join(
            f"{name} {1000 * median:.0f} ms, at most {1000 * most:.0f}"
            for name, (median, most) in ((name, each.summary()) for name, each in people.items())
        )
        print(
            f"{kind}: {what} over {way}: an honest party's {times}; hub {grown[0] / MB:+.0f} MB, broker "
            f"{grown[1] / MB:+.0f} MB",
            flush=True,
        )


def _rss(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


if __name__ == "__main__":
    main()
