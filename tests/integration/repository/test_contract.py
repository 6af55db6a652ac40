"""Every backend keeps the same promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedjob.repository.base import Repository
from fedjob.repository.directory import DirectoryRepository
from fedjob.repository.memory import MemoryRepository
from fedjob.testing.repository import PART_BYTES, RepositoryContract
from tests.hubs import HubThread


class TestMemory(RepositoryContract):
    @pytest.fixture
    def repository(self, tmp_path: Path) -> Repository:
        return MemoryRepository(part_bytes=PART_BYTES)

    def spoil(self, repository: Repository, sha256: str, change: Callable[[bytes], bytes]) -> None:
        assert isinstance(repository, MemoryRepository)
        repository._objects[sha256] = change(repository._objects[sha256])


class TestDirectory(RepositoryContract):
    @pytest.fixture
    def repository(self, tmp_path_factory: pytest.TempPathFactory) -> Repository:
        self.folder = tmp_path_factory.mktemp("repository")
        return DirectoryRepository(self.folder, part_bytes=PART_BYTES)

    def spoil(self, repository: Repository, sha256: str, change: Callable[[bytes], bytes]) -> None:
        path = self.folder / "objects" / sha256[:2] / sha256
        path.write_bytes(change(path.read_bytes()))


class TestHub(RepositoryContract):
    @pytest.fixture
    def repository(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
        self.folder = tmp_path_factory.mktemp("hub")
        with HubThread(self.folder) as hub:
            yield hub.repository("alice", "researcher", part_bytes=PART_BYTES)

    def spoil(self, repository: Repository, sha256: str, change: Callable[[bytes], bytes]) -> None:
        path = self.folder / "storage" / "objects" / sha256[:2] / sha256
        path.write_bytes(change(path.read_bytes()))
