"""The servers that a large federation moves to: a store of objects, and a cluster of brokers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.store import Store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store(tmp_path_factory.mktemp("store")) as made:
        yield made
