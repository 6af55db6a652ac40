"""Suites that every implementation of a kind must pass, third parties' too: one file per kind.

Subclass one in a test module, name the subclass `Test...` and write its fixture:

    class TestMyRepository(RepositoryContract):
        @pytest.fixture
        def repository(self, tmp_path): ...
"""

from __future__ import annotations

from fedjob.common.testing.repository import PART_BYTES, RepositoryContract

__all__ = ["PART_BYTES", "RepositoryContract"]
