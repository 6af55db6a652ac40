"""Reliable delivery over an unreliable network: messages are resent until receipted, and accepted once.

A pure core, `state, commands = step(state, event)`: no sockets, files, clocks or
threads. The state is linear: `step` changes the state that it is given and returns
it, so the caller must not use the old one. That keeps a step at microseconds while a
thousand messages are on their way. Whatever must survive a crash is not here but in
the `CourierStore`; a new courier receives its outgoing messages as `Post` events.

Sending: a reliable message is transmitted, and again after 0.4 s, 0.8 s, ... up
to 60 s, each with jitter, until its addressee's receipt or its expiry; when the
connection comes back, at once. Receiving: a message whose key is new is delivered;
its receipt is sent only after `Settled`, which the owner reports after its durable
commit. A message that was settled before is receipted again and has no other
effect; one that the owner has yet to settle has no effect at all.

All times are seconds of one monotonic clock, passed in with the events.
"""

from __future__ import annotations

import heapq
import zlib
from collections import deque
from dataclasses import dataclass, field

from fedjob.common.types import Address

FIRST_RESEND_S = 0.4
RESEND_CAP_S = 60.0
RESEND_SPACING_S = 0.003
"""A resend waits at least so long for each letter on its way: of a thousand, the last is not late before its turn has come."""
JITTER_FRACTION = 0.25
MAX_REMEMBERED = 50_000


@dataclass(frozen=True, slots=True)
class Letter:
    """A message on its way, without its bytes; `to` is None for all parties."""

    id: str
    to: Address | None
    expires: float
    reliable: bool = True


@dataclass(frozen=True, slots=True)
class Post:
    """The owner posts a letter; posting one that is on its way changes nothing."""

    now: float
    letter: Letter


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The owner withdraws these letters, which are not sent any more."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConnectionChange:
    """The connection was made (again), or broke."""

    now: float
    up: bool


@dataclass(frozen=True, slots=True)
class Arrived:
    """A valid message arrived.

    Args:
        key: of the message, unique among those of all senders.
        id: of the message, for its receipt.
        reply_to: address to which its receipt is sent.
        expires: time at which its key may be forgotten.
        reliable: whether its sender waits for a receipt.
        known: whether the store has its key from before a restart.
    """

    now: float
    key: str
    id: str
    reply_to: Address | None
    expires: float
    reliable: bool
    known: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """The owner has processed these messages durably: their receipts may be sent."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Receipted:
    """A party sent receipts for these messages."""

    party: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; due at `next_wake`, harmless at any other time."""

    now: float


Event = Post | Withdraw | ConnectionChange | Arrived | Settled | Receipted | Tick


@dataclass(frozen=True, slots=True)
class Transmit:
    """Sign this message and hand it to the transport."""

    id: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """Give this message to the owner."""

    key: str


@dataclass(frozen=True, slots=True)
class Repeated:
    """This message was delivered before and is dropped."""

    key: str


