"""The accountant of differential privacy, held against dp-accounting 0.6.0 (`benchmarks/accounting.py` asks it anew)."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjob.common.errors import DecodeError, SpecError
from fedjob.privacy.dp.calibration import noise_for
from fedjob.privacy.dp.mechanisms import Gaussian, Mechanism, Pure, cost_of, mechanism_of, mechanism_to_plain
from fedjob.privacy.dp.terms import training_terms

KNOWN = [
    (0.05, 1.1, 400, 1e-05, 6.18173, 5.59702),
    (0.01, 0.7, 1000, 1e-06, 6.27865, 5.44792),
    (0.2, 2.0, 50, 1e-05, 3.84983, 3.48802),
    (1.0, 3.0, 10, 1e-05, 5.02395, 4.65298),
    (0.001, 0.6, 10000, 1e-06, 3.99919, 3.15223),
    (0.5, 1.0, 5, 0.001, 5.91855, 5.03993),
    (0.3, 8.0, 300, 1e-05, 2.94113, 2.70838),
    (0.08, 0.5, 20, 0.0001, 13.446, 11.1102),
    (0.99, 1.5, 7, 1e-05, 9.1434, 8.5072),
    (0.02, 5.0, 2000, 1e-07, 0.904169, 0.845251),
    (0.6, 20, 100, 1e-05, 1.24077, 1.13641),
]
"""Rate, noise, number, delta; epsilon by dp-accounting's RDP, and by its numerical composition (PLD), which is tighter."""

NOISES = st.floats(0.7, 50)
RATES = st.floats(0.001, 1)


@pytest.mark.parametrize(("rate", "noise", "number", "delta", "by_rdp", "by_pld"), KNOWN)
def test_the_accountant_agrees_with_dp_accounting_and_is_never_below_the_tight_bound(
    rate: float, noise: float, number: int, delta: float, by_rdp: float, by_pld: float
) -> None:
    found = cost_of([Gaussian(noise=noise, rate=rate, number=number)], delta)
    assert found == pytest.approx(by_rdp, rel=0.01)
    assert found > by_pld


@settings(max_examples=12, deadline=None)
@given(NOISES, RATES, st.integers(1, 1000))
def test_more_noise_costs_less_and_more_sums_or_records_cost_more(
    noise: float, rate: float, number: int
) -> None:
    one = cost_of([Gaussian(noise=noise, rate=rate, number=number)], 1e-5)
    assert cost_of([Gaussian(noise=1.1 * noise, rate=rate, number=number)], 1e-5) <= one * (1 + 1e-9)
    assert cost_of([Gaussian(noise=noise, rate=min(1.0, 1.1 * rate), number=number)], 1e-5) >= one * (
        1 - 1e-9
    )
    assert cost_of([Gaussian(noise=noise, rate=rate, number=number + 1)], 1e-5) >= one
    assert cost_of([Gaussian(noise=noise, rate=rate, number=number)], 1e-6) >= one


@settings(max_examples=12, deadline=None)
@given(NOISES, RATES, st.integers(1, 50), st.floats(0.01, 2))
def test_mechanisms_together_cost_at_least_the_dearest_and_at_most_their_sum_of_pure_costs(
    noise: float, rate: float, number: int, epsilon: float
) -> None:
    gaussian, pure = Gaussian(noise=noise, rate=rate, number=number), Pure(epsilon=epsilon, number=3)
    both = cost_of([gaussian, pure], 1e-5)
    assert both >= cost_of([gaussian], 1e-5)
    assert cost_of([pure, pure], 1e-5) <= 6 * epsilon * (1 + 1e-9)
    assert cost_of([pure, pure], 0.0) == pytest.approx(6 * epsilon)
    assert cost_of([gaussian], 0.0) == math.inf
    assert cost_of([], 1e-5) == 0.0


@pytest.mark.parametrize(
    ("epsilon", "rate", "number"),
    [(1.0, 0.05, 400), (8.0, 0.2, 50), (0.1, 1.0, 1), (4.0, 0.01, 3000), (20.0, 0.4, 100)],
)
def test_the_calibrated_noise_is_the_least_that_keeps_the_epsilon(
    epsilon: float, rate: float, number: int
) -> None:
    noise = noise_for(epsilon, 1e-5, rate=rate, number=number)
    assert cost_of([Gaussian(noise=noise, rate=rate, number=number)], 1e-5) <= epsilon
    assert cost_of([Gaussian(noise=0.999 * noise, rate=rate, number=number)], 1e-5) > epsilon


@settings(max_examples=15, deadline=None)
@given(
    st.floats(-6, 1.5).map(lambda power: 10.0**power),
    st.sampled_from([1e-2, 1e-5, 1e-12]),
    st.sampled_from([1.0, 0.5, 0.01, 1e-6]),
    st.sampled_from([1, 30, 10**6]),
)
def test_the_calibrated_noise_is_enough_whatever_is_asked(
    epsilon: float, delta: float, rate: float, number: int
) -> None:
    noise = 0.0
    with suppress(SpecError):  # an order above all that are held would be needed
        noise = noise_for(epsilon, delta, rate=rate, number=number)
    assert not noise or cost_of([Gaussian(noise=noise, rate=rate, number=number)], delta) <= epsilon


@pytest.mark.parametrize("mechanism", [Gaussian(noise=1.5, rate=0.1, number=7), Pure(epsilon=0.3)])
def test_a_mechanism_is_what_it_was_after_its_plain_form(mechanism: Mechanism) -> None:
    assert mechanism_of(mechanism_to_plain(mechanism)) == mechanism


@pytest.mark.parametrize(
    "plain",
    [
        {}, {"kind": "none"}, {"kind": "gaussian"}, {"kind": "gaussian", "noise": 0.0}, {"kind": "pure", "epsilon": -1.0},
        {"kind": "gaussian", "noise": math.nan}, {"kind": "gaussian", "noise": 1.0, "rate": 1.5},
        {"kind": "gaussian", "noise": 1.0, "rate": 0.0}, {"kind": "gaussian", "noise": 1.0, "number": 0},
        {"kind": "gaussian", "noise": 1.0, "number": True}, {"kind": "pure", "epsilon": 1.0, "noise": 1.0},
        {"kind": "gaussian", "noise": "1"},
    ],
)  # fmt: skip
def test_what_is_no_mechanism_is_refused(plain: dict[str, object]) -> None:
    with pytest.raises(DecodeError):
        mechanism_of(plain)


def test_the_terms_of_a_training_cost_what_was_promised_over_all_rounds() -> None:
    terms = training_terms(
        epsilon=2.0, delta=1e-5, max_grad_norm=1.0, rounds=10, num_rows=600, batch_size=30, steps=20
    )
    assert terms.rate == 0.05
    assert 1.99 < cost_of([terms.mechanism] * 10, 1e-5) <= 2.0
    assert type(terms).from_plain(terms.to_plain()) == terms


@pytest.mark.parametrize(
    ("rows", "steps", "words"), [(50, 5, "twice as many rows"), (600, 0, "one step a round")]
)
def test_terms_that_no_training_can_keep_are_refused(rows: int, steps: int, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        training_terms(
            epsilon=1.0, delta=1e-5, max_grad_norm=1.0, rounds=1, num_rows=rows, batch_size=30, steps=steps
        )
