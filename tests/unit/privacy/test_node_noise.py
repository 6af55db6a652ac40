"""The noise of whole nodes: how much of it a sum has, that it fits, and that no lie gets a sum with less."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedjob import NodeDP, Protect, SecAgg
from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.errors import OtherContribution, SpecError
from fedjob.messaging.messages import Task, work_key
from fedjob.privacy.dp.calibration import noise_for
from fedjob.privacy.dp.mechanisms import Gaussian, cost_of
from fedjob.privacy.secagg.fixed_point import FixedPoint
from fedjob.privacy.secagg.mask_stream import CHUNK
from fedjob.privacy.secagg.masked_vector import TensorFile, UnmaskedVector, added_up, write_vector
from fedjob.privacy.secagg.node_noise import NoiseTerms, key_for, noise_terms, share_of, tau_of
from fedjob.privacy.secagg.node_session import Mask, NodeSession
from fedjob.privacy.secagg.steps import (
    VectorOrder,
    digest_of,
    held_contribution,
    own_noise,
    read_step,
    write_masked,
)
from fedjob.privacy.secagg.terms import Terms
from fedjob.privacy.secagg.vector import Outline

ABOUT = {"epsilon": 4.0, "delta": 1e-5, "clip_norm": 1.0, "rounds": 10, "length": 1000}
SUM = {"num_nodes": 4, "threshold": 3, "clip": 8.0, "bits": 32}
OUTLINE = Outline(names=["clipped", "weight"], exact=["clipped", "weight"], relative=["a", "b"])


def terms_for(**changes: Any) -> Terms:
    """Return the terms of a sum with noise."""
    sum_ = SUM | {name: value for name, value in changes.items() if name in SUM}
    about = ABOUT | {name: value for name, value in changes.items() if name in ABOUT}
    noise = noise_terms(**about, **sum_)
    return Terms(
        federation="f",
        job="j",
        round=1,
        step="train",
        attempt=1,
        shared="m",
        max_weight=1.0,
        rule="plain",
        noise=noise,
        **sum_,
    )


# --- how much noise --------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0, 100.0])
@pytest.mark.parametrize("sum_", [(3, 3), (4, 3), (20, 14), (100, 67), (1000, 667)], ids=str)
@pytest.mark.parametrize("length", [1, 1000, 10_000_000])
def test_the_shares_of_the_threshold_keep_the_promise_and_no_sum_overflows(
    epsilon: float, sum_: tuple[int, int], length: int
) -> None:
    num_nodes, threshold = sum_
    terms = noise_terms(
        **{**ABOUT, "epsilon": epsilon, "length": length},
        num_nodes=num_nodes,
        threshold=threshold,
        clip=8.0,
        bits=32,
    )
    share = share_of(terms, num_nodes=num_nodes, threshold=threshold, clip=8.0, bits=32)
    # the whole bound of the paper for the shares of those who reveal, once more by itself
    sensitivity = 2 * (terms.scale * terms.clip_norm + math.sqrt(length) / 2)
    deviation = math.sqrt(share.variance)
    tau = 10 * sum(math.exp(-2 * (math.pi * deviation) ** 2 * k / (k + 1)) for k in range(1, threshold))
    per_order = sensitivity**2 / (threshold * share.variance) + tau * length / 2
    charged = Gaussian(noise=noise_for(epsilon, 1e-5, number=10), number=10)
    truly = Gaussian(noise=float(per_order) ** -0.5, number=10)
    assert cost_of([truly], 1e-5) <= cost_of([charged], 1e-5) <= epsilon
    assert float(per_order) ** -0.5 < 1.01 * charged.noise  # nor is there much more than needed
    # each node's largest number with its largest noise
    assert num_nodes * (math.ceil(terms.scale) + share.bound) <= 2**31 - 1
    assert num_nodes * (math.ceil(terms.scale) + share.bound) > 0.9 * 2**31  # the grid is as fine as can be
    # and what is cut off the noise adds nothing to delta
    tail = 2 * length * num_nodes * terms.rounds * math.exp(-((share.bound / deviation) ** 2) / 2 + epsilon)
    assert tail < 1e-5 * 2**-60


def test_more_nodes_than_the_threshold_have_more_noise_and_never_less() -> None:
    terms = terms_for()
    share = terms.share
    assert share is not None
    norm = 2 * terms.noise.norm
    for survivors in (3, 4):
        assert math.sqrt(survivors * share.variance) / norm >= noise_for(4.0, 1e-5, number=10)


def test_tau_is_that_of_the_paper_for_small_noise() -> None:
    assert tau_of(0.5, 2) == pytest.approx(10 * math.exp(-((math.pi / 2) ** 2)))
    assert tau_of(0.5, 1) == 0
    assert tau_of(4.0, 1000) < 1e-60


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": 16}, r"16 bits are too few .* take SecAgg\(bits=32\)"),
        ({"length": 10**12, "epsilon": 0.1}, "32 bits are too few .* 1,000,000,000,000 parameters"),
        ({"epsilon": 1e-4, "num_nodes": 1000, "threshold": 667}, "32 bits are too few"),
        ({"length": 0}, "there are none"),
    ],
    ids=str,
)
def test_a_grid_that_is_too_coarse_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        terms_for(**changes)


def test_sixteen_bits_are_enough_where_the_noise_is_small() -> None:
    terms = terms_for(bits=16, epsilon=1e4, length=100)
    assert terms.share is not None
    assert terms.share.variance > Fraction(1, 4)


# --- a researcher who asks for less ------------------------------------------------------------------------

PROTECT = Protect(secagg=SecAgg(), dp=NodeDP(epsilon=4.0, delta=1e-5, clip_norm=1.0))


def asked(terms: Terms, protect: Protect = PROTECT, rounds: int = 10) -> Terms:
    """Return the terms of a message that a node accepts."""
    plain = unpack(pack({"step": "keys", "terms": to_plain(terms)}))
    return read_step(plain, protect, rounds, "m", "f", "j", 1, "train").terms


def test_the_terms_of_the_job_are_accepted_as_they_travel() -> None:
    assert asked(terms_for()) == terms_for()


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 8.0},
        {"delta": 1e-3},
        {"clip_norm": 0.5},
        {"clip_norm": 2.0},
        {"rounds": 1},
        {"rounds": 11},
    ],
    ids=str,
)
def test_noise_for_another_promise_than_the_jobs_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="epsilon, delta, clip_norm and rounds of the job"):
        asked(terms_for(**change))


def test_a_sum_without_the_noise_of_the_job_and_noise_without_such_a_job_are_refused() -> None:
    bare = replace(terms_for(), noise=None)
    for terms, protect in ((bare, PROTECT), (terms_for(), Protect(secagg=SecAgg()))):
        with pytest.raises(SpecError, match="has noise where the job has NodeDP"):
            asked(terms, protect)


def test_what_was_charged_for_is_the_work_that_is_masked_and_keys_ahead_are_no_part_of_it() -> None:
    """A node masks what the key of the step's own task names: one with other rounds or another promise is other work."""
    task = Task(dataset="d", protocol="fedavg", protect=PROTECT.to_plain(), rounds=10)

    def key(**changes: Any) -> str:
        return work_key(job="j", round_=1, step="train", node="n", task=replace(task, **changes))

    weaker = Protect(secagg=SecAgg(), dp=NodeDP(epsilon=40.0, delta=1e-5)).to_plain()
    bare = Protect(secagg=SecAgg()).to_plain()
    assert len({key(), key(rounds=1), key(protect=weaker), key(protect=bare)}) == 4
    assert key(ahead={"any": "terms"}) == key()


