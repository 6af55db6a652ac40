"""The contract tests of training protocols."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from fedjob.common.codec import pack, unpack
from fedjob.parameters.files import is_params
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.base import FederatedProtocol
from fedjob.testing.sites import Sites

ROUNDS = 2


class ProtocolContract:
    """The tests that every training protocol passes, with nodes and researcher in this process."""

    @pytest.fixture
    def protocol(self) -> FederatedProtocol:
        """Return the protocol, which must be in the registry of `fedjob.plans`."""
        raise NotImplementedError

    @pytest.fixture
    def sites(self) -> Sites:
        """Return two or more nodes with unequal data, and a plan that the protocol can train."""
        raise NotImplementedError

    def test_it_is_built_again_from_its_name_and_plain_configuration(
        self, protocol: FederatedProtocol
    ) -> None:
        name, config = PROTOCOLS.config_of(protocol)
        again = PROTOCOLS.build(name, unpack(pack(config)))
        assert again == protocol
        assert type(again) is PROTOCOLS.find(name)

    def test_who_begins_anew_after_every_ask_ends_in_the_same_bytes(
        self, protocol: FederatedProtocol, sites: Sites
    ) -> None:
        whole = sites.play(protocol, ROUNDS)
        cut = sites.play(protocol, ROUNDS, anew=True)
        assert whole.asks == cut.asks
        assert_equal(whole.value, cut.value)
        assert_equal(whole.node_states, cut.node_states)

    def test_it_trains_and_a_last_validation_changes_nothing(
        self, protocol: FederatedProtocol, sites: Sites
    ) -> None:
        first, plain = sites.first(), sites.play(protocol, 1)
        validated = sites.play(protocol, 1, validate_at_end=True)
        assert validated.asks == [*plain.asks, ("validate", tuple(sorted(sites.data)))]
        assert_equal(plain.value, validated.value)
        assert_equal(plain.node_states, validated.node_states)
        assert set(first) == set(plain.value)
        assert any(not first[name].equal(plain.value[name]) for name in first)


def assert_equal(a: Any, b: Any) -> None:
    """Check that two trees of plain data and tensors are equal to the bit."""
    if is_params(a) or is_params(b):
        assert set(a) == set(b)
        assert all(a[name].dtype == b[name].dtype and a[name].equal(b[name]) for name in a)
    elif isinstance(a, Mapping):
        assert set(a) == set(b)
        for name in a:
            assert_equal(a[name], b[name])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
    else:
        assert a.equal(b) if hasattr(a, "equal") else a == b
