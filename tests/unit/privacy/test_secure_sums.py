"""Secure sums: every pattern of dropouts gives the exact sum or nothing, and no lie gives a single contribution."""

from __future__ import annotations

import itertools
import secrets
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedjob.common.codec import pack, to_plain
from fedjob.common.errors import FedjobError, OtherContribution, SpecError
from fedjob.identity.keys import Identity
from fedjob.messaging.messages import MAX_INLINE_BYTES, MAX_PAYLOAD_BYTES
from fedjob.privacy.protect import SecAgg
from fedjob.privacy.secagg.key_agreement import private_key, signed_keys
from fedjob.privacy.secagg.secret_sharing import PRIME, SHARE_BYTES, combined, divided
from fedjob.privacy.secagg.terms import usual_threshold
from fedjob.privacy.secagg.vector import MAX_UNPACKED_BYTES, Outline
from tests.secure_sums import (
    LENGTH,
    NOISE,
    OUTLINE,
    Transcript,
    nodes,
    num_recovered,
    plain_sum,
    random_attempts,
    random_pattern,
    terms_for,
)


@pytest.mark.parametrize("seed", range(30))
def test_any_pattern_of_dropouts_and_repetitions_gives_the_exact_sum_or_nothing(seed: int) -> None:
    assert random_pattern(seed) in ("sum", "nothing")


def test_no_attempts_of_a_lying_researcher_put_a_contribution_into_two_sums() -> None:
    """`random_attempts` itself sees that each sum is right, and that no contribution is in two or has fresh noise."""
    found = [random_attempts(seed) for seed in range(40)]
    assert found.count(1) > 10
    assert found.count(2) > 0  # of nodes that have nothing to do with each other


def test_most_patterns_of_few_dropouts_give_the_sum() -> None:
    ends = [random_pattern(seed) for seed in range(100, 120)]
    assert ends.count("sum") >= 8


# --- a researcher who does not follow the protocol ---------------------------------------------------


def shared(num_nodes: int = 5) -> tuple[dict, Transcript]:
    found, told = nodes(num_nodes), Transcript(terms_for(num_nodes))
    for node in found.values():
        told.ask_keys(node)
    for node in found.values():
        told.ask_shares(node)
    return found, told


def summed(num_nodes: int = 5) -> tuple[dict, Transcript]:
    found, told = shared(num_nodes)
    for node in found.values():
        told.ask_vector(node)
    return found, told


def test_keys_of_the_researchers_own_in_place_of_a_nodes_are_refused() -> None:
    found, told = nodes(4), Transcript(terms_for(4))
    for node in found.values():
        told.ask_keys(node)
    forger = Identity.generate("n1")
    forged = signed_keys(told.terms, "n1", private_key(), private_key(), b"lot", forger.sign)
    stranger = {name: keys for name, keys in told.keys.items() if name != "n1"} | {
        "n9": replace(forged, node="n9")
    }
    for keys in ({**told.keys, "n1": forged}, stranger):
        with pytest.raises(SpecError, match="not signed by the key that the roster has"):
            told.ask_shares(found["n0"], keys)
    assert not told.sealed


@pytest.mark.parametrize(
    "change",
    [{"round": 2}, {"job": "k"}, {"step": "validate"}, {"shared": "another model"}],
    ids=str,
)
def test_keys_of_another_round_job_step_or_model_are_refused(change: dict) -> None:
    found, told = nodes(4), Transcript(terms_for(4))
    for node in found.values():
        told.ask_keys(node)
    other = Transcript(terms_for(4, **change))
    other.ask_keys(found["n0"])
    other.keys |= {name: keys for name, keys in told.keys.items() if name != "n0"}
    with pytest.raises(SpecError, match="not signed"):
        other.ask_shares(found["n0"])


@pytest.mark.parametrize(
    "change", [{"max_weight": 7.0}, {"threshold": 4}, {"clip": 1.0}, {"noise": NOISE}], ids=str
)
def test_other_terms_for_the_same_attempt_are_refused(change: dict) -> None:
    found, told = nodes(4), Transcript(terms_for(4))
    told.ask_keys(found["n0"])
    with pytest.raises(SpecError, match="on other terms"):
        Transcript(terms_for(4, **change)).ask_keys(found["n0"])


