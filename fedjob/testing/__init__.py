"""Test suites that every implementation of an interface must pass, one file per interface.

To test your own implementation, subclass a suite as `Test...` in a test module and write its fixture:

    import pytest
    from fedjob.testing import RepositoryContract

    class TestMyRepository(RepositoryContract):
        @pytest.fixture
        def repository(self, tmp_path): ...
"""

from __future__ import annotations

from fedjob.testing.aggregation import AggregatorContract
from fedjob.testing.protocol import ProtocolContract
from fedjob.testing.readers import ReaderCase, ReaderContract
from fedjob.testing.repository import PART_BYTES, RepositoryContract
from fedjob.testing.sites import SiteRun, Sites

__all__ = [
    "PART_BYTES",
    "AggregatorContract",
    "ProtocolContract",
    "ReaderCase",
    "ReaderContract",
    "RepositoryContract",
    "SiteRun",
    "Sites",
]