@pytest.mark.parametrize("rule", ["weighted", "sum"])
def test_nodes_that_weigh_differently_are_refused(rule: str) -> None:
    with pytest.raises(SpecError, match="all nodes weigh alike"):
        asked(replace(terms_for(), rule=rule))


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (1e9, "has no room"),
        (1.0, "too few"),
        (0.0, "positive number"),
        (-1.0, "positive number"),
        (math.inf, "positive number"),
        (math.nan, "positive number"),
    ],
)
def test_a_grid_of_the_researchers_own_overflows_nowhere_and_is_never_too_coarse(
    scale: float, words: str
) -> None:
    terms = terms_for()
    with pytest.raises(SpecError, match=words):
        asked(replace(terms, noise=replace(terms.noise, scale=scale)))


@pytest.mark.parametrize(
    "change", [{"num_nodes": 1}, {"num_nodes": -4}, {"threshold": 0}, {"threshold": -1}], ids=str
)
def test_numbers_of_nodes_that_make_no_sense_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(SpecError, match="two nodes or more"):
        asked(replace(terms_for(), **change))


@pytest.mark.parametrize("length", [0, -5])
def test_a_number_of_parameters_that_makes_no_sense_is_refused(length: int) -> None:
    terms = terms_for()
    with pytest.raises(SpecError, match="one parameter"):
        asked(replace(terms, noise=replace(terms.noise, length=length)))


