"""Logs that nodes' owners release after a job has ended, fetched when somebody looks at the job."""

from __future__ import annotations

import time
from collections.abc import Collection

from fedjob.common.codec import pack
from fedjob.common.types import Address, party_of
from fedjob.messaging.messages import Event, Message, Ping, Pong
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.federation.event_allowance import EventAllowance
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder

WITHIN_S = 3.0

MAX_LOG_BYTES = 64 << 20
"""Of the released logs of one node."""


def fetch_released(session: Connection, folder: JobFolder, job: str, nodes: Collection[str]) -> int:
    """Ask nodes for released logs of an ended job, and add them to its events; return how many came.

    Raises:
        JobError: somebody runs the job, and receives the logs without this.
    """
    received: list[Message] = []
    parties, allowance = {party_of(node) for node in nodes}, EventAllowance(MAX_LOG_BYTES, MAX_LOG_BYTES)
    with session.lock:
        endpoint = session.endpoint
        asked = {endpoint.send(Address(party), Ping(), job=job) for party in parties}
        answered: set[str] = set()
        deadline = time.monotonic() + WITHIN_S
        while len(answered) < len(asked) and (left := deadline - time.monotonic()) > 0:
            messages = endpoint.receive(left)
            endpoint.settle(messages)
            for message in messages:
                body = message.body
                if isinstance(body, Pong) and body.of in asked:
                    answered.add(body.of)
                elif not (isinstance(body, Event) and body.type == "log" and message.job == job):
                    continue
                elif message.sender in parties and allowance.admits(message.sender, time.monotonic()):
                    allowance.charge(message.sender, len(pack(body.data)))
                    received.append(message)
        endpoint.withdraw(asked)
    if received:
        with folder.locked(), EventLog(folder.events, job) as log:
            for message in received:
                assert isinstance(message.body, Event)
                log.record(
                    "log", message.body.data, round_=message.round, node=message.sender, task=message.task
                )
    return len(received)
