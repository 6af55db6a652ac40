"""The federations that end-to-end tests share: starting four nodes and importing torch in each takes its time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.data import make_points
from tests.e2e.federation import Federation, preferred_kind


@pytest.fixture(autouse=True)
def _nothing_left_at_work(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave a federation that others use after a test with its hub and nodes running, and nothing else at work."""
    yield
    for value in request.node.funcargs.values():
        if isinstance(value, Federation):
            value.tidy()


NODES = ("clinic-1", "clinic-2", "clinic-3", "clinic-4")


@pytest.fixture(scope="session", params=["mosquitto", "amqtt"])
def federation(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Federation]:
    """Return four nodes with points behind each broker. Tests leave it as they found it: all nodes running.

    Behind Mosquitto they are started as a user starts them, behind aMQTT they are forked.
    """
    forked = request.param == "amqtt"
    with Federation(tmp_path_factory.mktemp(request.param), request.param, forked=forked) as made:
        for index, node in enumerate(made.add_nodes(*NODES)):
            path = make_points(made.folder / f"points-{index}.npz", 60 + 20 * index, index)
            node.add(f"points-of-{node.name}", path, "points")
        made.start_nodes()
        yield made


SITES = ("site-1", "site-2", "site-3")


@pytest.fixture(scope="session")
def rough(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Return three nodes with points for tests that kill; ask for `healed` with it."""
    with Federation(tmp_path_factory.mktemp("rough"), preferred_kind()) as made:
        for index, node in enumerate(made.add_nodes(*SITES)):
            node.add(
                "points", make_points(made.folder / f"points-{index}.npz", 50 + 10 * index, index), "points"
            )
        made.start_nodes()
        yield made


@pytest.fixture
def healed(rough: Federation) -> Iterator[None]:
    """Leave the rough federation's hub and nodes running."""
    yield
    if not rough.hub.alive:
        rough.start_hub()
    rough.start_nodes()


one_broker = pytest.mark.parametrize("federation", [preferred_kind()], indirect=True)
"""For tests to which it does not matter which broker it is."""