def test_two_nodes_with_the_same_key_and_a_list_without_the_node_itself_are_refused() -> None:
    found, told = nodes(4), Transcript(terms_for(4))
    for node in found.values():
        told.ask_keys(node)
    without = {name: keys for name, keys in told.keys.items() if name != "n0"}
    with pytest.raises(SpecError, match="no keys of n0"):
        told.ask_shares(found["n0"], without)
    twice = {**told.keys, "n1": replace(told.keys["n1"], shares=told.keys["n2"].shares)}
    with pytest.raises(SpecError, match=r"not signed|same key"):
        told.ask_shares(found["n0"], twice)


@pytest.mark.parametrize(("members", "threshold"), [(2, 2), (3, 1), (5, 2), (5, 3), (5, 6), (3, 4)])
def test_too_few_nodes_or_a_threshold_that_is_too_low_are_refused(members: int, threshold: int) -> None:
    found, told = nodes(members), Transcript(terms_for(members, threshold=threshold))
    for node in found.values():
        told.ask_keys(node)
    with pytest.raises(SpecError, match=r"threshold|3 to"):
        told.ask_shares(found["n0"])


def test_other_lists_for_different_nodes_give_noise() -> None:
    found, told = nodes(6), Transcript(terms_for(6, threshold=5))
    for node in found.values():
        told.ask_keys(node)
    some = {name: told.keys[name] for name in ("n0", "n1", "n2", "n3", "n4")}
    for name, node in found.items():
        told.ask_shares(node, told.keys if name in ("n4", "n5") else some)
    for name in ("n0", "n1", "n2", "n3", "n4"):
        try:
            told.ask_vector(
                found[name], among=[n for n in sorted(told.sealed) if n != name and name in told.sealed[n]]
            )
        except FedjobError:
            continue
    assert num_recovered(told, found) == 0


def test_another_model_at_one_node_gives_noise() -> None:
    """The seeds depend on what nodes began with: the masks of a node with another model do not cancel."""
    found = nodes(4)
    told, other = Transcript(terms_for(4)), Transcript(terms_for(4, shared="another model"))
    for name, node in found.items():
        (other if name == "n3" else told).ask_keys(node)
    keys = told.keys | other.keys
    with pytest.raises(SpecError, match="not signed"):
        other.ask_shares(found["n3"], keys)
    with pytest.raises(SpecError, match="not signed"):
        told.ask_shares(found["n0"], keys)


def test_a_second_vector_under_the_same_masks_never_leaves() -> None:
    found, told = shared()
    first = told.ask_vector(found["n0"]).copy()
    for of, among in (("other work", None), ("work", ["n1", "n2", "n3"])):
        with pytest.raises(SpecError, match="one masked vector"):
            told.ask_vector(found["n0"], of=of, among=among)
    other = Outline(names=["clipped", "more", "weight"]).packed
    sealed = {n: told.sealed[n]["n0"] for n in told.sealed if n != "n0"}
    with pytest.raises(SpecError, match="one masked vector"):
        found["n0"].ask(
            "mask", told.terms, of="work", outline=other, taking_part=sorted(found), sealed=sealed
        )
    assert (told.ask_vector(found["n0"]) == first).all()


@pytest.mark.parametrize("noise", [None, NOISE], ids=["plain", "noise"])
@pytest.mark.parametrize("is_over", [False, True], ids=["asked again", "after it has revealed"])
def test_a_contribution_that_was_computed_again_and_differs_is_never_masked_with_the_same_keys(
    noise: Any, is_over: bool
) -> None:
    """The researcher lets the first be released and the same work be done again: the key is the same, the vector is not."""
    about = {"rule": "plain", "max_weight": 1.0, "threshold": 4, "noise": noise}
    found, told = nodes(5), Transcript(terms_for(9 if noise else 5, **about))
    for step in (told.ask_keys, told.ask_shares, told.ask_vector):
        for node in found.values():
            step(node)
    if is_over:
        for node in found.values():
            told.ask_signature(node)
        for node in found.values():
            told.ask_shares_revealed(node)
    node, first = found["n0"], told.vectors["n0"].copy()
    kept, node.vector = node.vector, node.vector + np.arange(LENGTH, dtype=np.uint32)
    for _ in range(2):
        with pytest.raises(OtherContribution, match="a new attempt is needed, with fresh ones"):
            told.ask_vector(node)
    node.vector = kept
    assert (told.ask_vector(node) == first).all()


