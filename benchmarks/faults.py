"""Many faults on the way: objects through faults of HTTP, messages through faults of MQTT.

python benchmarks/faults.py [--http 10000] [--mqtt 100000]

Reach: of 10,000 faulty requests none leads to wrong bytes that are accepted, and none to a call that hangs: it ends in the
right bytes or in a named error. Of 100,000 deliveries, with duplicates, reordering, corruption and old messages among
them, each message is taken once, as it was sent.
"""

from __future__ import annotations

import argparse
import secrets
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fedjob.common.errors import FedjobError
from fedjob.common.http_client import Patience
from fedjob.common.types import Address
from fedjob.identity.keys import Identity
from fedjob.identity.roster import Roster
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.messages import Result
from fedjob.messaging.outbox import MemoryStore
from fedjob.messaging.transport.mqtt import MqttTransport
from fedjob.repository.http import HttpRepository
from tests.faults.forward_proxy import ForwardProxy
from tests.faults.script import HTTP_FAULTS, Fault, Script
from tests.faults.serving import LoopThread
from tests.hubs import HubThread
from tests.parts import program
from tests.processes import Processes, wait_until

HASTY = Patience(connect_s=5, idle_s=2, num_retries=7, backoff_s=0.005, max_backoff_s=0.02)
BATCH = 200
UNDER_WAY = 1000
STUCK_S = 120.0


def through_http(num_faults: int, folder: Path) -> bool:
    """Put and get objects until so many faults have happened; return whether all is well."""
    faults = [
        Fault(kind=kind, rate=0.04, num=502 * (kind == "status"), seconds=0.005) for kind in HTTP_FAULTS
    ]
    script = Script(faults, seed=1)
    right = wrong = named = 0
    longest_s = 0.0
    with LoopThread() as loop, HubThread(folder) as hub:
        proxy = ForwardProxy(loop)
        member = hub.join("node-a")
        with HttpRepository(hub.url, token=member.token, proxy=proxy.url, patience=HASTY) as repository:
            proxy.become(script)
            while script.done.total() < num_faults:
                data = secrets.token_bytes(3000)
                began = time.monotonic()
                try:
                    ref = repository.put(data, job="j")
                    wrong += repository.get_bytes(ref, limit_bytes=3000) != data
                    right += 1
                except FedjobError:
                    named += 1
                longest_s = max(longest_s, time.monotonic() - began)
    print(f"HTTP: {script.done.total()} faults of {len(script.done)} kinds: {dict(script.done)}")
    print(
        f"HTTP: {right} objects there and back, {wrong} with wrong bytes, {named} ended in a named error; the longest "
        f"took {longest_s:.1f} s"
    )
    return not wrong and longest_s < STUCK_S


@dataclass(frozen=True)
class Entry:
    role: str
    key_hex: str
    revoked: bool = False


def through_mqtt(num_deliveries: int, folder: Path) -> bool:
    """Send results until so many packets have been delivered; return whether each was taken once, as it was sent."""
    rates = {"duplicate": 0.1, "reorder": 0.1, "delay": 0.02, "corrupt": 0.05, "drop": 0.02, "replay": 0.1}
    faults = [Fault(kind=kind, rate=rate, seconds=0.5, num=3) for kind, rate in rates.items()]
    site, alice = Identity.generate("site"), Identity.generate("alice")
    roster = Roster(
        {"alice": Entry("researcher", alice.public_key_hex), "site": Entry("node", site.public_key_hex)}
    )
    with Processes(folder) as processes, LoopThread() as loop:
        url = broker(processes, folder)
        scripts = [Script(faults, seed=number) for number in range(2)]
        proxies = [ForwardProxy(loop) for _ in scripts]
        sender, receiver = (
            Endpoint(
                identity, "fed", roster, MqttTransport(url, address, proxy=proxy.url), MemoryStore(), role
            )
            for identity, address, role, proxy in (
                (site, Address("site"), "node", proxies[0]),
                (alice, Address("alice", "s1"), "researcher", proxies[1]),
            )
        )
        for each, proxy, script in zip((sender, receiver), proxies, scripts, strict=True):
            each.start(20)
            proxy.become(script)

        def delivered() -> int:
            again = sum(2 * script.done["replay"] + script.done.total() for script in scripts)
            return again + sum(proxy.mqtt.num_published for proxy in proxies)

        sent: Counter[str] = Counter()
        taken: Counter[str] = Counter()
        progress = time.monotonic()
        while delivered() < num_deliveries or taken != sent:
            if delivered() < num_deliveries and sent.total() - taken.total() < UNDER_WAY:
                for _ in range(BATCH):
                    text = secrets.token_hex(100)
                    sent[text] += 1
                    sender.send(receiver.address, Result(of="0", key="k", ok=False, reason="x", detail=text))
            sender.settle(sender.receive(0.01))
            messages = receiver.receive(0.05)
            receiver.settle(messages)
            taken.update(message.body.detail for message in messages if isinstance(message.body, Result))
            progress = time.monotonic() if messages else progress
            if time.monotonic() - progress > STUCK_S:
                break
        done = sum((script.done for script in scripts), Counter[str]())
        print(f"MQTT: {delivered()} deliveries, with {dict(done)}")
        twice = sum(number - 1 for number in taken.values() if number > 1)
        print(
            f"MQTT: {sent.total()} messages sent, {len(sent - taken)} missing, {twice} taken twice, "
            f"{len(taken - sent) - twice} that nobody sent; dropped: {dict(receiver.counters)}"
        )
        for each in (sender, receiver):
            each.stop()
        return taken == sent


def broker(processes: Processes, folder: Path) -> str:
    """Start a broker that lets everybody in; return its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nset_tcp_nodelay true\n")
    processes.start(program("mosquitto"), "-c", config, name="mosquitto")

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers, timeout_s=20, what="the broker to listen")
    return f"mqtt://127.0.0.1:{port}"


def main() -> None:
    """Run both; exit with 1 where either did not reach what it has to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--http", type=int, default=10_000, help="faulty requests")
    parser.add_argument("--mqtt", type=int, default=100_000, help="deliveries")
    asked = parser.parse_args()
    fine = True
    with tempfile.TemporaryDirectory(prefix="fedjob-bench-") as folder:
        for name, work, count in (("http", through_http, asked.http), ("mqtt", through_mqtt, asked.mqtt)):
            place = Path(folder) / name
            place.mkdir()
            began = time.monotonic()
            if count:
                fine = work(count, place) and fine
                print(f"{name.upper()}: {time.monotonic() - began:.0f} s", flush=True)
    sys.exit(not fine)


if __name__ == "__main__":
    main()
