"""The tree of all errors that fedjob raises.

    FedjobError
      SpecError                 a wrong argument; also a ValueError
        WrongArguments          arguments that a class or function does not take; also a TypeError
        NoSuchItem              a name that a result's value or tables do not have; also a KeyError
        NoDatasets              nothing at any node matches `data=`
        UnreadableData          a dataset's files are not what its owner registered
          EmptyData             they have no rows
        PreparationError        a step of the preprocessing does not fit a node's data
          TooFewRows            what it would release is about fewer rows than the owner allows
        PlanError               a training plan can't be found, extracted, compiled or built
          IncompletePlan        it lacks methods, which are named; also a TypeError
            NoTestingStep       a plan without a testing step was asked to evaluate
            NotPrivate          a training plan can't be trained with differential privacy
      MissingPackage            a package is not installed here; also an ImportError
      ConfigError               a home, its config.toml or a FEDJOB_* variable is wrong
      VersionMismatch           the hub runs a fedjob that this one does not work with
      WireError
        EncodeError             ours: this can't be put into a message
        DecodeError             the peer's: these bytes are not what they should be
          MessageError          a message lacks a field or has one of the wrong type
      TransportError
        BrokerUnreachable
        ConnectionLost
        NoReply                 a party did not answer in time
      RepositoryError
        RepositoryUnreachable
        ObjectMissing
        ObjectCorrupt           bytes do not have the hash they are named by
          ChunkCorrupt          encrypted bytes can't be decrypted
        ObjectTooLarge
        NoSpace                 the disk is full
      PolicyError
        NotPermitted            unknown or revoked party, missing or foreign token, not a reader
          NotAllowed            a follower asked for what only the job's owner may do
        NotEncrypted            something is not encrypted where encryption is required, or can't be encrypted
        PlanNotApproved
        AuditBroken             a node's audit was changed after it was written
      RoundError
        NodeFailure             one node: who, and the reason
          LimitsExceeded        its owner allows less; carries what was allowed
        QuorumNotReached
          RoundTimeout          a round took longer than the job gives it
      JobError
        Unsolvable              the data of all nodes do not determine what was asked for
        SubmitError             a job could not be handed over; it stays a draft
        TokenConflict           a submit token was used for other content
        TokenDeleted            a submit token belongs to a job that was deleted
        JobFailed               carries the machine-readable reason
          NodeRefused           too few owners allow it; they are named
        JobStopped              its owner asked for its end: cancel, kill or stop
        WaitTimeout             a job goes on, but not within the time that was given
        NoSuchJob               nothing matches
        AmbiguousJob            several jobs match; they are listed
        NotFinished             a job has to end first
        IllegalTransition
        NotReady                asked for a result before the end
        WrongResult             a result of one kind was read as another, such as a table; also a TypeError
        RecordUnreadable        a record is damaged, or a newer fedjob wrote it
      BreakpointError
        BreakpointMissing
        BreakpointCorrupt
        BreakpointIncompatible

A message says what was expected, what was found and what to do. Library code
raises; only the `cli` modules print and exit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedjob.common.notebooks.short_traceback import rendered


def printable_lines(text: str) -> str:
    """Return a text that can't steer a terminal: what is neither printable nor the end of a line becomes a space."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


