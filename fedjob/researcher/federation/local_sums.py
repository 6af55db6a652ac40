"""Secure sums of a local job: its sites take the same steps as nodes do, so that a job can be tried before it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedjob.common.codec import from_plain
from fedjob.common.errors import FedjobError, NodeFailure, SpecError
from fedjob.identity.keys import Identity, verify
from fedjob.messaging.messages import Result, Task, shared_inputs
from fedjob.parameters.files import FileParams
from fedjob.privacy.protect import SecAgg, is_noised, protect_of
from fedjob.privacy.secagg.node_session import NodeSession
from fedjob.privacy.secagg.steps import (
    HeldContribution,
    Newest,
    SumSteps,
    bound_to,
    digest_of,
    held_contribution,
    read_step,
    write_masked,
)
from fedjob.privacy.secagg.terms import Terms
from fedjob.repository.parts import ref_of
from fedjob.researcher.federation.base import AskContext
from fedjob.researcher.storage.replies import Arrival


@dataclass
class _SiteSessions:
    """The sessions of one site."""

    found: dict[bytes, NodeSession] = field(default_factory=dict)

    def find(self, terms: Terms) -> NodeSession | None:
        return self.found.get(terms.digest)

    def newest(self, terms: Terms) -> Newest:
        same = [one for one in self.found.values() if one.terms.ask == terms.ask]
        if not same:
            return Newest()
        last = max(same, key=lambda one: one.terms.attempt)
        return Newest(attempt=last.terms.attempt, is_over=any(one.revealed for one in same), session=last)


@dataclass
class LocalSums:
    """The sites' sides of secure sums.

    Args:
        federation: name of the federation, which the terms of a sum name.
    """

    federation: str
    _identities: dict[str, Identity] = field(default_factory=dict)
    _sessions: dict[str, _SiteSessions] = field(default_factory=dict)
    _held: dict[str, HeldContribution] = field(default_factory=dict)

    def hold(
        self, node: str, key: str, task: Task, place: AskContext, result: Result, params: Path | None
    ) -> Result:
        """Hold a contribution back; return what a node would answer."""
        noised = is_noised(task.protect)
        held = held_contribution(result.value, result.weight, result.metrics, params, noised=noised)
        self._held[key] = held
        return Result(
            of=result.of,
            key=result.key,
            ok=True,
            value={
                "outline": held.numbers.outline.packed,
                "staying": held.staying,
                **self._keys_ahead(node, task, place),
            },
            state=result.state,
            timing={} if noised else result.timing,
            threads=result.threads,
        )

    def _keys_ahead(self, node: str, task: Task, place: AskContext) -> dict[str, Any]:
        """Return a site's keys for the sum that a task says ahead; nothing where they are to be asked for."""
        if not task.ahead:
            return {}
        asked = replace(task, sum={"step": "keys", "terms": task.ahead})
        try:
            value = self._answer(node, "", asked, place, {}).result.value
        except FedjobError:  # the step by itself, which follows, says why
            return {}
        return {"keys": value["keys"], "terms": from_plain(Terms, task.ahead).digest}

    def answer(
        self, node: str, key: str, task: Task, place: AskContext, files: Mapping[str, Path | bytes]
    ) -> Arrival:
        """Answer a step of a sum.

        Args:
            key: of the step's work.
            files: name of a tensor set -> its file, of what the task refers to.

        Raises:
            NodeFailure: the site does not go on with it.
        """
        try:
            return self._answer(node, key, task, place, files)
        except NodeFailure:
            raise
        except FedjobError as error:
            raise NodeFailure(node, error.reason, str(error)) from error

    def _answer(
        self, node: str, key: str, task: Task, place: AskContext, files: Mapping[str, Path | bytes]
    ) -> Arrival:
        protect = protect_of(task.protect)
        settings = protect.secagg
        if not isinstance(settings, SecAgg):
            raise SpecError("the job has no secure aggregation")
        sessions = self._sessions.setdefault(node, _SiteSessions())
        steps = SumSteps(node, self._identity(node).sign, self._is_signed_by, sessions)
        about = (self.federation, place.job, place.round_of(node), place.step)
        wanted = read_step(task.sum, protect, task.rounds, shared_inputs(task), *about)
        answer = steps.answer(wanted, settings, min_nodes=settings.min_nodes)
        sessions.found[answer.session.terms.digest] = answer.session
        result = Result(of=key[:32], key=key, ok=True, value=answer.value)
        if answer.vector is None:
            return Arrival(node=node, result=result)
        path = place.spool / f"masked_{node}_{wanted.terms.attempt}.safetensors"
        path.unlink(missing_ok=True)
        held = self._held.get(answer.vector.of)
        if held is None:
            raise SpecError("this site holds no contribution to that ask")
        params = files.get("params")
        origin = params if isinstance(params, Path) else None
        order = answer.vector
        if not order.depends:  # one pass: nobody sees the file before the session is bound to what is in it
            session, _ = bound_to(order, answer.session, write_masked(path, order, held, origin))
        else:
            session, order = bound_to(order, answer.session, digest_of(order, held, origin))
            write_masked(path, order, held, origin)
        sessions.found[session.terms.digest] = session
        stored = Result(of=key[:32], key=key, ok=True, params=ref_of(path), value=answer.value)
        return Arrival(node=node, result=stored, params=FileParams(path))

    def _identity(self, node: str) -> Identity:
        if node not in self._identities:
            self._identities[node] = Identity.generate(node)
        return self._identities[node]

    def _is_signed_by(self, node: str, signature: bytes, data: bytes) -> bool:
        return node in self._identities and verify(self._identities[node].public_key_hex, signature, data)
