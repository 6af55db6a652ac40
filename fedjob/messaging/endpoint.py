"""A party's end of the wire: courier, identity, roster, transport and store put together.

One thread owns an endpoint (a node's main loop, a researcher's session); only
`wake` may be called from others. The owner's turn reads

    messages = endpoint.receive(timeout_s)          # everything that is there
    with store.transaction():                       # one durable commit for all of it
        ... act; replies: outgoing = endpoint.prepare(...); store.add(outgoing)
        store.mark_seen(seen_entries(messages))
    endpoint.post(outgoing)                         # now they travel, until receipted
    endpoint.settle(messages)                       # now the senders may forget

An owner without transactions calls `send` and `settle`, which do the same.
"""

from __future__ import annotations

import itertools
import math
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from fedjob.common.types import Address
from fedjob.identity.audit_heads import AuditHead
from fedjob.identity.keys import Identity
from fedjob.identity.roster import Role, Roster
from fedjob.messaging import courier
from fedjob.messaging.frame_checks import (
    CLOCK_TOLERANCE_S,
    MAX_TTL_S,
    Dropped,
    FrameChecks,
    is_reliable,
    reply_address,
)
from fedjob.messaging.frame_sender import FrameSender
from fedjob.messaging.inbox import Inbox
from fedjob.messaging.messages import (
    MAX_RECEIPTS,
    Answer,
    Body,
    Found,
    Message,
    Pong,
    Receipt,
    Result,
    attached_bytes,
)
from fedjob.messaging.outbox import CourierStore, Outgoing, seen_key
from fedjob.messaging.receipts import OwedReceipts
from fedjob.messaging.traffic import Traffic
from fedjob.messaging.transport.base import Transport

MAX_BATCH = 256
RELIABLE_TTL_S = 3600.0
PASSING_TTL_S = 60.0


def seen_entries(messages: Iterable[Message]) -> dict[str, float]:
    """Return the entries for `CourierStore.mark_seen` of these messages, for the owner's transaction.

    A key is remembered for as long as its message would be accepted.
    """
    return {seen_key(m): m.expires + CLOCK_TOLERANCE_S for m in messages if is_reliable(m.body)}