def test_a_lower_threshold_gets_more_noise_from_each() -> None:
    low, high = terms_for(threshold=3).share, terms_for(threshold=4).share
    assert low is not None
    assert high is not None
    per_scale = [
        share.variance / Fraction(terms_for(threshold=t).noise.scale) ** 2
        for share, t in ((low, 3), (high, 4))
    ]
    assert per_scale[0] > per_scale[1] * Fraction(13, 10)


@pytest.mark.parametrize(
    "change", [{"clip_norm": 2.0}, {"epsilon": 8.0}, {"scale": 1000.0}, {"length": 999}], ids=str
)
def test_other_noise_at_one_node_means_other_masks_which_do_not_cancel(change: dict[str, Any]) -> None:
    terms = terms_for()
    other = replace(terms, noise=replace(terms.noise, **change))
    assert other.digest != terms.digest
    assert from_plain(NoiseTerms, to_plain(other.noise)) == other.noise


# --- the vector --------------------------------------------------------------------------------------------


def held_of(path: Path, change: dict[str, np.ndarray], **more: Any) -> Any:
    """Return what a node holds whose tensors are a change of those in `origin`."""
    save_file(change, path)
    return held_contribution(None, 57.0, {}, path, noised=True, **more)


def origin_of(folder: Path, like: dict[str, np.ndarray]) -> Path:
    """Return a file of zeros."""
    path = folder / "origin.safetensors"
    save_file({name: np.zeros_like(one) for name, one in like.items()}, path)
    return path


def order_for(terms: Terms, of: str = "work", secret: bytes = b"s" * 32, **changes: Any) -> VectorOrder:
    """Return the order of a vector without masks."""
    session = NodeSession(
        node="n", terms=terms, share_key=b"", mask_key=b"", own_secret=b"", lot=b"", noise_secret=secret
    )
    order = VectorOrder(of=of, terms=terms, outline=OUTLINE, masks=[], noise=own_noise(session, of))
    return replace(order, **changes)


def write_bound(path: Path, order: VectorOrder, held: Any, origin: Path) -> None:
    """Write a vector of whatever is held."""
    write_masked(path, replace(order, contribution=digest_of(order, held, origin)), held, origin)


def written(path: Path, order: VectorOrder, held: Any, origin: Path) -> np.ndarray:
    """Return the whole numbers of a vector, and see that nothing beside them says anything."""
    write_bound(path, order, held, origin)
    whole, numbers = added_up([path], [], order.terms.fixed_point, TensorFile(path).spans["tensors"].shape[0])
    assert numbers == [0, 1]
    return whole.view("<i4").astype(np.int64)


CHANGES: dict[str, Callable[[np.random.Generator], dict[str, np.ndarray]]] = {
    "small": lambda rng: {"a": rng.normal(size=400) * 1e-4, "b": rng.normal(size=(20, 30)) * 1e-4},
    "large": lambda rng: {"a": rng.normal(size=400) * 100, "b": rng.normal(size=(20, 30)) * 1e-4},
    "one number": lambda rng: {"a": np.eye(1, 400)[0] * 7.0, "b": np.zeros((20, 30))},
    "a huge number": lambda rng: {"a": np.eye(1, 400)[0] * 1e300, "b": np.zeros((20, 30))},
    "all at their clip": lambda rng: {"a": np.full(400, 8.0), "b": np.full((20, 30), -8.0)},
    "halves of a step": lambda rng: {
        "a": np.full(400, 0.5 / terms_for().noise.scale),
        "b": np.zeros((20, 30)),
    },
}


