"""The heads of the nodes' audit chains that came with a job's replies: evidence against a chain that is rewritten.

An append-only file of lines, each a `HeldHead`, which its owner makes durable before the reply that brought
it is confirmed. Two heads of one node contradict each other if they name
different records by one number, or if the later one has the lower number. Later is what answers
a question that was asked when the other one was known: clocks and the order of arrival
prove nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedjob.common.errors import DecodeError
from fedjob.common.files import fsync_together, private
from fedjob.identity.audit_heads import HeldHead, read_held_head

MAX_HEADS = 100_000
"""Heads of one node that a job keeps; of further ones the newest is compared and not written."""


@dataclass(slots=True)
class _Chain:
    """The heads of one node so far."""

    hashes: dict[int, str] = field(default_factory=dict)
    newest: int = 0
    num_lines: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSummary:
    """The audit chain of one node, as its replies to a job showed it.

    Args:
        seq, hash: of the newest head.
        count: number of different heads that are kept.
        contradictions: what shows that the chain was rewritten or cut back, in words; empty where nothing does.
    """

    node: str
    seq: int
    hash: str
    count: int
    contradictions: tuple[str, ...]


class AuditHeads:
    """The heads that a job holds, and the place where they are kept.

    Args:
        path: of the file; it is made with the first head.
        most: heads of one node that are kept.
    """

    def __init__(self, path: Path, *, most: int = MAX_HEADS) -> None:
        self._path = path
        self._most = most
        self._chains: dict[str, _Chain] = {}
        for head in read_heads(path):
            self._compare(head)
            self._chains[head.node].num_lines += 1
        # a process that was killed may have left heads that no disk has, and they are not written again
        self._unsynced: tuple[Path, ...] = (path, path.parent) if self._chains else ()

    def newest(self, node: str) -> int:
        """Return the number of the newest record of a node's chain that is known; 0 where none is."""
        return self._chains[node].newest if node in self._chains else 0

    def keep(self, heads: Iterable[HeldHead]) -> dict[str, list[str]]:
        """Write new heads down; return node -> what contradicts the heads before, in words.

        They are durable after the next `sync`.
        """
        lines: list[str] = []
        found: dict[str, list[str]] = {}
        for head in heads:
            if not head.is_signed:
                text = "the head of its audit log that it sent is not signed by its key"
                found.setdefault(head.node, []).append(text)
                continue
            is_known = head.node in self._chains and head.seq in self._chains[head.node].hashes
            if problem := self._compare(head):
                found.setdefault(head.node, []).append(problem)
            chain = self._chains[head.node]
            if (problem or not is_known) and chain.num_lines < self._most:
                chain.num_lines += 1
                lines.append(head.to_line())
        if lines:
            self._append("".join(line + "\n" for line in lines).encode())
        return found

    def sync(self, *descriptors: int) -> None:
        """Make what was written durable, and other open files along with it."""
        if self._unsynced or descriptors:
            paths, self._unsynced = self._unsynced, ()  # what is written meanwhile waits for the next sync
            try:
                fsync_together(paths, *descriptors)
            except OSError:
                self._unsynced = (*paths, *self._unsynced)
                raise

    def _compare(self, head: HeldHead) -> str:
        """Take a head into account; return what it contradicts, in words."""
        chain = self._chains.setdefault(head.node, _Chain())
        problem = contradiction(chain.hashes, head)
        if len(chain.hashes) < self._most:
            chain.hashes.setdefault(head.seq, head.hash)
        chain.newest = max(chain.newest, head.seq)
        return problem

    def _append(self, data: bytes) -> None:
        fresh = not self._path.exists()
        with open(self._path, "ab", buffering=0, opener=private) as file:
            file.write(data)
        self._unsynced = (self._path, self._path.parent) if fresh else self._unsynced or (self._path,)


def contradiction(hashes: Mapping[int, str], head: HeldHead) -> str:
    """Return in words what a head contradicts; empty where it fits to the others.

    Args:
        hashes: of the heads before, number -> hash.
    """
    known = hashes.get(head.seq, head.hash)
    if known != head.hash:
        return (
            f"record {head.seq} of its audit log was {known[:16]}... and is {head.hash[:16]}... now: "
            "the log was rewritten"
        )
    if head.seq < head.asked_at:
        return (
            f"its audit log had {head.asked_at} records when it was asked, and {head.seq} when it answered: "
            "it was cut back, or an older copy of the node's home took its place"
        )
    return ""


def read_heads(path: Path) -> list[HeldHead]:
    """Return the heads in a file, oldest first; what a power cut left of a line is left out."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(read_held_head(line))
        except DecodeError:
            continue
    return found


def summaries(path: Path) -> list[ChainSummary]:
    """Return what a job's heads say about each node's audit chain, in the order of the nodes' names."""
    by_node: dict[str, list[HeldHead]] = {}
    for head in read_heads(path):
        by_node.setdefault(head.node, []).append(head)
    found = []
    for node, heads in sorted(by_node.items()):
        hashes: dict[int, str] = {}
        contradictions: Counter[str] = Counter()
        for head in heads:
            if problem := contradiction(hashes, head):
                contradictions[problem] += 1
            hashes.setdefault(head.seq, head.hash)
        newest = max(heads, key=lambda head: head.seq)
        found.append(
            ChainSummary(
                node=node,
                seq=newest.seq,
                hash=newest.hash,
                count=len({(head.seq, head.hash) for head in heads}),
                contradictions=tuple(contradictions),
            )
        )
    return found
