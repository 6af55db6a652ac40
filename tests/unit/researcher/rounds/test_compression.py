"""Compressed answers at the researcher: opened once they are what was asked for, else refused by name."""

from __future__ import annotations

import struct
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

from fedjob import Int8, TopK
from fedjob.aggregation.guard import Guard
from fedjob.aggregation.mean import WeightedMean
from fedjob.common.types import new_job_id
from fedjob.messaging.messages import Result
from fedjob.parameters.compression.parcels import pack_tensors
from fedjob.parameters.files import FileParams, save_params
from fedjob.protocols.base import Ask, Reply
from fedjob.repository.parts import ref_of
from fedjob.researcher.rounds.arrival_checks import ArrivalChecks
from fedjob.researcher.rounds.compression import SENT, SENT_TO, Compression
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.replies import Arrival
from fedjob.researcher.storage.spec import Component, JobSpec

NODES = ("a", "b")


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def way(compressor: Any) -> Compression:
    config = {"block": 256} if isinstance(compressor, Int8) else {"fraction": compressor.fraction}
    spec = JobSpec(
        id=new_job_id(),
        protocol=Component(name="fedavg"),
        rounds=9,
        seed=1,
        compress=Component(name=compressor.name, config=config),
    )
    return Compression(spec=spec, publish=ref_of, compressor=compressor, exact=frozenset({"buffer"}))


def an_ask(seed: int = 0) -> Ask:
    return Ask(shared={"params": {"w": drawn(seed, 30, 30), "buffer": drawn(seed + 1, 100).abs()}})


def answered(folder: Path, tensors: dict[str, torch.Tensor], raw: bool = False, **more: Any) -> Arrival:
    path = folder / "train_a.safetensors"
    path.unlink(missing_ok=True)
    save_params(tensors if raw else pack_tensors(tensors, Int8(), **more).parcels, path)
    result = Result(of="", key="", ok=True, num_examples=3, weight=3.0, params=ref_of(path), state="s")
    return Arrival(node="a", result=result, params=FileParams(path))


def refusal(folder: Path, arrival: Arrival) -> tuple[str, Arrival]:
    compression, ask = way(Int8()), an_ask()
    compression.send(ask, Position(state={}), NODES, folder)
    checks = ArrivalChecks(
        ask=ask,
        aggregator=WeightedMean(),
        guard=Guard(max_norm=100.0),
        num_rows={},
        had_state={},
        open_=lambda one: compression.opened(one, ask, 1000),
    )
    return checks.refusal(arrival), checks.counted(arrival)


def test_an_answer_counts_as_a_change_of_the_exact_parameters(tmp_path: Path) -> None:
    params = an_ask().shared["params"]
    trained = {name: tensor + 0.01 for name, tensor in params.items()}
    problem, counted = refusal(tmp_path, answered(tmp_path, trained, origin=params, exact={"buffer"}))
    assert problem == ""
    assert counted.params is not None
    assert torch.allclose(counted.params["w"], trained["w"], atol=1e-3)
    assert torch.equal(counted.params["buffer"], trained["buffer"])


def parcel(**changes: bytes) -> dict[str, torch.Tensor]:
    found = dict(pack_tensors(dict(an_ask().shared["params"]), Int8(), exact={"buffer"}).parcels)
    return found | {name: torch.tensor(list(data), dtype=torch.uint8) for name, data in changes.items()}


def nan_scales() -> bytes:
    good = bytearray(parcel()["w"].numpy().tobytes())
    at = 3 + 16 + 9  # kind, dtype and axes; their lengths; the frame of the scales
    good[at : at + 4] = struct.pack("<f", float("nan"))
    return bytes(good)