def test_a_further_attempt_takes_the_other_contribution_with_fresh_masks_and_other_noise() -> None:
    about = {"rule": "plain", "max_weight": 1.0, "threshold": 4, "noise": NOISE}
    found, noises = nodes(5), []
    for attempt in (1, 2, 3):
        told = Transcript(terms_for(9, attempt=attempt, **about))
        for step in (told.ask_keys, told.ask_shares, told.ask_vector):
            for node in found.values():
                step(node)
        noises.append({n: (one.added[told.terms.digest] - one.vector) for n, one in found.items()})
        if attempt == 2:
            found["n0"].vector = found["n0"].vector + np.uint32(1)
    assert all((noises[0][name] == noises[1][name]).all() for name in found)  # nothing to be averaged
    assert (noises[2]["n0"] != noises[0]["n0"]).any()
    assert (noises[2]["n1"] == noises[0]["n1"]).all()


def test_claims_of_dropouts_give_no_second_sum() -> None:
    """Who agreed to one sum agrees to no other: the difference of two would be one node's vector."""
    found, told = summed()
    everybody = sorted(found)
    for node in found.values():
        told.ask_signature(node, everybody)
    for name in everybody[:4]:
        with pytest.raises(SpecError, match="agrees to one sum"):
            told.ask_signature(found[name], everybody[:4])


def test_a_sum_without_the_node_itself_or_with_strangers_or_of_too_few_is_not_agreed_to() -> None:
    found, told = summed()
    everybody = sorted(found)
    for survivors in (everybody[1:], [*everybody, "n9"], everybody[:3], everybody[:1], []):
        with pytest.raises(SpecError):
            told.ask_signature(found["n0"], survivors)
    assert not told.signatures


def test_nothing_is_revealed_without_the_signatures_of_the_threshold() -> None:
    found, told = summed()
    everybody = sorted(found)
    for node in found.values():
        told.ask_signature(node, everybody)
    few = dict(list(told.signatures.items())[: told.terms.threshold - 1])
    forged = {**few, "n4": few["n0"]}
    for signatures in (few, forged, {}, {name: secrets.token_bytes(64) for name in everybody}):
        with pytest.raises(SpecError, match="nothing is revealed"):
            found["n0"].ask("reveal", told.terms, signatures=signatures)
    assert num_recovered(told, found) == 0


def test_signatures_of_another_sum_do_not_count() -> None:
    """Half of the nodes are made to agree to one sum and half to another: neither gets enough."""
    found, told = nodes(6), Transcript(terms_for(6, threshold=5))
    for node in found.values():
        told.ask_keys(node)
    for node in found.values():
        told.ask_shares(node)
    for node in found.values():
        told.ask_vector(node)
    everybody = sorted(found)
    for number, node in enumerate(found.values()):
        told.ask_signature(node, everybody if number < 3 else everybody[1:])
    for node in found.values():
        with pytest.raises(SpecError, match="nothing is revealed"):
            told.ask_shares_revealed(node)
    assert num_recovered(told, found) == 0


def test_both_shares_of_one_node_are_never_revealed() -> None:
    found, told = shared()
    for name in ("n0", "n1", "n2", "n3"):
        told.ask_vector(found[name])
    for name in ("n0", "n1", "n2", "n3"):
        told.ask_signature(found[name])
    for name in ("n0", "n1", "n2", "n3"):
        told.ask_shares_revealed(found[name])
        told.ask_shares_revealed(found[name])  # again: the same
    told.ask_vector(found["n4"])  # it was slow, and is asked although it counts as lost
    assert not told.holds_both()
    assert num_recovered(told, found) == 0
    assert (told.sum_of(["n0", "n1", "n2", "n3"]) == plain_sum(found, ["n0", "n1", "n2", "n3"])).all()