class Endpoint:
    """A sender and receiver of messages for one address.

    Args:
        federation: name of the federation, which every frame carries.
        role: of this party, see `FrameChecks`.
        on_receipt: called in `receive` with the id of a message that its addressee made durable; maybe twice.
        on_give_up: called in `receive` with the id of a message that expired undelivered.
        audit_head: returns the head of this party's audit chain, for every reply; None for a party without one.
    """

    def __init__(
        self,
        identity: Identity,
        federation: str,
        roster: Roster,
        transport: Transport,
        store: CourierStore,
        role: Role,
        *,
        on_receipt: Callable[[str], None] | None = None,
        on_give_up: Callable[[str], None] | None = None,
        audit_head: Callable[[], AuditHead] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.address = transport.address
        self.counters: Counter[str] = Counter()
        self.misdated: dict[str, float] = {}
        """Sender -> seconds by which its last message, which was dropped for that, is dated ahead of this clock."""
        self.plain_from: set[str] = set()
        """Senders whose last message was dropped because it was not encrypted."""
        self.traffic = Traffic()
        self._identity = identity
        self._sender = FrameSender(identity, federation, roster, transport, self.counters)
        self._transport = transport
        self._store = store
        self._gate = FrameChecks(federation, transport.address, role, roster, identity.sealing)
        self._on_receipt = on_receipt
        self._on_give_up = on_give_up
        self._audit_head = audit_head
        self._clock, self._wall = clock, wall
        self._seq = itertools.count(1)
        self._courier = courier.CourierState(seed=secrets.randbits(32), up=False)
        self._posted: dict[str, Outgoing] = {}
        self._receipts = OwedReceipts()
        self._notices = False
        # Shared with the network's thread, under the condition's lock.
        self._arrival = threading.Condition()
        self._inbox = Inbox()
        self._connections: deque[bool] = deque(maxlen=1000)
        self._woken = False

    # --- life ------------------------------------------------------------------------------

    def start(self, timeout_s: float = 10.0) -> None:
        """Connect, and send the messages that the store still holds.

        Raises:
            BrokerUnreachable: see `Transport.open`.
        """
        for outgoing in self._store.outgoing():
            self.post(outgoing)  # the courier keeps it until the connection stands
        self._transport.open(self._enqueue, timeout_s=timeout_s, on_connection=self._note_connection)
        self._follow_connection()

    def stop(self) -> None:
        """Disconnect from the broker; messages without a receipt stay in the store."""
        self._send_receipts(math.inf)
        self._transport.close()

    @property
    def connected(self) -> bool:
        """True if the connection to the broker stands."""
        return self._transport.connected()

    @property
    def encrypted(self) -> bool:
        """True if every message is encrypted for its addressee, and plain ones are dropped."""
        return self._gate.encrypted

    @encrypted.setter
    def encrypted(self, required: bool) -> None:
        self._gate.encrypted = self._sender.encrypted = required

    @property
    def broker_url(self) -> str:
        """The URL by which the broker is reached; empty where there is none."""
        return self._transport.url

    @property
    def trouble(self) -> str:
        """The reason why the connection does not stand, in words; empty while it does."""
        return self._transport.trouble

    @property
    def twin_seen(self) -> float:
        """When another daemon of this party was seen last, seconds since 1970; 0 for never."""
        return self._transport.twin_seen

    def announce(self) -> None:
        """Announce a daemon's presence once more."""
        self._transport.announce()

    def presence(self) -> dict[str, bool]:
        """Return node -> whether it announced itself as present; this is only a hint."""
        return self._transport.presence()

    # --- sending ------------------------------------------------------------------------------

    def send(self, to: Address | None, body: Body, **header: Any) -> str:
        """Send a message and return its id; the arguments are those of `prepare`."""
        outgoing = self.prepare(to, body, **header)
        if outgoing.reliable:
            self._store.add(outgoing)
        self.post(outgoing)
        return outgoing.id

    def prepare(
        self,
        to: Address | None,
        body: Body,
        *,
        job: str = "",
        task: str = "",
        round: int = 0,
        step: str = "",
        attempt: int = 0,
        epoch: int = 0,
        reply_to: str = "",
        reliable: bool | None = None,
        ttl_s: float | None = None,
        id: str = "",
    ) -> Outgoing:
        """Encode a message for `store.add` in the owner's transaction and `post` after it.

        Args:
            to: None for everybody (pings and searches only).
            reply_to: empty for this address.
            reliable: resend until receipted; None decides by kind, and kinds that are
                never receipted are never resent.
            ttl_s: seconds after which the message expires; None for an hour, or a
                minute where it is not receipted.
            id: 32 hex digits; empty for random ones.

        Raises:
            EncodeError: the body is not plain data, or too large for a frame.
        """
        lasting = is_reliable(body) and reliable is not False
        ttl_s = min(ttl_s if ttl_s is not None else (RELIABLE_TTL_S if lasting else PASSING_TTL_S), MAX_TTL_S)
        issued = self._wall()
        if self._audit_head is not None and isinstance(body, (Pong, Found, Answer, Result)):
            body = replace(body, audit=self._audit_head())
        message = Message(
            to="" if to is None else str(to), id=id or secrets.token_hex(16), body=body, sender=self._identity.party,
            reply_to=reply_to or str(self.address), job=job, task=task, round=round, step=step, attempt=attempt,
            epoch=epoch, seq=next(self._seq), issued=issued, expires=issued + ttl_s,
        )  # fmt: skip
        payload = self._receipts.encode(message, to)
        num_attached = attached_bytes(body)
        return Outgoing(message.id, to, payload, message.expires, lasting, job, task, body.kind, num_attached)

    def post(self, outgoing: Outgoing) -> None:
        """Transmit a prepared message; a reliable one again and again until its receipt.

        It never waits for the network. Posting a message that is on its way does nothing.
        """
        if outgoing.id in self._posted:
            return
        self._follow_connection()
        now = self._clock()
        self._posted[outgoing.id] = outgoing
        expires = now + (outgoing.expires - self._wall())
        self._step(
            courier.Post(now, courier.Letter(outgoing.id, outgoing.to, expires, outgoing.reliable)), None
        )
        if not outgoing.reliable:
            self._posted.pop(outgoing.id, None)

    def withdraw(self, ids: Iterable[str]) -> None:
        """Stop resending these messages and drop them from the store."""
        gone = tuple(ids)
        self._step(courier.Withdraw(gone), None)
        for id_ in gone:
            self._posted.pop(id_, None)
        self._store.drop(gone)

    def undelivered(self) -> int:
        """Return how many reliable messages wait for their receipts."""
        return len(self._posted)

    # --- receiving ------------------------------------------------------------------------------

    def receive(self, timeout_s: float) -> list[Message]:
        """Return all messages that have arrived, verified and without duplicates; send what is due.

        It returns as soon as there is a message, a receipt, an expiry or a `wake`,
        and at the latest after `timeout_s`, then with an empty list.
        """
        deadline = self._clock() + timeout_s
        messages: list[Message] = []
        while True:
            frames, woken = self._drain()
            self._follow_connection()
            now = self._clock()
            for sender, data in frames:
                self._take(sender, data, now, messages)
            due = courier.next_wake(self._courier)
            if due is not None and due <= now:
                self._step(courier.Tick(now), None)
                due = courier.next_wake(self._courier)
            self._send_receipts()
            if messages or woken or self._notices or now >= deadline:
                self._notices = False
                return messages
            self._wait(min(deadline, self._receipts.due, math.inf if due is None else due))

    def wake(self) -> None:
        """Make `receive` return now; may be called from any thread."""
        with self._arrival:
            self._woken = True
            self._arrival.notify()

    def settle(self, messages: Iterable[Message]) -> None:
        """Record that these messages are durably processed: remember their ids, and send receipts, see `OwedReceipts`."""
        messages = list(messages)
        fresh = {key: at for key, at in seen_entries(messages).items() if not self._store.seen(key)}
        if fresh:
            self._store.mark_seen(fresh)
        self._step(courier.Settled(tuple(seen_key(m) for m in messages)), None)
        self._receipts.schedule(messages, self._clock())
        self._send_receipts()

    # --- inside ------------------------------------------------------------------------------

    def _enqueue(self, sender: str, data: bytes) -> None:
        """Queue a frame that arrived on the network's thread."""
        with self._arrival:
            if trouble := self._inbox.put(sender, data):
                self.counters[trouble] += 1
            else:
                self._arrival.notify()

    def _note_connection(self, up: bool) -> None:
        with self._arrival:
            self._connections.append(up)
            self._arrival.notify()

    def _follow_connection(self) -> None:
        """Pass the state of the connection to the courier, and every break since the last call."""
        while self._connections:
            self._step(courier.ConnectionChange(self._clock(), self._connections.popleft()), None)

    def _drain(self) -> tuple[list[tuple[str, bytes]], bool]:
        with self._arrival:
            frames = self._inbox.take(MAX_BATCH)
            woken, self._woken = self._woken, False
            return frames, woken

    def _wait(self, until: float) -> None:
        with self._arrival:
            if not (self._inbox or self._connections or self._woken):
                self._arrival.wait(max(0.0, until - self._clock()))

    def _take(self, sender: str, data: bytes, now: float, messages: list[Message]) -> None:
        wall = self._wall()
        try:
            message = self._gate.open(sender, data, now=now, wall=wall)
        except Dropped as drop:
            self.counters[drop.cause] += 1
            if abs(drop.ahead_s) > CLOCK_TOLERANCE_S:
                self.misdated[drop.sender] = drop.ahead_s
            if drop.cause == "plain":
                self.plain_from.add(drop.sender)
            return
        self.misdated.pop(message.sender, None)
        self.plain_from.discard(message.sender)
        key = seen_key(message)
        reliable = is_reliable(message.body)
        taken = key in self._courier.taken
        known = reliable and not taken and self._store.seen(key)
        num_attached = 0 if taken or known else attached_bytes(message.body)
        self.traffic.note_frame(message.job, "in", message.body.kind, len(data), num_attached, wall)
        if isinstance(message.body, (Pong, Found)):
            self._transport.note_presence(message.sender)
        if message.receipts:
            self._step(courier.Receipted(message.sender, tuple(message.receipts)), None)
        if isinstance(message.body, Receipt):
            self._step(courier.Receipted(message.sender, tuple(message.body.of)), None)
            return
        arrived = courier.Arrived(
            now,
            key,
            message.id,
            reply_address(message),
            now + message.expires - wall + CLOCK_TOLERANCE_S,
            reliable,
            known,
        )
        self._step(arrived, message, messages)

    def _step(
        self, event: courier.Event, message: Message | None, messages: list[Message] | None = None
    ) -> None:
        self._courier, commands = courier.step(self._courier, event)
        forget: list[str] = []
        for command in commands:
            match command:
                case courier.Transmit(id=id_):
                    outgoing = self._posted.get(id_)
                    if outgoing is None:
                        continue  # withdrawn by a callback a moment ago
                    size_bytes = self._sender.send(outgoing.to, outgoing.payload)
                    if size_bytes:
                        sizes = size_bytes, outgoing.attached_bytes
                        self.traffic.note_frame(outgoing.job, "out", outgoing.kind, *sizes, self._wall())
                        if id_ in self._posted:  # sent again it counts as a message alone
                            self._posted[id_] = replace(outgoing, attached_bytes=0)
                case courier.Deliver():
                    if message is not None and messages is not None:  # only `_take` leads here
                        messages.append(message)
                case courier.Repeated():
                    self.counters["replayed"] += 1
                    self._receipts.hurry()  # its sender waits for one
                case courier.SendReceipt(to=to, id=id_):
                    self._receipts.add(to, id_)
                case courier.Delivered(id=id_):
                    forget.append(id_)
                    self._notice(self._on_receipt, id_)
                case courier.GiveUp(id=id_):
                    forget.append(id_)
                    self.counters["given_up"] += 1
                    self._notice(self._on_give_up, id_)
        if forget:
            for id_ in forget:
                self._posted.pop(id_, None)
            self._store.drop(forget)

    def _notice(self, callback: Callable[[str], None] | None, id_: str) -> None:
        if callback is not None:
            self._notices = True
            callback(id_)

    def _send_receipts(self, now: float | None = None) -> None:
        """Send the receipts that are due, many ids in one frame; a lost one is replaced when its message is resent."""
        for to, ids in self._receipts.take_due(self._clock() if now is None else now).items():
            for start in range(0, len(ids), MAX_RECEIPTS):
                receipt = self.prepare(to, Receipt(of=ids[start : start + MAX_RECEIPTS]))
                self._sender.send(to, receipt.payload)