HOSTILE: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "plain tensors": (
        dict(an_ask().shared["params"]),
        "unreadable: .*expected the bytes of a compressed tensor",
    ),
    "no bytes": (parcel(w=b""), "unreadable"),
    "rubbish": (parcel(w=bytes(range(99, 200))), "unreadable"),
    "rubbish that begins well": (parcel(w=bytes(range(200))), "bad_shape: w is"),
    "a bomb of zeros": (
        {**parcel(), **pack_tensors({"w": torch.zeros(5000, 5000)}, Int8()).parcels},
        r"bad_shape: w is F32 \[5000, 5000\], expected F32 \[30, 30\]",
    ),
    "an axis beyond all": (
        parcel(w=struct.pack("<BBBQ", 1, 3, 1, 1 << 60)),
        r"bad_shape: w is F32 \[1152921504606846976\]",
    ),
    "scales of nothing": (parcel(w=nan_scales()), "unreadable: .*scale"),
    "a name too few": ({"w": parcel()["w"]}, "bad_names: missing"),
    "a name too many": (
        {**parcel(), "more": parcel()["buffer"]},
        r"bad_names: missing \[\], unexpected \['more'\]",
    ),
    "another shape": (
        {**parcel(), **pack_tensors({"w": drawn(1, 900)}, Int8()).parcels},
        r"bad_shape: w is F32 \[900\], expected F32 \[30, 30\]",
    ),
    "another dtype": (
        {**parcel(), **pack_tensors({"buffer": drawn(1, 50).double()}, Int8()).parcels},
        "bad_shape: buffer is F64",
    ),
    "infinity, exactly": (
        {
            **parcel(),
            **pack_tensors({"buffer": torch.full((100,), float("inf"))}, Int8(), exact={"buffer"}).parcels,
        },
        "not_finite: buffer",
    ),
    "a long update": (
        {**parcel(), **pack_tensors({"w": drawn(1, 30, 30) * 1e6}, Int8()).parcels},
        "long_update",
    ),
}


@pytest.mark.parametrize(("tensors", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_answer_is_refused_by_name(
    tensors: dict[str, torch.Tensor], words: str, tmp_path: Path
) -> None:
    import re

    problem, _ = refusal(tmp_path, answered(tmp_path, tensors, raw=True))
    assert re.match(words, problem), problem


@pytest.mark.parametrize("compressor", [Int8(), TopK(0.1)], ids=str)
def test_what_nodes_have_follows_the_exact_parameters_and_a_node_that_lacks_it_gets_the_whole(
    compressor: Any, tmp_path: Path
) -> None:
    compression, state, states = way(compressor), {}, {}
    for round_ in range(12):
        ask = an_ask(seed=0) if round_ > 3 else an_ask(seed=round_)  # they stay the same from then on
        spool = tmp_path / str(round_)
        spool.mkdir()
        sent = compression.send(ask, Position(state=state, node_states=states), NODES, spool)
        assert {node: how["down"] for node, how in sent.how.items()} == {
            "a": "changes" if round_ else "whole",
            "b": "changes" if round_ and round_ != 6 else "whole",
        }
        replies = {
            node: Reply(node=node, state=f"{node}{round_}") for node in NODES if (node, round_) != ("b", 5)
        }
        states = states | {node: reply.state for node, reply in replies.items()}
        state = compression.after({}, ask, replies)
        assert set(state[SENT_TO]) == set(replies)
    params = ask.shared["params"]
    assert torch.equal(state[SENT]["buffer"], params["buffer"])
    assert float((state[SENT]["w"] - params["w"]).abs().max()) < (0.02 if compressor.name == "int8" else 1.0)


def test_nothing_is_compressed_where_answers_of_other_rounds_count_or_a_node_has_its_own(
    tmp_path: Path,
) -> None:
    late = Ask(shared=an_ask().shared, late="keep")
    assert not way(Int8()).send(late, Position(state={}), NODES, tmp_path).refs
    own = Ask(shared=an_ask().shared, each=MappingProxyType({"a": {"params": {"w": drawn(1, 30, 30)}}}))
    assert list(way(Int8()).send(own, Position(state={}), NODES, tmp_path).refs) == ["b"]
