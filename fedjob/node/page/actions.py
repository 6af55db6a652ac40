"""The forms of the owner's page that change something: each does what a command does, by the same function."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fedjob.common.config import load_config
from fedjob.common.errors import SpecError
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets
from fedjob.node.grants.deciders import SignedDecider
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.grant import Grant
from fedjob.node.owner.approvals import (
    Decided,
    approve_request,
    make_agreement,
    reject_request,
    revoke_grant,
)
from fedjob.node.owner.budgets import remove_budget, set_budget
from fedjob.node.owner.datasets import reword_dataset
from fedjob.node.owner.node_state import stop_node
from fedjob.node.owner.settings import (
    await_applied,
    check_setting,
    set_settings,
    shown_setting,
    unset_settings,
)
from fedjob.node.owner.task_orders import end_task, release_log
from fedjob.node.page.desk import OwnerDesk
from fedjob.node.page.forms import given_text, limits_of, listed, real_number, text_of, whole_number
from fedjob.node.page.setting_words import AT_TERMINAL
from fedjob.node.queue.store import TaskStore
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database
from fedjob.node.storage.home_database import open_database


class OwnerActions:
    """What the page changes."""

    def __init__(self, desk: OwnerDesk) -> None:
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        """Return the addresses that take a form."""
        found: dict[str, Callable[[Request], Response]] = {
            "/requests/{id}/approve": self._approve,
            "/requests/{id}/reject": self._reject,
            "/requests/{id}/revoke": self._revoke,
            "/agreements": self._agree,
            "/datasets/{name}/words": self._reword,
            "/datasets/{name}/budget": self._budget,
            "/datasets/{name}/budget/remove": self._remove_budget,
            "/tasks/{key}/end": self._end,
            "/tasks/{key}/release": self._release,
            "/settings": self._set,
            "/audit/verify": self._verify,
            "/node/stop": self._stop,
        }
        return [Route(path, handler, methods=["POST"]) for path, handler in found.items()]

    # --- grants ---------------------------------------------------------------------------------

    def _approve(self, request: Request) -> Response:
        form = request.state.form
        config = load_config(NodeConfig, self._desk.home.root)
        return self._decide(
            request,
            lambda database, id_: approve_request(
                database,
                config,
                id_,
                by=by_of(request),
                note=text_of(form, "note"),
                **limits_of(form),
            ),
        )

    def _reject(self, request: Request) -> Response:
        form = request.state.form
        return self._decide(
            request,
            lambda database, id_: reject_request(
                database, id_, by=by_of(request), reason=_needed(text_of(form, "reason"), "a reason")
            ),
        )

    def _revoke(self, request: Request) -> Response:
        form = request.state.form
        return self._decide(
            request,
            lambda database, id_: revoke_grant(
                database, id_, by=by_of(request), reason=text_of(form, "reason")
            ),
        )

    def _decide(self, request: Request, decide: Callable[[Database, str], Decided]) -> Response:
        """Decide about the one grant of this id, if it is still in the state that was looked at."""
        id_ = request.path_params["id"]
        home = self._desk.home
        with open_database(home) as database:
            grant = _grant(database, id_)
        if grant is None:
            return self._desk.templates.missing(request)

        def change() -> str:
            with open_database(home) as database:
                now = _grant(database, id_)
                seen = text_of(request.state.form, "seen")
                if now is None or seen != state_seen(now):
                    raise SpecError(
                        "this request was decided on, or changed, since you opened it: look at it again"
                    )
                return ". ".join(decide(database, id_).lines)

        back = "/agreements" if grant.origin == "rule" else f"/requests/{quote(id_)}"
        return self._desk.act(request, back, change)

    def _agree(self, request: Request) -> Response:
        form, home = request.state.form, self._desk.home
        config = load_config(NodeConfig, home.root)

        def change() -> str:
            with open_database(home) as database:
                decided = make_agreement(
                    database,
                    config,
                    who=_needed(text_of(form, "who"), "a researcher, a key, an organisation, or *"),
                    plan=given_text(form, "plan"),
                    data=given_text(form, "data"),
                    use="mock" if text_of(form, "use") == "mock" else "private",
                    project=given_text(form, "project"),
                    by=by_of(request),
                    note=text_of(form, "note"),
                    may_read_files=False,
                    **limits_of(form),
                )
            return ". ".join(decided.lines)

        return self._desk.act(request, "/agreements", change)

    # --- data -----------------------------------------------------------------------------------

    def _reword(self, request: Request) -> Response:
        form = request.state.form
        return self._of_dataset(
            request,
            lambda database, name: reword_dataset(
                database,
                name,
                tags=text_of(form, "tags"),
                min_rows=whole_number(form, "min_rows") or 0,
                max_weight=whole_number(form, "max_weight") or 0,
                description=text_of(form, "description"),
                by=by_of(request),
            ),
        )

    def _budget(self, request: Request) -> Response:
        form = request.state.form

        def change(database: Database, name: str) -> str:
            epsilon = real_number(form, "epsilon")
            if epsilon is None:
                raise SpecError("epsilon: expected a number above 0")
            return set_budget(
                database,
                name,
                epsilon=epsilon,
                delta=real_number(form, "delta"),
                project=text_of(form, "project") or None,
                researchers=listed(form, "researchers"),
                by=by_of(request),
            )[1]

        return self._of_dataset(request, change)

    def _remove_budget(self, request: Request) -> Response:
        form = request.state.form
        return self._of_dataset(
            request,
            lambda database, name: remove_budget(
                database,
                name,
                project=text_of(form, "project") or None,
                researchers=listed(form, "researchers"),
                by=by_of(request),
            )[1],
        )

    def _of_dataset(self, request: Request, change: Callable[[Database, str], str]) -> Response:
        name = request.path_params["name"]

        def is_known(database: Database) -> bool:
            return Datasets(database).find(name) is not None

        return self._of_known(request, name, f"/datasets/{quote(name)}", is_known, change)

    # --- tasks ----------------------------------------------------------------------------------

    def _end(self, request: Request) -> Response:
        by = by_of(request)
        return self._of_task(request, lambda database, key: end_task(self._desk.home, database, key, by=by))

    def _release(self, request: Request) -> Response:
        by = by_of(request)
        return self._of_task(
            request,
            lambda database, key: release_log(
                self._desk.home, database, TaskStore(database).find_task(key), by=by
            ),
        )

    def _of_task(self, request: Request, change: Callable[[Database, str], str]) -> Response:
        key = request.path_params["key"]

        def is_known(database: Database) -> bool:
            return TaskStore(database).asker_of(key) is not None

        return self._of_known(request, key, f"/tasks/{quote(key)}", is_known, change)

    def _of_known(
        self,
        request: Request,
        name: str,
        back: str,
        is_known: Callable[[Database], bool],
        change: Callable[[Database, str], str],
    ) -> Response:
        """Change what a path names, if this node has it, and show the page `back`."""
        home = self._desk.home
        with open_database(home) as database:
            if not is_known(database):
                return self._desk.templates.missing(request)

        def changed() -> str:
            with open_database(home) as database:
                return change(database, name)

        return self._desk.act(request, back, changed)

    # --- the node -------------------------------------------------------------------------------

    def _set(self, request: Request) -> Response:
        form, home = request.state.form, self._desk.home

        def change() -> str:
            name = text_of(form, "name")
            check_setting(name)
            if name in AT_TERMINAL:
                raise SpecError(
                    f"{name} is changed at the terminal alone: fedjob node config set {name} VALUE"
                )
            by = by_of(request)
            with open_database(home) as database:
                if text_of(form, "usual") == "yes":
                    changed = unset_settings(home, database, (name,), by=by)
                else:
                    changed = set_settings(home, database, {name: text_of(form, "value")}, by=by)
            await_applied(home, changed)
            return ", ".join(f"{key} = {shown_setting(value)}" for key, value in changed.values.items())

        return self._desk.act(request, "/settings", change)

    def _verify(self, request: Request) -> Response:
        def change() -> str:
            with open_database(self._desk.home) as database:
                chain = Audit(database)
                num_records = chain.verify()
                return f"{num_records} records, unbroken; head {chain.head()[1]}"

        return self._desk.act(request, "/audit", change)

    def _stop(self, request: Request) -> Response:
        by = by_of(request)
        return self._desk.act(
            request,
            "/security",
            lambda: "node stopped" if stop_node(self._desk.home, by=by) else "no node runs in this home",
        )


def by_of(request: Request) -> str:
    """Return who decides: the person who has signed in at a provider, whatever a form says, else the name in the form."""
    person = request.state.session.person
    if person is not None:
        return SignedDecider(f"{person.name} <{person.id}>")
    return text_of(request.state.form, "by")


def state_seen(grant: Grant) -> str:
    """Return what of a grant may not have changed between looking at it and deciding about it."""
    return f"{grant.status} {len(grant.approvals)} {grant.decided or 0:.6f}"


def _grant(database: Database, id_: str) -> Grant | None:
    """Return the grant of exactly this id."""
    return next((grant for grant in Grants(database).all() if grant.id == id_), None)


def _needed(text: str, what: str) -> str:
    if not text:
        raise SpecError(f"expected {what}, found nothing")
    return text
