"""The public suite over every training protocol of the registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedjob.common.protocols.base import FederatedProtocol
from fedjob.common.testing import ProtocolContract, Sites
from tests.unit.common.protocols.training import TRAINING_PROTOCOLS, ready, unequal_sites


class TestTrainingProtocols(ProtocolContract):
    @pytest.fixture(params=TRAINING_PROTOCOLS)
    def protocol(self, request: pytest.FixtureRequest) -> FederatedProtocol:
        return ready(request.param)

    @pytest.fixture
    def sites(self, tmp_path: Path) -> Sites:
        return unequal_sites(tmp_path)
