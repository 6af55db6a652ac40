"""Whatever is given to a public method, an error of fedjob's own says what was expected, and none of Python's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedjob
from fedjob import FedAvg, Job
from fedjob.common.errors import FedjobError, SpecError
from fedjob.identity.keys import Identity
from fedjob.researcher.jobs.session import Session
from tests import remote
from tests.data import TRAINING, make_points
from tests.integration.nodes import Federation
from tests.integration.test_jobs_over_memory import open_session
from tests.plans import Tiny
from tests.unit.common.test_kinds import HOLDS_ITSELF, Unfriendly, nested

WRONG = [
    True, -1, 10**400, float("nan"), b"a", "", "a\0b", "\ud800", [None], {}, {1: 2}, object(), int, ..., 1j, Unfriendly(),
    np.arange(3), np.ones((2, 2)), nested(list), nested(dict), HOLDS_ITSELF,
]  # fmt: skip

NEEDED: Mapping[str, Any] = {
    "round_": 1, "replies": None, "state": "nowhere", "handler": print, "event": "round", "timeout_s": 0.02, "name": "x",
    "job_id": "job_0", "issuer": "http://127.0.0.1:1", "client_id": "x", "tell": print, "hub": "http://127.0.0.1:1",
    "id": "lab",
}  # fmt: skip
"""Values of arguments that a call can't go without, or that keep it short."""

ENDS = {
    *(
        "run",
        "run_on",
        "submit",
        "delete",
        "kill",
        "stop",
        "cancel",
        "close",
        "rehearse",
        "reach",
        "meet",
        "ask",
    ),
    *("ask_each", "silence_of", "request", "check"),
}
"""Methods without arguments of a user's, or that end what the others are tried on."""

LONG = {("wait", "silent"), ("wait", "for_grants")}
"""What is right for these waits for the job."""


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("things")
    data = {"a": str(make_points(folder / "points.npz", 40, 1))}
    about: dict[str, Any] = {"data": data, "nodes": "local", "home": folder / "home"}
    trained = Job(FedAvg(), training_plan=Tiny, training_args=TRAINING, rounds=1, **about)
    result = trained.run(progress=False)
    done = Job(FedAvg(), training_plan=Tiny, training_args=TRAINING, rounds=1, **about)
    done.run(progress=False)
    by_hand = Job(FedAvg(), training_plan=Tiny, training_args=TRAINING, rounds=2, **about)
    by_hand.start_nodes_training_round(1)
    table = Job(remote.large_table.bind(num_rows=3), **about).run(progress=False)
    federation = Federation(folder)
    with open_session(federation, folder / "lab", Identity.generate("lab")) as session:
        yield {
            "job": trained,
            "done": done,
            "job by hand": by_hand,
            "result": result,
            "result with a table": table,
            "table": table.table,
            "artifact": result.artifact,
            "partial": result.partial,
            "session": session,
        }
    by_hand.close("killed")
    trained.close("killed")  # a round of it was begun again
    federation.close()


def calls_of(thing: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in dir(type(thing)):
        static = inspect.getattr_static(type(thing), name)
        if not name.startswith("_") and name not in ENDS and not isinstance(static, property):
            method = getattr(thing, name)
            if inspect.ismethod(method) and method.__module__.startswith("fedjob."):
                yield name, method


def tried(call: Callable[..., Any], name: str, value: Any, folder: Path) -> str:
    """Return what Python said of a value of an argument; empty where nobody or fedjob complained."""
    arguments = {
        each.name: NEEDED.get(each.name, str(folder / "out"))
        for each in inspect.signature(call).parameters.values()
        if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        and (each.default is each.empty or each.name == "timeout_s")
    }
    try:
        call(**{**arguments, name: value})
    except FedjobError:
        return ""
    except Exception as error:
        return f"{call.__qualname__}({name}=a {type(value).__name__}): {type(error).__name__}"
    return ""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "kind", ["job", "job by hand", "result", "result with a table", "table", "artifact", "partial", "session"]
)
def test_no_argument_of_a_public_method_fails_with_an_error_of_python(
    things: dict[str, Any], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    faults, num_tried = [], 0
    wrong = WRONG[::2] if kind == "session" else WRONG  # each of its calls asks the nodes
    for name, call in calls_of(things[kind]):
        for each in inspect.signature(call).parameters.values():
            if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) or (name, each.name) in LONG:
                continue
            num_tried += 1
            faults += filter(None, (tried(call, each.name, value, tmp_path) for value in wrong))
    assert faults == []
    assert num_tried or kind == "partial"


def test_no_argument_of_connect_fails_with_an_error_of_python(tmp_path: Path) -> None:
    faults = []
    for name in inspect.signature(fedjob.connect).parameters:
        for value in WRONG:
            given = {"hub": "http://127.0.0.1:1", "home": tmp_path / "lab", "id": "lab", name: value}
            try:
                fedjob.connect(**given)
            except FedjobError:
                continue
            except Exception as error:
                faults.append(f"{name}=a {type(value).__name__}: {type(error).__name__}")
    assert faults == []


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda job: job.wait(timeout_s="soon"), "timeout_s"),
        (lambda job: job.wait(silent="no"), "silent"),
        (lambda job: job.result.save(3), "path"),
        (lambda job: job.result.plot(what=1), "what"),
        (lambda job: job.start_nodes_training_round("1"), "round_"),
        (lambda job: job.waiting_for_nodes(7), "replies"),
        (lambda job: job.to_json(3), "path"),
        (lambda job: Job.open(3), "path"),
        (lambda job: Job.resume(job.folder, session="hub"), "session"),
        (lambda job: job.restart(rounds="2"), "rounds"),
        (lambda job: fedjob.connect(timeout_s="10"), "timeout_s"),
        (lambda job: fedjob.connect(strict="yes"), "strict"),
    ],
)
def test_the_error_names_the_argument(
    things: dict[str, Any], call: Callable[[Job], Any], argument: str
) -> None:
    with pytest.raises(SpecError, match=argument):
        call(things["done"])


def test_numbers_of_numpy_and_every_path_are_taken(things: dict[str, Any], tmp_path: Path) -> None:
    job: Job = things["done"]
    assert job.wait(timeout_s=np.float32(5), silent=np.bool_(True)) is job  # type: ignore[arg-type]
    saved = things["result"].save(str(tmp_path / "model.safetensors"), force=np.bool_(False))
    assert saved.exists()


def test_a_misspelt_argument_of_a_method_names_the_nearest(things: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="wait has no argument 'timeout': did you mean 'timeout_s'"):
        things["done"].wait(timeout=3)
    assert "timeout_s: 'float | None'" in str(inspect.signature(Job.wait))
    assert isinstance(things["session"], Session)