@dataclass(frozen=True, slots=True)
class SendReceipt:
    """Send the sender a receipt: this message is durable here."""

    to: Address
    id: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """The addressee has sent its receipt: delete the message."""

    id: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The message expired without a receipt: delete it."""

    id: str


Command = Transmit | Deliver | Repeated | SendReceipt | Delivered | GiveUp


@dataclass(slots=True)
class _Travelling:
    letter: Letter
    due: float
    tries: int = 0


@dataclass(slots=True)
class _Taken:
    id: str
    reply_to: Address | None
    expires: float
    reliable: bool
    settled: bool = False


@dataclass(slots=True)
class CourierState:
    """The state of a courier; made by `CourierState(seed)`, read by `next_wake`, changed by `step` only.

    Args:
        seed: of the jitter, so that parties don't resend in step.
        limit: number of keys remembered; the oldest settled ones are forgotten first.
    """

    seed: int = 0
    limit: int = MAX_REMEMBERED
    up: bool = True
    travelling: dict[str, _Travelling] = field(default_factory=dict)
    taken: dict[str, _Taken] = field(default_factory=dict)
    _due: list[tuple[float, str]] = field(default_factory=list)
    _order: deque[str] = field(default_factory=deque)


def next_wake(state: CourierState) -> float | None:
    """Return the time at which a `Tick` is due; None if nothing is waited for."""
    due = state._due
    while due:
        at, id_ = due[0]
        entry = state.travelling.get(id_)
        if entry is not None and entry.due == at:
            return at
        heapq.heappop(due)  # receipted or moved since
    return None


def step(state: CourierState, event: Event) -> tuple[CourierState, list[Command]]:
    """Apply one event; return the state and the commands to carry out."""
    commands: list[Command] = []
    match event:
        case Arrived():
            _arrived(state, event, commands)
        case Post():
            _post(state, event, commands)
        case Settled():
            for key in event.keys:
                taken = state.taken.get(key)
                if taken is not None and not taken.settled:
                    taken.settled = True
                    _receipt(taken, commands)
        case Receipted():
            for id_ in event.ids:
                entry = state.travelling.get(id_)
                # A receipt counts only if the addressee itself sent it.
                if entry is not None and entry.letter.to is not None and entry.letter.to.party == event.party:
                    del state.travelling[id_]
                    commands.append(Delivered(id_))
        case Tick():
            _tick(state, event.now, commands)
        case ConnectionChange():
            _connection(state, event, commands)
        case Withdraw():
            for id_ in event.ids:
                state.travelling.pop(id_, None)
    return state, commands


def _post(state: CourierState, event: Post, commands: list[Command]) -> None:
    letter = event.letter
    if letter.id in state.travelling:
        return
    if event.now >= letter.expires:
        commands.append(GiveUp(letter.id))
        return
    if letter.reliable:
        entry = _Travelling(letter, letter.expires)
        state.travelling[letter.id] = entry
        if state.up:
            _transmit(state, entry, event.now, commands)
        else:
            heapq.heappush(
                state._due, (entry.due, letter.id)
            )  # it has expired by then, unless the connection comes back
    elif state.up:
        commands.append(Transmit(letter.id))


def _transmit(state: CourierState, entry: _Travelling, now: float, commands: list[Command]) -> None:
    id_ = entry.letter.id
    entry.tries += 1
    # The jitter depends on (seed, message, try) only, so that the order of calls does not matter.
    spread = zlib.crc32(f"{state.seed}/{id_}/{entry.tries}".encode()) / 2**32
    first_s = max(FIRST_RESEND_S, RESEND_SPACING_S * len(state.travelling))
    pause = min(RESEND_CAP_S, first_s * 2.0 ** min(entry.tries - 1, 20))
    entry.due = min(now + pause * (1.0 - JITTER_FRACTION * spread), entry.letter.expires)
    heapq.heappush(state._due, (entry.due, id_))
    if len(state._due) > 4 * len(state.travelling) + 1000:  # most entries are of letters receipted long ago
        state._due = [(e.due, i) for i, e in state.travelling.items()]
        heapq.heapify(state._due)
    commands.append(Transmit(id_))


def _tick(state: CourierState, now: float, commands: list[Command]) -> None:
    while (at := next_wake(state)) is not None and at <= now:
        id_ = heapq.heappop(state._due)[1]
        entry = state.travelling[id_]
        if now >= entry.letter.expires:
            del state.travelling[id_]
            commands.append(GiveUp(id_))
        elif state.up:
            _transmit(state, entry, now, commands)
        else:
            entry.due = entry.letter.expires
            heapq.heappush(state._due, (entry.due, id_))


def _connection(state: CourierState, event: ConnectionChange, commands: list[Command]) -> None:
    state.up = event.up
    if event.up:
        for id_ in list(state.travelling):
            entry = state.travelling[id_]
            if event.now >= entry.letter.expires:
                del state.travelling[id_]
                commands.append(GiveUp(id_))
            else:
                entry.tries = 0  # what was lost with the connection is no sign of a slow peer
                _transmit(state, entry, event.now, commands)


def _arrived(state: CourierState, event: Arrived, commands: list[Command]) -> None:
    taken = state.taken.get(event.key)
    if taken is None:
        taken = _Taken(event.id, event.reply_to, event.expires, event.reliable, settled=event.known)
        state.taken[event.key] = taken
        state._order.append(event.key)
        _forget(state, event.now)
        if not event.known:
            commands.append(Deliver(event.key))
            return
    commands.append(Repeated(event.key))
    if taken.settled:
        _receipt(taken, commands)


def _receipt(taken: _Taken, commands: list[Command]) -> None:
    if taken.reliable and taken.reply_to is not None:
        commands.append(SendReceipt(taken.reply_to, taken.id))


def _forget(state: CourierState, now: float) -> None:
    """Forget the oldest keys: expired ones, whose messages are refused anyway, and those over the limit."""
    order = state._order
    for _ in range(2):  # at most two for each new key, so that no step is long and the window still shrinks
        if len(order) < 2:
            return
        taken = state.taken[order[0]]
        if taken.expires > now and len(order) <= state.limit:
            return
        if taken.settled or not taken.reliable or len(order) > 2 * state.limit:
            del state.taken[order.popleft()]
        else:
            order.rotate(-1)  # the owner has yet to settle it