def test_an_attempt_after_a_node_has_revealed_is_refused() -> None:
    found, told = summed()
    for node in found.values():
        told.ask_signature(node)
    for node in found.values():
        told.ask_shares_revealed(node)
    again = Transcript(terms_for(5, attempt=2))
    for node in found.values():
        with pytest.raises(SpecError, match="there is no second one"):
            again.ask_keys(node)
    with pytest.raises(SpecError, match="there is no second one"):
        Transcript(terms_for(5, attempt=1, threshold=5)).ask_keys(found["n0"])


def test_a_new_attempt_forfeits_the_one_before() -> None:
    found, told = summed()
    again = Transcript(terms_for(5, attempt=2))
    for node in found.values():
        again.ask_keys(node)
    for node in found.values():
        with pytest.raises(SpecError, match="takes no part in that sum"):
            told.ask_signature(node)
    with pytest.raises(SpecError, match="attempt 2"):
        Transcript(terms_for(5, attempt=1, threshold=5)).ask_keys(found["n0"])


def revealed_without(found: dict, told: Transcript, silent: tuple[str, ...]) -> None:
    """Let a sum of all become known, which some of its nodes have revealed nothing of."""
    for node in found.values():
        told.ask_signature(node)
    for name, node in found.items():
        if name not in silent:
            told.ask_shares_revealed(node)
    assert (told.sum_of() == plain_sum(found, sorted(found))).all()


def test_nodes_that_have_not_revealed_their_part_of_a_known_sum_take_part_in_no_second_one() -> None:
    """Ten nodes, of which seven reveal the sum of all: the other three would be enough for a second sum."""
    found, told = summed(10)
    silent = ("n7", "n8", "n9")
    revealed_without(found, told, silent)
    again = Transcript(terms_for(10, attempt=2, threshold=3))
    for name in silent:
        again.ask_keys(found[name])
    for name in silent:
        with pytest.raises(
            SpecError, match="7 nodes of an earlier attempt are not in this one, and 7 can reveal"
        ):
            again.ask_shares(found[name])
    # nor later, when there was another attempt in between
    third = Transcript(terms_for(10, attempt=3, threshold=3))
    for name in silent:
        third.ask_keys(found[name])
    for name in silent:
        with pytest.raises(SpecError, match="earlier attempt"):
            third.ask_shares(found[name])


def test_nodes_that_are_left_of_an_attempt_that_failed_make_another_one() -> None:
    """Of ten nodes three are lost after their vectors: seven have keys for a second attempt, so the first is dead."""
    found, told = summed(10)
    left = sorted(found)[:7]
    again = Transcript(terms_for(10, attempt=2, threshold=5))
    for name in left:
        again.ask_keys(found[name])
    for name in left:
        again.ask_shares(found[name])
    for name in left:
        again.ask_vector(found[name])
    for name in left:
        again.ask_signature(found[name])
    for name in left:
        again.ask_shares_revealed(found[name])
    assert (again.sum_of() == plain_sum(found, left)).all()
    for name in (
        "n7",
        "n8",
        "n9",
    ):  # they may still think that the first is going on; three are too few for it
        told.ask_signature(found[name])
    with pytest.raises(SpecError, match="3 nodes have agreed"):
        told.ask_shares_revealed(found["n7"])


def test_shares_for_one_node_are_of_no_use_to_another() -> None:
    found, told = shared()
    mixed = {
        "n1": told.sealed["n1"]["n2"],
        "n2": told.sealed["n2"]["n1"],
        "n3": told.sealed["n3"]["n0"],
        "n4": b"x" * 80,
    }
    with pytest.raises(FedjobError, match="was not sealed by it for n0"):
        found["n0"].ask(
            "mask", told.terms, of="work", outline=OUTLINE, taking_part=sorted(found), sealed=mixed
        )


@pytest.mark.parametrize("step", ["shares", "mask", "agree", "reveal"])
def test_a_step_before_its_time_is_refused(step: str) -> None:
    found, told = nodes(4), Transcript(terms_for(4))
    body = {"keys": [], "outline": OUTLINE, "sealed": {}, "survivors": sorted(found), "signatures": {}}
    with pytest.raises(FedjobError):
        found["n0"].ask(step, told.terms, **body)
    told.ask_keys(found["n0"])
    with pytest.raises(FedjobError):
        found["n0"].ask(step, told.terms, **body)


