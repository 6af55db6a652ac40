"""Attacks on local training, with and without protections: the smaller sisters of those that draw docs/privacy.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedjob import Protect, RecordDP
from tests.inversion import RECOGNISED, attacked
from tests.membership import audit

CANARIES = 150
DP = Protect(dp=RecordDP(epsilon=1.0, delta=1e-5))


@pytest.mark.parametrize("secagg", [None, True])
def test_a_membership_audit_refutes_privacy_where_there_is_no_noise_and_never_what_is_claimed(
    tmp_path: Path, secagg: bool | None
) -> None:
    """Secure aggregation alone is no differential privacy: the sum shows a canary as well as one update does."""
    num_nodes = 3 if secagg else 1
    plain = audit(
        Protect(secagg=secagg),
        number=CANARIES,
        home=tmp_path / "plain",
        rng=np.random.default_rng(1),
        num_nodes=num_nodes,
        error=0.001,
    )
    assert plain.right >= 0.95 * plain.guesses
    assert plain.bound > 1.5
    private = audit(
        Protect(secagg=secagg, dp=DP.dp),
        number=CANARIES,
        home=tmp_path / "private",
        rng=np.random.default_rng(1),
        num_nodes=num_nodes,
        error=0.001,
    )
    assert private.bound <= 1.0, "a correct mechanism fails this once in 1000 runs at most"


def test_an_audit_sees_that_noise_is_too_little_for_a_claim(tmp_path: Path) -> None:
    """So that bounds under a claim say something: the noise of epsilon 50 would not pass for that of 1."""
    weak = Protect(dp=RecordDP(epsilon=50.0, delta=1e-5))
    found = audit(weak, number=CANARIES, home=tmp_path / "weak", rng=np.random.default_rng(1), error=0.001)
    assert 1.0 < found.bound <= 50.0


def test_pictures_are_taken_back_from_an_update_without_noise_and_none_from_a_private_one(
    tmp_path: Path,
) -> None:
    _, _, alike = attacked(None, 1, tmp_path / "plain")
    assert (alike >= RECOGNISED).sum() >= 32, "the attack works, so that what follows says something"
    _, _, alike = attacked(DP, 1, tmp_path / "private")
    assert (alike >= RECOGNISED).sum() == 0
    assert alike.max() < 0.9
