"""One probe: a piece of plan code that tries to do what no owner allowed."""

from __future__ import annotations

from dataclasses import dataclass, field

SHARED, SAME, ALONE, PAIR = "shared", "same", "alone", "pair"
"""How a probe runs: in a child of a worker that many probes share; in that worker itself; in a task of its own;
as one task that plants and two that seek, in the same job and in another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A piece of plan code, and what would prove harm.

    Args:
        name: unique, readable; its test is named after it.
        kind: the chapter that it stands in.
        tries: what it tries to do, in one phrase.
        code: the body of a function of `at` (names, paths and numbers of the victims) and `me` (its token).
            What it returns is what it got; nothing, or an error, means that it got nothing.
        how: one of `SHARED`, `SAME`, `ALONE`, `PAIR`.
        secret: what it got is harm only if a planted secret stands in it.
        seek: of a pair: the code that looks for what `code` left.
        ends: reasons, one of which the task has to end with; empty where it has to succeed.
        limit_s: of a task of its own.
        kill: the researcher ends the job while the probe runs.

    A token that is found where only the harness looks (what listeners received, files of others, processes that are
    left, other tasks' results) is harm whatever the probe returned.
    """

    name: str
    kind: str
    tries: str
    code: str
    how: str = SHARED
    secret: bool = False
    seek: str = ""
    ends: tuple[str, ...] = ()
    limit_s: float | None = None
    kill: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one probe.

    Args:
        said: what it returned, or how it failed.
        got: whether it says that it got something.
        harm: the proofs of harm; none where it failed.
        reason: why its task failed; empty where it succeeded.
        served: whether the node computed an honest task afterwards.
        took_s: seconds of a task of its own, with its end and the honest task behind it.
    """

    said: str
    got: bool
    harm: tuple[str, ...] = ()
    reason: str = ""
    served: bool = True
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Chapter:
    """Collects the probes of one kind."""

    kind: str
    probes: list[Probe] = field(default_factory=list)

    def add(self, name: str, tries: str, code: str, **more: object) -> None:
        self.probes.append(Probe(name=name, kind=self.kind, tries=tries, code=code.strip("\n"), **more))  # type: ignore[arg-type]