def test_a_wrong_share_is_found_out_and_the_sum_comes_of_the_others() -> None:
    found, told = summed()
    for node in found.values():
        told.ask_signature(node)
    for node in found.values():
        told.ask_shares_revealed(node)
    liar = told.revealed["n0"]
    wrong = {name: secrets.token_bytes(SHARE_BYTES - 1) + b"\0" for name in liar.own_masks}
    wrong = {name: b"\0" + share[:-1] for name, share in wrong.items()}
    told.revealed["n0"] = replace(liar, own_masks=wrong)
    assert (told.sum_of() == plain_sum(found, sorted(found))).all()
    told.revealed["n1"] = replace(told.revealed["n1"], own_masks=wrong)
    with pytest.raises(SpecError, match="the sum stays hidden"):
        told.sum_of()


# --- shares ------------------------------------------------------------------------------------------


def test_any_threshold_of_shares_gives_the_secret_back() -> None:
    secret = secrets.token_bytes(32)
    shares = divided(secret, 3, range(1, 7))
    for places in itertools.combinations(range(6), 3):
        assert combined({place + 1: shares[place] for place in places}) == secret
    assert combined({place + 1: share for place, share in enumerate(shares)}) == secret


def test_fewer_shares_fit_any_secret() -> None:
    """For every other secret there is a polynomial through the same two shares: they say nothing."""
    shares = divided(secrets.token_bytes(32), 3, range(1, 6))
    known = {1: int.from_bytes(shares[0], "big"), 2: int.from_bytes(shares[1], "big")}
    for other in (0, 1, secrets.randbelow(2**256)):
        points = {0: other, **known}
        third = 0
        for x, y in points.items():
            above = below = 1
            for z in points:
                if z != x:
                    above, below = above * (3 - z) % PRIME, below * (x - z) % PRIME
            third = (third + y * above * pow(below, -1, PRIME)) % PRIME
        forged = {
            **{k: v.to_bytes(SHARE_BYTES, "big") for k, v in known.items()},
            3: third.to_bytes(SHARE_BYTES, "big"),
        }
        assert combined(forged) == other.to_bytes(32, "big")


@pytest.mark.parametrize(("num_nodes", "threshold"), [(3, 3), (4, 3), (5, 4), (10, 7), (100, 67)])
def test_the_usual_threshold_is_two_thirds_and_one(num_nodes: int, threshold: int) -> None:
    assert usual_threshold(num_nodes) == threshold
    assert SecAgg().threshold_of(num_nodes) == threshold


def test_two_sums_of_the_same_vectors_have_nothing_in_common() -> None:
    first, second = summed()[1], summed()[1]
    for name in first.vectors:
        assert np.count_nonzero(first.vectors[name] == second.vectors[name]) <= 2


def test_the_outline_of_a_deep_network_and_of_many_metrics_has_room_in_a_message() -> None:
    """A network of 1200 tensors, such as DenseNet-201, or 400 metrics, had no secure sum: too large for a message."""
    names = [
        f"features.denseblock{block}.denselayer{layer}.norm{norm}.{what}"
        for block in range(4)
        for layer in range(50)
        for norm in (1, 2)
        for what in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]
    cells = [
        f"metrics\0:test\0:confusion\0:cells\0:{row}\0:{column}" for row in range(64) for column in range(64)
    ]
    outline = Outline(
        names=sorted(cells), exact=sorted(cells), constants={"metrics\0:k": 64}, relative=sorted(names)
    )
    assert Outline.unpacked(outline.packed) == outline
    assert len(pack(to_plain(outline))) > 4 * MAX_PAYLOAD_BYTES
    assert len(outline.packed) < MAX_INLINE_BYTES


@pytest.mark.parametrize(
    "sent",
    [
        None,
        {"names": []},
        b"",
        b"nonsense",
        Outline(names=["a"]).packed[:-3],
        Outline(names=["a"]).packed + b"more",
        zlib.compress(b"nonsense"),
        zlib.compress(bytes(MAX_UNPACKED_BYTES + 1)),
    ],
    ids=["nothing", "plain", "empty", "no zlib", "cut short", "too long", "no map", "a bomb"],
)
def test_an_outline_that_is_none_is_refused(sent: object) -> None:
    with pytest.raises(FedjobError):
        Outline.unpacked(sent)