@pytest.mark.parametrize("name", CHANGES)
def test_no_change_is_longer_than_its_bound_and_short_ones_stay_as_they_are(
    name: str, tmp_path: Path
) -> None:
    terms = terms_for()
    change = CHANGES[name](np.random.default_rng(1))
    held, origin = held_of(tmp_path / "own", change), origin_of(tmp_path, change)
    noise = written(
        tmp_path / "zero",
        order_for(terms),
        held_of(tmp_path / "o", {k: v * 0 for k, v in change.items()}),
        origin,
    )
    found = written(tmp_path / "vector", order_for(terms), held, origin) - noise
    flat = np.clip(np.concatenate([change["a"], change["b"].ravel()]), -8.0, 8.0)
    assert math.sqrt(sum(int(x) ** 2 for x in found)) <= terms.noise.norm
    within = flat * min(1.0, 1.0 / max(float(np.linalg.norm(flat)), 1e-300))
    assert np.abs(found - within * terms.noise.scale).max() <= 0.52


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_change_that_is_not_finite_counts_as_none_and_nobody_sees_that(odd: float, tmp_path: Path) -> None:
    terms = terms_for()
    change = {"a": np.ones(400), "b": np.ones((20, 30))}
    none = {name: one * 0 for name, one in change.items()}
    change["b"][3, 4] = odd
    origin = origin_of(tmp_path, none)
    bare = written(tmp_path / "1", order_for(terms), held_of(tmp_path / "2", none), origin)
    assert (written(tmp_path / "3", order_for(terms), held_of(tmp_path / "4", change), origin) == bare).all()


