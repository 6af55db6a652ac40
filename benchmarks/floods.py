"""Memory of a node through 100,000 unsolicited messages of every kind, as fast as they can be sent.

Reach: the node answers another researcher afterwards, and has grown by less than 50 MB.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fedjob.common.types import Address
from fedjob.messaging.messages import Ping, Pong
from fedjob.node.config.config import NodeConfig
from tests.floods import MB, flood, kinds_of_frames
from tests.integration.nodes import Federation, Researcher

NUM_MESSAGES = 100_000
REACH_MB = 50


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_MESSAGES
    with tempfile.TemporaryDirectory(prefix="fedjob-bench-") as folder:
        federation = Federation(Path(folder))
        try:
            _flooded(federation, count)
        finally:
            federation.close()


def _flooded(federation: Federation, count: int) -> None:
    node = federation.node("node1", NodeConfig(approval="on")).start()
    mallory = Researcher(federation, "mallory")
    to = str(mallory.endpoint.address)
    mallory.endpoint.stop()
    sender = federation.transport(Address("mallory", "s2"))
    sender.open(lambda who, data: None, timeout_s=5)
    frames = kinds_of_frames(federation.name, mallory.identity, "node1", to)
    flood(sender.send, "node1", frames, 500)
    before, file_before, began = _rss(), node.home.database.stat().st_size, time.monotonic()
    most = 0
    for _ in range(20):
        flood(sender.send, "node1", frames, count // 20)
        most = max(most, _rss())
    sent_s = time.monotonic() - began
    asked = time.monotonic()
    federation.ann.answer_to(federation.ann.send("node1", Ping()), Pong, 120)
    answered_s = time.monotonic() - asked
    with node.database() as database:
        row = database.row("SELECT count(*) AS n FROM outbox")
        waiting = 0 if row is None else row["n"]
    print(
        f"{count} messages of {len(frames)} kinds in {sent_s:.0f} s: the node (with its flooder in one process) grew by "
        f"{(most - before) / MB:.1f} MB at most, {(_rss() - before) / MB:.1f} MB at the end (reach {REACH_MB}); its "
        f"database by {(node.home.database.stat().st_size - file_before) / MB:.1f} MB; {waiting} answers wait; another "
        f"researcher's ping was answered after {answered_s:.2f} s"
    )


def _rss() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main()
