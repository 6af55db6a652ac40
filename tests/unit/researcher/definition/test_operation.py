"""What is no operation of a job is answered with what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedjob import FedAdam, FedAvgM, Fraction, Int8, Job, NodeDP, SpecError, Statistics
from fedjob.common.errors import BreakpointMissing, NoSuchJob


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (FedAdam(), r"FedAdam is a server optimizer .* Job\(FedAvg\(\), server_optimizer=FedAdam\(\)\)"),
        (FedAvgM, r"server_optimizer=FedAvgM\(\)"),
        ("fedadam", r"server_optimizer=FedAdam\(\)"),
        ("fedper", r"'fedper' does not say personal: write FedPer\(personal=...\)"),
        (Fraction(0.1), r"a protocol such as FedAvg\(\), .*; found Fraction"),
        (Int8(), r"a protocol such as FedAvg\(\), .*; found Int8"),
        ("fedavgg", "did you mean 'fedavg'"),
    ],
)
def test_what_is_no_protocol_is_answered_with_what_to_write(
    operation: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=words):
        Job(operation, data="rows.csv", nodes="local", home=tmp_path)


def test_noise_without_its_secure_sum_is_answered_with_both(tmp_path: Path) -> None:
    mean, noise = Statistics(mean="age"), NodeDP(epsilon=8.0, delta=1e-5)
    with pytest.raises(SpecError, match=r"Protect\(secagg=True, dp=NodeDP\(...\)\)"):
        Job(mean, data="rows.csv", nodes="local", protect=noise, home=tmp_path)  # type: ignore[arg-type]


def test_an_id_where_a_folder_is_expected_is_answered_with_the_folder(tmp_path: Path) -> None:
    for find in (Job.open, Job.resume):
        with pytest.raises((NoSuchJob, BreakpointMissing), match="<home>/jobs/<job id>"):
            find(tmp_path / "job_2f0c")