class FedjobError(Exception):
    """Base of everything that fedjob raises on purpose; it may quote what another party wrote."""

    reason: str = "error"
    """The machine-readable kind of the error, one lower-case word or several joined by _."""

    def __str__(self) -> str:
        return printable_lines(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """Return what IPython and Jupyter show: the user's own line and the sentence; the traceback on request."""
        return rendered(self)


class SpecError(FedjobError, ValueError):
    """A wrong argument; nothing was started."""

    reason = "spec"


class OtherContribution(SpecError):
    """A node was asked to mask another contribution with the keys that it has masked one with."""

    reason = "other_contribution"


class WrongArguments(SpecError, TypeError):
    """A class or function was called with arguments that it does not take; the message names the nearest."""


class NoSuchItem(SpecError, KeyError):
    """A result has no item of that name; the message names the nearest."""

    __str__ = Exception.__str__  # a KeyError would show its message in quotes


class NoDatasets(SpecError):
    """No dataset at any node matches what the job asks for."""

    reason = "no_datasets"


class UnreadableData(SpecError):
    """A dataset's files can't be read as its owner registered them; the message is for the owner."""

    reason = "unreadable_data"


class EmptyData(UnreadableData):
    """A dataset has no rows."""

    reason = "no_data"


class PreparationError(SpecError):
    """A step of the preprocessing does not fit the data; the message has column names, no counts or values."""


class TooFewRows(PreparationError):
    """A step would release an answer about fewer rows than allowed, alone or together with earlier answers."""

    reason = "min_rows"


class PlanError(SpecError):
    """A training plan can't be found, extracted, compiled or built."""

    reason = "plan"

    def __init__(self, message: str, *, path: str | Path | None = None, name: str | None = None) -> None:
        super().__init__(message)
        self.path = None if path is None else str(path)
        self.name = name


class IncompletePlan(PlanError, TypeError):
    """A training plan lacks methods that its kind needs; they are named."""


class NoTestingStep(IncompletePlan):
    """A plan without a testing step was asked to evaluate."""

    reason = "no_testing_step"


class NotPrivate(PlanError):
    """A training plan can't be trained with differential privacy; the message says what to use instead."""

    reason = "privacy"


class MissingPackage(FedjobError, ImportError):
    """Something needs a package that is not installed here; the message says how to install it."""

    reason = "missing_packages"


class KernelRefused(FedjobError, OSError):
    """The kernel refused a call by which a sandbox is closed; it has the number and the words of the error."""

    reason = "sandbox"


class ConfigError(FedjobError, ValueError):
    """A home, its config.toml or a FEDJOB_* variable is wrong."""

    reason = "config"


class VersionMismatch(FedjobError):
    """The hub runs a fedjob that this one does not work with; the message names both and says what to install."""

    reason = "version"


class WireError(FedjobError):
    """Something can't be encoded or decoded as a message."""

    reason = "wire"


class EncodeError(WireError):
    """This side tried to send something that messages can't carry."""

    reason = "encode"


class DecodeError(WireError):
    """A peer's bytes, or a file's, are malformed."""

    reason = "decode"


class MessageError(DecodeError):
    """A message lacks a field or has one of the wrong type."""

    reason = "message"


class TransportError(FedjobError):
    """Messages can't be sent or received."""

    reason = "transport"


class BrokerUnreachable(TransportError):
    """No MQTT broker answers there, or it refuses this party."""

    reason = "broker_unreachable"


class ConnectionLost(TransportError):
    """The connection broke and did not come back in time."""

    reason = "connection_lost"


class NoReply(TransportError):
    """A party did not answer in time."""

    reason = "no_reply"


class RepositoryError(FedjobError):
    """Objects can't be stored or fetched."""

    reason = "repository"


class RepositoryUnreachable(RepositoryError):
    """The repository does not answer."""

    reason = "repository_unreachable"


class ObjectMissing(RepositoryError):
    """The repository holds no object of that name."""

    reason = "object_missing"


class ObjectCorrupt(RepositoryError):
    """Bytes do not have the hash that names them, even after they were fetched again."""

    reason = "object_corrupt"


class ChunkCorrupt(ObjectCorrupt):
    """Encrypted bytes can't be decrypted: they were changed, cut or moved, or are of another object or key."""


class ObjectTooLarge(RepositoryError):
    """An object is larger than its limit."""

    reason = "object_too_large"


class NoSpace(RepositoryError):
    """A disk is full."""

    reason = "no_space"


class PolicyError(FedjobError):
    """An action is not allowed."""

    reason = "policy"


class NotPermitted(PolicyError):
    """Unknown or revoked party, missing or foreign token, or no right to read."""

    reason = "not_permitted"


class NotEncrypted(PolicyError):
    """Something is not encrypted where encryption is required, or a party has no key that it could be encrypted for."""

    reason = "not_encrypted"


class NotAllowed(NotPermitted):
    """A follower tried what only the job's owner may do, or is not among the job's watchers."""

    reason = "not_allowed"


class PlanNotApproved(PolicyError):
    """The node's owner has not approved this plan's text, or has rejected it."""

    reason = "plan_not_approved"


class AuditBroken(PolicyError):
    """A record of a node's audit log was changed, removed or inserted; the message names it."""

    reason = "audit"


class RoundError(FedjobError):
    """A round can't go on."""

    reason = "round"


class NodeFailure(RoundError):
    """One node can't contribute to a round."""

    def __init__(self, node: str, reason: str, detail: str = "") -> None:
        super().__init__(f"node {node}: {reason}" + (f": {detail}" if detail else ""))
        self.node = node
        self.reason = reason
        self.detail = detail


class LimitsExceeded(NodeFailure):
    """A node was asked for more than its owner allows; the allowed part was computed.

    Args:
        partial: the contribution of what was allowed.
        used: what would have been used of limited resources, resource -> amount.
        overrun: the amount above the limit.

    Attributes:
        items: the items that were processed, to be remembered.
    """

    reason = "limits_exceeded"

    def __init__(
        self, node: str, detail: str, *, partial: Any, used: Mapping[str, int], overrun: int
    ) -> None:
        super().__init__(node, LimitsExceeded.reason, detail)
        self.partial = partial
        self.used = dict(used)
        self.overrun = overrun
        self.items: list[Any] = []


class QuorumNotReached(RoundError):
    """Too few nodes are left for the round to count.

    Args:
        received: nodes whose answers would have counted.
        left_out: node -> reason, for the others.
        arrivals: node -> the reply that it sent nevertheless, also of nodes that were allowed a part only.
    """

    reason = "quorum_lost"

    def __init__(
        self,
        message: str,
        *,
        received: Iterable[str] = (),
        left_out: dict[str, str] | None = None,
        arrivals: Mapping[str, Any] | None = None,
    ):
        super().__init__(message)
        self.received = tuple(received)
        self.left_out = dict(left_out or {})
        self.arrivals = dict(arrivals or {})


class RoundTimeout(QuorumNotReached):
    """A round took longer than the job's `round_timeout_s`."""

    reason = "timeout"


class JobError(FedjobError):
    """A job ended without success, or can't do what was asked of it."""

    reason = "job"


class Unsolvable(JobError):
    """The data of all nodes together do not determine what was asked for: collinear columns, too few rows."""

    reason = "unsolvable"


class JobFailed(JobError):
    """The job ended without a result.

    Args:
        reason: one of `common/reasons.py`; `__cause__` is the original error.
        outcome: its final state: `failed`, `rejected`, `killed`, ...
    """

    def __init__(self, message: str, *, reason: str = "exception", outcome: str = "failed") -> None:
        super().__init__(message)
        self.reason = reason
        self.outcome = outcome


class NodeRefused(JobFailed):
    """Nodes that the job requires refuse it.

    Args:
        nodes: node -> the reason.
    """

    def __init__(
        self, message: str, *, reason: str = "rejected", outcome: str = "rejected", nodes: dict[str, str]
    ) -> None:
        super().__init__(message, reason=reason, outcome=outcome)
        self.nodes = dict(nodes)


class JobStopped(JobError):
    """The job's owner asked for its end; raised where the job runs.

    Args:
        verb: `cancel`, `kill`, or `stop` for an end between two rounds, with the parameters so far.
    """

    def __init__(self, verb: str) -> None:
        super().__init__(f"its owner asked to {verb} it")
        self.verb = verb
        self.reason = "cancelled" if verb == "cancel" else "killed"


class SubmitError(JobError):
    """A job could not be handed over; it stays a draft."""

    reason = "submit"


class TokenConflict(SubmitError):
    """A submit token was used before, for a job with other content."""

    reason = "token_conflict"


class TokenDeleted(SubmitError):
    """A submit token belongs to a job that was deleted."""

    reason = "token_deleted"


class WaitTimeout(JobError):
    """A job goes on, but it has not ended within the time that was given."""

    reason = "wait_timeout"


class NoSuchJob(JobError):
    """No job of this home matches."""

    reason = "no_such_job"


class AmbiguousJob(JobError):
    """Several jobs match; the message lists them."""

    reason = "ambiguous_job"


class NotFinished(JobError):
    """The action is possible only after the job's end."""

    reason = "not_finished"


class IllegalTransition(JobError):
    """The table of job and task states has no such transition."""

    reason = "illegal_transition"


class NotReady(JobError):
    """The job has no result yet.

    Args:
        id, state: of the job.
    """

    reason = "not_ready"

    def __init__(self, message: str, *, id: str = "", state: str = "") -> None:
        super().__init__(message)
        self.id = id
        self.state = state


class WrongResult(JobError, TypeError):
    """The job's result is of another kind than what was asked for."""

    reason = "wrong_result"


class RecordUnreadable(JobError):
    """A job's record is damaged, or a newer fedjob wrote it."""

    reason = "record"


class BreakpointError(FedjobError):
    """A breakpoint can't be used."""

    reason = "breakpoint"


class BreakpointMissing(BreakpointError):
    """The breakpoint does not exist."""

    reason = "breakpoint_missing"


class BreakpointCorrupt(BreakpointError):
    """A breakpoint's files are not the ones that its manifest names."""

    reason = "breakpoint_corrupt"


class BreakpointForeign(BreakpointError):
    """A breakpoint was not signed by this home; nothing of it was used before the researcher accepts it.

    Args:
        trust: what `Job.resume(path, trust=...)` takes to accept it.
    """

    reason = "breakpoint_foreign"

    def __init__(self, message: str, *, trust: str = "") -> None:
        super().__init__(message)
        self.trust = trust


class BreakpointIncompatible(BreakpointError):
    """A breakpoint was written by a version, or for a job, that does not fit."""

    reason = "breakpoint_incompatible"