def test_the_noise_has_its_mean_its_variance_and_no_memory(tmp_path: Path) -> None:
    length = 200_000
    terms = terms_for(length=length)
    none = {"a": np.zeros(length // 2, np.float32), "b": np.zeros((length // 2,), np.float32)}
    origin, held = origin_of(tmp_path, none), held_of(tmp_path / "own", none)
    one = written(tmp_path / "1", order_for(terms), held, origin).astype(float)
    other = written(tmp_path / "2", order_for(terms, secret=b"t" * 32), held, origin).astype(float)
    deviation = math.sqrt(terms.share.variance)
    for found in (one, other):
        assert abs(found.mean()) < 5 * deviation / math.sqrt(length)
        assert found.std() == pytest.approx(deviation, rel=0.01)
        assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.02
        assert len(np.unique(found)) > 0.99 * length  # no chunk has the noise of another one
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02


def test_a_contribution_has_the_same_noise_whenever_it_is_asked_for_and_another_one_has_another(
    tmp_path: Path,
) -> None:
    terms = terms_for()
    change = CHANGES["small"](np.random.default_rng(1))
    held, origin = held_of(tmp_path / "own", change), origin_of(tmp_path, change)
    first = written(tmp_path / "1", order_for(terms), held, origin)
    assert (written(tmp_path / "2", order_for(terms), held, origin) == first).all()
    assert (written(tmp_path / "3", order_for(replace(terms, attempt=2)), held, origin) == first).all()
    for order in (order_for(terms, of="other work"), order_for(terms, secret=b"t" * 32)):
        assert (written(tmp_path / "4", order, held, origin) != first).mean() > 0.9
    assert key_for(b"s" * 32, "work", 3) != key_for(b"s" * 32, "work", 2)


def test_no_byte_of_another_contribution_than_the_promised_one_is_in_a_vector(tmp_path: Path) -> None:
    terms, change = terms_for(), CHANGES["small"](np.random.default_rng(1))
    held, origin = held_of(tmp_path / "own", change), origin_of(tmp_path, change)
    order = order_for(terms)
    bound = replace(order, contribution=digest_of(order, held, origin))
    write_masked(tmp_path / "1", bound, held, origin)
    change["b"][-1, -1] += 1e-9  # the last number of all, by less than a step of the grid
    again = held_of(tmp_path / "again", change)
    for other, promised in ((again, bound), (held, order), (again, order)):
        with pytest.raises(OtherContribution, match="a new attempt is needed, with fresh ones"):
            write_masked(tmp_path / "2", promised, other, origin)
    longer = held_of(tmp_path / "longer", {name: one * 100 for name, one in change.items()})
    with pytest.raises(OtherContribution):
        write_masked(tmp_path / "2", bound, longer, origin)


def test_without_noise_a_vector_may_be_written_before_its_masks_are_promised_to_it(tmp_path: Path) -> None:
    """The digest comes of the same pass, and is the one by which the vector is written after the promise."""
    change = CHANGES["small"](np.random.default_rng(1))
    origin, own = origin_of(tmp_path, change), tmp_path / "own"
    save_file(change, own)
    held = held_contribution(0.5, 57.0, {}, own)
    terms = replace(terms_for(), noise=None, max_weight=100.0)
    outline = replace(held.numbers.outline, relative=sorted(change))
    masks = [Mask(bytes([k]) * 32, bytes([k + 9]) * 32, 1) for k in range(3)]
    order = VectorOrder(of="work", terms=terms, outline=outline, masks=masks)
    digest = write_masked(tmp_path / "ahead", order, held, origin)
    assert digest == digest_of(order, held, origin)
    assert write_masked(tmp_path / "after", replace(order, contribution=digest), held, origin) == digest
    assert (tmp_path / "ahead").read_bytes() == (tmp_path / "after").read_bytes()
    with pytest.raises(OtherContribution):
        write_masked(tmp_path / "other", replace(order, contribution="ab" * 32), held, origin)


@pytest.mark.parametrize(
    "fixed",
    [
        FixedPoint(2, 8.0),
        FixedPoint(1000, 1e-3),
        FixedPoint(3, 1e6, bits=16),
        FixedPoint(2, 8.0, steps=0.3),
        FixedPoint(2, 8.0, bits=32, steps=2.0**32),
    ],
)
@pytest.mark.parametrize("factor", [1.0, 0.37])
def test_numbers_count_as_the_nearest_whole_number_within_the_clip(fixed: FixedPoint, factor: float) -> None:
    clip = fixed.clip
    inside = np.random.default_rng(7).uniform(-clip, clip, 1000)
    edges = np.array(
        [0.0, -0.0, clip, -clip, np.nextafter(clip, 0), clip / 2, 0.5 / fixed.scale, -1.5 / fixed.scale]
    )
    beyond = np.array([2 * clip, -1e300, np.nextafter(clip, np.inf)])
    for numbers, over in ((inside, 0), (edges, 0), (np.concatenate([inside, beyond]), 3), (np.empty(0), 0)):
        expected = [
            max(-fixed.largest, min(fixed.largest, round(max(-clip, min(clip, x)) * (factor * fixed.scale))))
            % 2**fixed.bits
            for x in numbers.tolist()
        ]
        found, count = fixed.quantised(numbers, factor)
        assert (found.tolist(), count, found.dtype) == (expected, over, np.dtype(fixed.dtype))
    for wrong in (math.nan, math.inf, -math.inf):
        with pytest.raises(SpecError, match="NaN or infinite"):
            fixed.quantised(np.array([1.0, wrong, 0.0]), factor)


def test_vectors_of_many_chunks_add_up_to_the_sum_of_what_was_masked(tmp_path: Path) -> None:
    """Each stretch of the sum goes on in the masks where it begins."""
    fixed, length = FixedPoint(num_nodes=2, clip=8.0), 5 * CHUNK + 7
    own = [np.random.default_rng(k).normal(size=length) for k in range(2)]
    masks = [
        [Mask(bytes([k]) * 32, bytes([k + 9]) * 32, 1), Mask(b"p" * 32, b"q" * 32, 1 - 2 * k)]
        for k in range(2)
    ]
    for k, numbers in enumerate(own):
        save_file({"p": numbers[:CHUNK], "q": numbers[CHUNK:]}, tmp_path / f"own{k}")
        vector = UnmaskedVector(
            own=TensorFile(tmp_path / f"own{k}"),
            origin=None,
            relative=[],
            factor=1.0,
            numbers=[k, 0],
            count_at=1,
        )
        write_vector(tmp_path / str(k), vector, "", fixed, masks[k])
    left = [replace(one[0], sign=-1) for one in masks]
    whole, numbers = added_up([tmp_path / "0", tmp_path / "1"], left, fixed, length)
    expected = fixed.quantised(own[0], 1.0)[0] + fixed.quantised(own[1], 1.0)[0]
    assert (whole == expected).all()
    assert numbers == [1, 0]


def test_masks_lie_over_the_noise_and_cancel(tmp_path: Path) -> None:
    terms = terms_for()
    change = CHANGES["small"](np.random.default_rng(1))
    held, origin = held_of(tmp_path / "own", change), origin_of(tmp_path, change)
    bare = written(tmp_path / "1", order_for(terms), held, origin)
    seeds = (b"a" * 32, b"b" * 32)
    write_bound(tmp_path / "2", order_for(terms, masks=[Mask(*seeds, 1)]), held, origin)
    raw = TensorFile(tmp_path / "2")._flat(TensorFile(tmp_path / "2").spans["tensors"], "<i4")
    assert (raw != bare).mean() > 0.9
    whole, _ = added_up([tmp_path / "2"], [Mask(*seeds, -1)], terms.fixed_point, len(bare))
    assert (whole.view("<i4") == bare).all()


# --- what is more than an update ---------------------------------------------------------------------------


def test_metrics_weights_and_small_tensors_are_in_no_sum_with_noise(tmp_path: Path) -> None:
    change = {"a": np.zeros(400), "b": np.zeros((20, 30)), "batches": np.array([57])}
    save_file(change, tmp_path / "own")
    metrics = {"train": {"loss": {"kind": "mean", "sum": 3.0, "n": 57}}}
    held = held_contribution(None, 57.0, metrics, tmp_path / "own", noised=True)
    assert held.numbers.values == {"weight": 1, "clipped": 0}
    assert (held.weight, held.staying) == (1.0, [])
    written(tmp_path / "vector", order_for(terms_for()), held, origin_of(tmp_path, change))


def test_a_contribution_that_is_no_update_is_refused(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3)}, tmp_path / "own")
    for value, tensors in (({"mean": 3.0}, None), (None, None), ({"mean": 3.0}, tmp_path / "own")):
        with pytest.raises(SpecError, match="one update of parameters, and nothing else"):
            held_contribution(value, 1.0, {}, tensors, noised=True)


