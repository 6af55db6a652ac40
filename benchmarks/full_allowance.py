"""The time that an honest researcher waits for a node's answer while another party sends that node all that it may.

    python benchmarks/full_allowance.py [--seconds 20] [--limit NAME=VALUE ...]

An enrolled party sends signed messages of nearly 64 KiB, as fast as the hub takes them; meanwhile a researcher searches again and
again. Printed are the median and the largest time of a search, and what was sent. A limit is a setting of the hub, such
as `message_bytes_per_s=4194304`. Reach: no search takes longer than 2 s.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import secrets
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.queues import SimpleQueue
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._federation import BenchFederation, federation, spread
from fedjob.common.types import Ref, new_job_id
from fedjob.hub.config.limits import HubLimits
from fedjob.identity.keys import Identity
from fedjob.identity.membership import enrol
from fedjob.messaging.frame import encode_frame
from fedjob.messaging.messages import Message, Offer, encode_payload
from tests.bad_mood import Honest
from tests.bare_mqtt import BareClient, connect, packet, text

NODE = "node-00"
NOTE_CHARS = 60_000
REACH_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--limit", action="append", default=[], metavar="NAME=VALUE")
    given = parser.parse_args()
    for limit in given.limit:
        name, _, value = limit.partition("=")
        assert hasattr(HubLimits(), name), name
        os.environ[f"FEDJOB_{name.upper()}"] = value
    with federation(1) as bench:
        _measure(bench, given.seconds)


def _measure(bench: BenchFederation, seconds: float) -> None:
    def search() -> None:
        assert len(bench.session.nodes(timeout_s=60)) == 1

    with Honest(search) as alone:
        time.sleep(3)
    running = json.loads((bench.root / "hub" / "running.json").read_text())
    spawn = multiprocessing.get_context("spawn")
    done: SimpleQueue[int] = spawn.SimpleQueue()
    flooder = spawn.Process(target=_flood, args=(running["url"], running["broker_url"], seconds, done))
    flooder.start()
    with Honest(search) as honest:
        flooder.join(seconds + 60)
        time.sleep(1)
    sent = done.get()
    print(f"{sent / (1 << 20):.0f} MiB sent in {seconds:.0f} s, {sent / (1 << 20) / seconds:.1f} MiB/s")
    for name, each in (("before", alone), ("meanwhile", honest)):
        print(f"a search {name}: {spread(each.took_s)}")
    worst = max(honest.took_s)
    print(f"{'within' if worst <= REACH_S else 'BEYOND'} the reach of {REACH_S:g} s: {worst:.2f} s")


def _flood(url: str, broker_url: str, seconds: float, done: SimpleQueue[int]) -> None:
    """Send offers to the node, all that the hub takes."""
    mallory = Identity.generate("mallory")
    member = enrol(url, "mallory", "researcher", mallory.public_keys)
    host, port = broker_url.removeprefix("mqtt://").split(":")
    topic, job, sent = text(f"fedjob/1/to/{NODE}/main/from/mallory"), new_job_id(), 0
    with BareClient(host, int(port), timeout_s=120) as client:
        assert client.login(connect("mallory", member.broker_password)).code == 0
        threading.Thread(target=_read_all, args=(client,), daemon=True).start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            frame = _offer(mallory, member.federation, job)
            client.send(packet(0x32, topic + (sent % 60_000 + 1).to_bytes(2, "big") + frame))  # QoS 1
            sent += 1
    done.put(sent * len(frame))


def _read_all(client: BareClient) -> None:
    with suppress(OSError):
        while client.receive():
            pass


def _offer(by: Identity, federation_name: str, job: str) -> bytes:
    now = time.time()
    offer = Offer(
        dataset="bench", protocol="fedavg", entry="Net", plan=Ref("0" * 64, 100), note="x" * NOTE_CHARS
    )
    message = Message(
        to=f"{NODE}/main",
        id=secrets.token_hex(16),
        reply_to="mallory/s1",
        job=job,
        issued=now,
        expires=now + 3600,
        body=offer,
        sender=by.party,
    )
    return encode_frame(by, federation_name, encode_payload(message))


if __name__ == "__main__":
    main()
