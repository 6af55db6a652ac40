"""Forms of answers: what is not of the form is found wherever it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from fedjob import PCA, CoxRegression, KMeans, LinearRegression, LogisticRegression, Statistics
from fedjob.aggregation.contribution import Contribution
from fedjob.protocols.answer_form import (
    AnswerForm,
    Anything,
    Count,
    Nothing,
    Number,
    Numbers,
    Points,
    Record,
    Row,
    Something,
    TableOf,
)
from fedjob.protocols.base import Ask, Gathered, Reply, View
from fedjob.protocols.psi import PrivateSetIntersection

NAN, INF = float("nan"), float("inf")
ODD: tuple[Any, ...] = ("x", {"a": 1}, [1] * 7, NAN, INF, -INF, True, None, b"x", 10**400, -1e301, [[[]]], {})
VIEW = View(rounds=1, nodes=("ann", "bad", "cat"))


def example(form: AnswerForm) -> Any:
    """Return a value of a form."""
    match form:
        case Count() | Number():
            return 1
        case Numbers(shape=()):
            return example(form.of)
        case Numbers(shape=shape, of=of):
            return [example(Numbers(shape[1:], of)) for _ in range(2 if shape[0] is None else shape[0])]
        case Row(of=of):
            return [example(one) for one in of]
        case Record(fields=fields):
            return {name: example(one) for name, one in fields.items()}
        case TableOf(of=of, of_numbers=of_numbers):
            return {"1.5" if of_numbers else "some group": example(of)}
        case Points(item_bytes=size, count=count):
            return b"x" * size * (count or 3)
        case _:
            return 1


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all parts of a value."""
    yield path
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from leaves(item, (*path, name))
    elif isinstance(value, list):
        for number, item in list(enumerate(value))[:2]:
            yield from leaves(item, (*path, number))


def changed(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    """Return a value with another thing in one place."""
    if not path:
        return odd
    if isinstance(value, Mapping):
        return {
            name: changed(item, path[1:], odd) if name == path[0] else item for name, item in value.items()
        }
    return [changed(item, path[1:], odd) if number == path[0] else item for number, item in enumerate(value)]


def asks_of(protocol: Any) -> Iterator[Ask]:
    """Yield the asks of a protocol, each answered with an example of its form."""
    state = protocol.start({})
    for _ in range(3):
        ask = protocol.instruct(state, VIEW)
        if not isinstance(ask, Ask):
            return
        yield ask
        value = example(ask.answer)
        replies = {node: Reply(node=node, value=value, num_examples=20, weight=20.0) for node in VIEW.nodes}
        total = value if isinstance(value, bytes) else Contribution(value) + Contribution(value)
        whole = total if isinstance(total, Contribution) else Contribution(total)
        try:
            state = protocol.finish(state, Gathered(total=whole, replies=replies, left_out={}, num_nodes=3))
        except Exception:  # examples are no data: the model need not have a solution
            return


PROTOCOLS = [
    Statistics(
        mean=["a", "b"],
        std=["a"],
        min=["a"],
        histogram={"a": [0.0, 1.0, 2.0]},
        quantiles={"a": [0.5]},
        categories=["s"],
        covariance=["a", "b"],
        table=["s", "t"],
        by=["s"],
    ),
    LinearRegression(target="y", features=["a", "b"]),
    LogisticRegression(target="y", features=["a"], categorical=["a"]),
    CoxRegression(duration="t", event="e", features=["a", "b"]),
    CoxRegression(duration="t", event="e", features=["a"], baseline="shared"),
    KMeans(features=["a", "b"], clusters=3),
    PCA(features=["a", "b", "c"]),
    PrivateSetIntersection(on="id", own="ann"),
]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: type(protocol).__name__)
def test_every_ask_of_an_analysis_refuses_each_odd_thing_in_each_place(protocol: Any) -> None:
    count = 0
    for ask in asks_of(protocol):
        good = example(ask.answer)
        assert ask.answer.problem(good) == ""
        assert ask.schema == {}, "no tensors come back"
        for path in leaves(good):
            for odd in ODD:
                bad = changed(good, path, odd)
                part = good
                for name in path:
                    part = part[name]
                if odd == {} and isinstance(part, Mapping):
                    continue  # an empty map where all is withheld
                if (
                    isinstance(part, Mapping)
                    and odd == {"a": 1}
                    and not isinstance(next(iter(part.values()), 1), dict | list)
                ):
                    continue  # another group, another category
                assert ask.answer.problem(bad), (ask.step, path, odd)
                count += 1
    assert count > 10


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        (Anything(), object(), None),
        (Nothing(), None, 0),
        (Something(), 0, None),
        (Count(5), 5, 6),
        (Count(), 0, -1),
        (Number(0.0), 0, -0.5),
        (Numbers((None, 2)), [[1, 2]] * 3, [[1, 2], [1]]),
        (Record({"a": Count(), "b": Count()}, optional=("b",)), {"a": 1}, {"b": 1}),
        (TableOf(Count(), most=2), {"x": 1, "y": 2}, {"x": 1, "y": 2, "z": 3}),
        (TableOf(Count(), of_numbers=True), {"1.5": 1}, {"nan": 1}),
        (Points(4, 2), b"12345678", b"123456789012"),
        (Points(4, 9, count=2), b"12345678", b"1234"),
    ],
)
def test_a_form_takes_what_fits_and_says_what_does_not(form: AnswerForm, good: Any, bad: Any) -> None:
    assert form.problem(good) == ""
    if not isinstance(form, Anything):
        assert "expected" in form.problem(bad) or "missing" in form.problem(bad)