@pytest.mark.parametrize(
    "outline",
    [
        replace(OUTLINE, relative=["a"]),
        replace(OUTLINE, relative=[]),
        replace(OUTLINE, names=["clipped", "more", "weight"]),
        replace(OUTLINE, names=["weight"]),
        replace(OUTLINE, constants={"kind": "mean"}),
    ],
    ids=str,
)
def test_a_researcher_does_not_choose_what_is_measured_from_where(outline: Outline, tmp_path: Path) -> None:
    change = CHANGES["small"](np.random.default_rng(1))
    held, origin = held_of(tmp_path / "own", change), origin_of(tmp_path, change)
    with pytest.raises(SpecError, match="under NodeDP"):
        write_bound(tmp_path / "v", order_for(terms_for(), outline=outline), held, origin)


def test_noise_for_another_number_of_parameters_or_none_is_refused(tmp_path: Path) -> None:
    change = CHANGES["small"](np.random.default_rng(1))
    held, origin = held_of(tmp_path / "own", change), origin_of(tmp_path, change)
    for order in (order_for(terms_for(length=10)), order_for(terms_for(), noise=None)):
        with pytest.raises(SpecError, match="parameters, and the node has others"):
            write_bound(tmp_path / "v", order, held, origin)


def test_sums_over_all_examples_have_no_noise(tmp_path: Path) -> None:
    change = {"a": np.zeros(400), "b": np.zeros((20, 30)), "fedjob-num-examples": np.zeros(1)}
    held, origin = held_of(tmp_path / "own", change), origin_of(tmp_path, change)
    with pytest.raises(SpecError, match="sums over all examples"):
        write_bound(tmp_path / "v", order_for(terms_for()), held, origin)
