"""Unsolicited messages of every kind that somebody enrolled, or a stranger, may send a node."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from fedjob.common.types import MAX_FRAME_BYTES, Address, Ref, new_job_id
from fedjob.identity.keys import Identity
from fedjob.messaging.frame import encode_frame
from fedjob.messaging.messages import (
    Body,
    End,
    Event,
    Message,
    Offer,
    Ping,
    Receipt,
    Result,
    Search,
    Task,
    encode_payload,
)

Frames = Callable[[int], bytes]
"""Return the frame of a number: no two are the same."""

MB = 1 << 20


def kinds_of_frames(federation: str, identity: Identity, node: str, reply_to: str) -> dict[str, Frames]:
    """Return name -> frames of that kind.

    Args:
        identity: of the sender, a researcher of the federation.
    """
    stranger = Identity.generate("stranger")
    job = new_job_id()

    def signed(body: Callable[[int], Body], by: Identity = identity, **header: Any) -> Frames:
        def frame(number: int) -> bytes:
            now = time.time()
            fields = {
                "to": f"{node}/main",
                "id": secrets.token_hex(16),
                "reply_to": reply_to,
                "job": job,
                "round": number,
                "step": "train",
                "epoch": 1,
                "issued": now,
                "expires": now + 3600,
                **header,
            }
            payload = encode_payload(Message(**fields, body=body(number), sender=by.party))
            return encode_frame(by, federation, payload)

        return frame

    def ref(number: int) -> Ref:
        return Ref(f"{number:064x}", 100)

    again = signed(lambda number: Ping())(0)
    toy = {"dataset": "toy", "protocol": "fedavg", "entry": "Odd"}
    return {
        "pings": signed(lambda number: Ping()),
        "searches": signed(lambda number: Search(tags=[f"t{number}"])),
        "searches for mocks": signed(lambda number: Search(name="toy", mock=True)),
        "offers of no dataset": signed(lambda number: Offer(dataset=f"d{number}", protocol="fedavg")),
        "offers of plans that are nowhere": signed(lambda number: Offer(**toy, plan=ref(number))),
        "offers of no rounds": signed(
            lambda number: Offer(**toy, plan=ref(number), rounds=-(number % 2), cost={"down": 1, "up": 1})
        ),
        "large offers": signed(lambda number: Offer(**toy, plan=ref(number), note="x" * 40_000)),
        "tasks on no dataset": signed(lambda number: Task(dataset=f"d{number}", protocol="fedavg")),
        "tasks that nobody allowed": signed(lambda number: Task(**toy, plan=ref(number))),
        "large tasks": signed(lambda number: Task(**toy, plan=ref(number), props={"x": "y" * 40_000})),
        "ends of no job": signed(lambda number: End(outcome="failed", keep_states=["a" * 32] * 100)),
        "receipts of nothing": signed(lambda number: Receipt(of=[f"{number:032x}"] * 300)),
        "events": signed(lambda number: Event(type="log", data={"text": "x" * 10_000})),
        "results": signed(lambda number: Result(of="0" * 32, key="k", ok=True)),
        "one frame again and again": lambda number: again,
        "frames of strangers": signed(lambda number: Ping(), by=stranger),
        "frames for others": signed(lambda number: Ping(), to="other/main"),
        "frames that have expired": signed(lambda number: Ping(), expires=1.0),
        "forged signatures": lambda number: again[:-200] + secrets.token_bytes(200),
        "bytes that are nothing": lambda number: secrets.token_bytes(2000),
        "lists in lists": lambda number: encode_frame(identity, federation, b"\x91" * 60_000),
        "frames that are too long": lambda number: b"x" * (MAX_FRAME_BYTES + 1),
    }


def flood(send: Callable[[Address, bytes], object], node: str, frames: dict[str, Frames], count: int) -> None:
    """Send so many frames, of all kinds in turn, as fast as they are made."""
    kinds = list(frames.values())
    for number in range(count):
        send(Address(node), kinds[number % len(kinds)](number))
