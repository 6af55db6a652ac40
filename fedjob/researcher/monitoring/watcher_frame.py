"""The signed frame for a job's watchers: its state, and the objects that hold its events. Pure.

It travels as a signed frame of at most 64 KiB, see docs/repository.md. The
events are cut into segments of whole lines. Each publication adds one, and takes
smaller ones before it along, so that there are few however many there were.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.errors import DecodeError, NotEncrypted, NotPermitted
from fedjob.common.types import MAX_FRAME_BYTES, Ref
from fedjob.identity.keys import Identity
from fedjob.messaging.frame import decode_frame, encode_frame
from fedjob.messaging.sealed_notice import open_notice, seal_notice, sealed_parts
from fedjob.messaging.traffic import Tally
from fedjob.researcher.monitoring.summary import JobSummary

VERSION = 1
MAX_SEGMENT_BYTES = 32 << 20
MAX_SEGMENTS = 256
MAX_SEALED_SEGMENTS = 64
"""Segments that a frame names at most, and an encrypted one; of a longer log watchers see the last ones."""

MAX_NODES = 256
MAX_TEXT_CHARS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of a job's event log: the bytes from `start` to `end`."""

    start: int
    end: int
    ref: Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class WatcherFrame:
    """A job as its owner shows it.

    Args:
        count: grows with every publication; watchers refuse an older one.
        time: of the publication, seconds since 1970 by the owner's clock.
        nodes: the first of them, where there are very many.
        segments: of the event log, in order, without gaps; from its beginning unless it is very long.
    """

    job: str
    owner: str
    count: int
    time: float
    version: int = VERSION
    name: str = ""
    protocol: str = ""
    plan: str = ""
    state: str = "draft"
    reason: str = ""
    detail: str = ""
    attempt: int = 0
    rounds: int = 1
    nodes: list[str] = field(default_factory=list)
    created: str = ""
    traffic: list[Tally] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        facts: JobSummary,
        *,
        owner: str,
        count: int,
        time: float,
        traffic: Sequence[Tally],
        segments: Sequence[Segment],
    ) -> WatcherFrame:
        """Return the frame of a job, its texts and lists cut to their limits.

        Args:
            owner: the party that signs it.
        """
        return cls(
            job=facts.id,
            owner=owner,
            count=count,
            time=time,
            name=facts.name[:MAX_TEXT_CHARS],
            protocol=facts.protocol,
            plan=facts.plan,
            state=str(facts.state),
            reason=facts.reason[:MAX_TEXT_CHARS],
            detail=facts.detail[:MAX_TEXT_CHARS],
            attempt=facts.attempt,
            rounds=facts.rounds,
            nodes=list(facts.nodes[:MAX_NODES]),
            created=facts.created,
            traffic=list(traffic),
            segments=list(segments[-MAX_SEGMENTS:]),
        )

    @property
    def facts(self) -> JobSummary:
        """The facts of the job that are shown; the others come from its events."""
        return JobSummary(
            id=self.job,
            name=self.name,
            protocol=self.protocol,
            plan=self.plan,
            state=self.state,
            reason=self.reason,
            detail=self.detail,
            rounds=self.rounds,
            attempt=self.attempt,
            nodes=tuple(self.nodes),
            owner=self.owner,
            created=self.created,
        )

    def frame(self, identity: Identity, federation: str, readers: Mapping[str, str] | None = None) -> bytes:
        """Return it signed by its owner.

        Args:
            readers: party -> its public key to be written to, for a frame that only these can read.
        """
        payload = pack(to_plain(self))
        if readers is not None:
            payload = pack(to_plain(replace(self, segments=self.segments[-MAX_SEALED_SEGMENTS:])))
            # the owner reads it, too
            readers = {**readers, identity.party: identity.sealing.public_key_hex}
            payload = seal_notice(payload, [federation, identity.party, self.job], readers)
        return encode_frame(identity, federation, payload)


def open_frame(
    data: bytes,
    federation: str,
    job: str,
    key_of: Callable[[str], str | None],
    reader: Identity,
    *,
    encrypted: bool = False,
) -> WatcherFrame:
    """Return what a frame shows, if the job's owner signed it.

    Args:
        key_of: returns a researcher's public key in hex, None for somebody unknown.
        reader: this party, for whom it may be encrypted.
        encrypted: a plain one is refused.

    Raises:
        NotPermitted: it is not signed by the job's owner, or is about another job.
        NotEncrypted: it is plain, and this side requires encryption.
        DecodeError: it shows something else, or a newer fedjob wrote it.
    """
    frame = decode_frame(data)
    key = key_of(frame.sender)
    if frame.federation != federation or key is None or not frame.signed_by(key):
        raise NotPermitted(f"the published state of {job} is not signed by a researcher of this federation")
    payload = frame.payload
    if (parts := sealed_parts(payload)) is not None:
        payload = open_notice(*parts, [federation, frame.sender, job], reader.party, reader.sealing)
    elif encrypted:
        raise NotEncrypted(
            f"the published state of {job} is not encrypted, and this side requires it: set `encryption = on` at "
            f"{frame.sender}, or `off` here"
        )
    plain = unpack(payload, limit_bytes=MAX_FRAME_BYTES)
    version = plain.get("version") if isinstance(plain, dict) else None
    if not isinstance(version, int) or version > VERSION:
        raise DecodeError(
            f"the published state of {job} is of a newer fedjob (version {str(version)[:20]}): update this one"
        )
    shown = from_plain(WatcherFrame, plain)
    if shown.job != job or shown.owner != frame.sender:
        raise NotPermitted(f"the published state of {job} is about another job or owner")
    return shown


def cut(spans: Sequence[tuple[int, int]], end: int) -> list[tuple[int, int]]:
    """Return how a log that has grown to `end` is cut: one span more, merged with smaller ones before it."""
    found = list(spans)
    start = found[-1][1] if found else 0
    if end > start:
        found.append((start, end))
    while len(found) > 1:
        (begin, middle), (_, last) = found[-2:]
        if middle - begin > 2 * (last - middle) or last - begin > MAX_SEGMENT_BYTES:
            break
        found[-2:] = [(begin, last)]
    return found


ANSWERS = ("rows", "value")
"""Fields of a node's `result` event that are the researcher's alone."""


def without_answers(lines: bytes) -> bytes:
    """Return whole lines of a log without what nodes answered, each as long as before.

    The lengths stay, because readers find their way through the log by its bytes.
    """
    return b"\n".join(_without(line) if b'"result"' in line else line for line in lines.split(b"\n"))


def _without(line: bytes) -> bytes:
    try:
        event = json.loads(line)
    except ValueError:  # a power cut's remains; nobody can read an answer out of them
        return b" " * len(line)
    if not isinstance(event, dict) or event.get("type") != "result" or not event.get("node"):
        return line
    body = event.get("body")
    if not isinstance(body, dict) or not any(name in body for name in ANSWERS):
        return line
    event["body"] = {name: value for name, value in body.items() if name not in ANSWERS}
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode().ljust(len(line))
