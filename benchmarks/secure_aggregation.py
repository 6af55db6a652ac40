"""What secure aggregation costs: a node's processor time for masking, and seconds per round with and without, in pairs.

The processor time is also that with the noise of whole nodes.

python benchmarks/secure_aggregation.py                                      masks, 100 MB and 40 kB a round, 4 nodes
python benchmarks/secure_aggregation.py --graphs                             20 to 1000 nodes, one of them
python benchmarks/secure_aggregation.py --params 25000000 --pairs 4 --rounds 6
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _federation import BenchFederation, federation, spread

from fedjob import FedAvg, Job, Protect, SecAgg
from fedjob.common.codec import pack
from fedjob.parameters.files import save_params
from fedjob.privacy.secagg.contribution_numbers import contribution_numbers
from fedjob.privacy.secagg.key_agreement import plain_keys, sealed_shares
from fedjob.privacy.secagg.masked_vector import (
    TensorFile,
    UnmaskedVector,
    contribution_digest,
    write_vector,
)
from fedjob.privacy.secagg.neighbours import size_of_graph
from fedjob.privacy.secagg.node_noise import NoiseTerms, OwnNoise, noise_terms
from fedjob.privacy.secagg.node_session import Mask, graphs_of, survivors_bytes, taking_part_bytes
from fedjob.privacy.secagg.secret_sharing import SHARE_BYTES
from fedjob.privacy.secagg.terms import Terms, usual_threshold
from tests.secure_sums import OUTLINE, Transcript, nodes, terms_for

HERE = Path(__file__).parent
MASKED, NODES = 10_000_000, 20

SIZES = (20, 100, 300, 1000)
PARTS = ((0.0, 1.0), (0.2, 0.1), (0.1, 0.1))
"""Parts of colluding and of lost nodes; for the first no graph is enough, so that all are neighbours."""


def masking(repetitions: int = 5) -> None:
    """Print the processor time of one node of 20 for 10 million parameters: keys, shares, masks, the file."""
    found, told = nodes(NODES), Transcript(terms_for(NODES))
    for node in found.values():
        told.ask_keys(node)
    began = time.process_time()
    for node in found.values():
        told.ask_shares(node)
    shares_s = (time.process_time() - began) / NODES
    with tempfile.TemporaryDirectory(prefix="fedjob-bench-") as folder:
        own, before = Path(folder) / "own", Path(folder) / "before"
        params = {f"p{k}": torch.randn(MASKED // 10) for k in range(10)}
        save_params(params, before)
        save_params({name: tensor + 0.01 for name, tensor in params.items()}, own)
        masks = [Mask(bytes([k]) * 32, bytes([k + 100]) * 32, 1 if k % 2 else -1) for k in range(NODES)]
        numbers, _ = contribution_numbers(None, 100.0, {}, {})
        values = [numbers.values[name] for name in sorted(numbers.values)]
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for number in range(2 * repetitions):
            noised = number % 2 == 1
            terms = terms_for(NODES, noise=_noise()) if noised else terms_for(NODES)
            vector = UnmaskedVector(
                own=TensorFile(own),
                origin=TensorFile(before),
                relative=list(params),
                factor=0.5,
                numbers=values,
                count_at=0,
                is_noised=noised,
            )
            bound = contribution_digest(vector, terms.fixed_point)
            began = time.process_time()
            noise = _own_noise(terms) if noised else None
            path = Path(folder) / f"masked-{number}"
            write_vector(path, vector, bound, terms.fixed_point, masks, noise)
            path.unlink()
            seconds[noised].append(time.process_time() - began)
    print(f"{MASKED:,} parameters among {NODES} nodes, processor time of one node:")
    print(f"  shares for the others {shares_s * 1000:.1f} ms")
    print(f"  fixed point, {NODES} masks, file: {spread(seconds[False])}")
    print(f"  the same with the noise of whole nodes: {spread(seconds[True])}", flush=True)


def graphs(num_params: int) -> None:
    """Print what a sum costs one node: all others as its neighbours, and a few."""
    print(
        f"one node of a sum of {num_params:,} parameters, without the vector's own {num_params * 4:,} bytes:"
    )
    for num_nodes in SIZES:
        for part in PARTS:
            size = size_of_graph(num_nodes, *part)
            if size is None and part != PARTS[0]:
                continue
            degree, about = (num_nodes - 1, "all") if size is None else (size.degree, f"colluding {part[0]}")
            vector_s, others_s, sent, received = _one_node(num_nodes, num_params, part)
            print(
                f"  {num_nodes:>3} nodes, {degree:>3} neighbours ({about}): {vector_s:6.2f} s for the vector, "
                f"{others_s * 1000:6.0f} ms for all other steps; {sent:>7,} bytes sent, {received:>7,} received",
                flush=True,
            )


def _one_node(num_nodes: int, num_params: int, part: tuple[float, float]) -> tuple[float, float, int, int]:
    """Return the processor time of one node's vector and of its other steps, and bytes; the others' halves cost nothing."""
    terms = terms_for(num_nodes, colluding=part[0], dropouts=part[1])
    found, told = nodes(num_nodes), Transcript(terms)
    for node in found.values():
        told.ask_keys(node)
    own, others = found["n0"], [node for name, node in found.items() if name != "n0"]
    lots = {} if not told.has_graph else {n.name: n.sessions.find(terms).lot for n in found.values()}  # type: ignore[union-attr]
    graph = graphs_of(terms, told.keys, lots)[0]
    sealed = {}
    for name in graph.of("n0"):
        key = found[name].sessions.find(terms).share_key  # type: ignore[union-attr]
        sealed[name] = sealed_shares(key, told.keys["n0"].shares, terms, name, "n0", bytes(2 * SHARE_BYTES))
    names, sent, received = sorted(found), 0, 0
    began = time.process_time()

    def ask(step: str, **body: Any) -> Any:
        nonlocal sent, received
        answer = own.ask(step, terms, settings=SecAgg(threshold=2), **body)
        received += len(pack(body))
        sent += len(pack(answer if step != "mask" else answer[1]))
        return answer

    ask("keys")
    if lots:
        ask("draw", keys=plain_keys(told.keys))
        ask("shares", lots=lots)
    else:
        ask("shares", keys=plain_keys(told.keys))
    ask("mask", of="work", outline=OUTLINE, taking_part=names, sealed=sealed)
    others_s = time.process_time() - began
    session = own.sessions.find(terms)
    assert session is not None
    masked_for = {node.name: node.identity.sign(taking_part_bytes(session)) for node in others}
    session = replace(session, survivors=names)
    signatures = {node.name: node.identity.sign(survivors_bytes(session)) for node in others}
    began = time.process_time()
    ask("agree", survivors=names, masked=masked_for)
    ask("reveal", signatures=signatures)
    others_s += time.process_time() - began
    return _vector_s(num_params, len(sealed) + 1, terms), others_s, sent, received


def _vector_s(num_params: int, num_masks: int, terms: Terms) -> float:
    with tempfile.TemporaryDirectory(prefix="fedjob-bench-") as folder:
        own = Path(folder) / "own"
        save_params({"p": torch.randn(num_params)}, own)
        masks = [Mask(bytes([k % 256]) * 32, bytes(32), 1 if k % 2 else -1) for k in range(num_masks)]
        vector = UnmaskedVector(
            own=TensorFile(own), origin=None, relative=[], factor=0.5, numbers=[0], count_at=0
        )
        bound = contribution_digest(vector, terms.fixed_point)
        began = time.process_time()
        write_vector(Path(folder) / "masked", vector, bound, terms.fixed_point, masks)
        return time.process_time() - began


def _noise() -> NoiseTerms:
    return noise_terms(
        epsilon=8.0,
        delta=1e-5,
        clip_norm=1.0,
        rounds=10,
        length=MASKED,
        num_nodes=NODES,
        threshold=usual_threshold(NODES),
        clip=8.0,
        bits=32,
    )


def _own_noise(terms: Terms) -> OwnNoise:
    assert terms.share is not None
    return OwnNoise(
        key=bytes(32), share=terms.share, dtype=terms.fixed_point.dtype, clip=terms.clip, clip_norm=1.0
    )


def seconds_of_rounds(
    bench: BenchFederation, protect: Protect | None, num_params: int, rounds: int
) -> list[float]:
    """Run one job and return the seconds of its rounds, without the first ones."""
    job = Job(
        FedAvg(),
        training_plan=f"{HERE}/_plans.py:AddOne",
        data={"tags": ["bench"]},
        model_args={"num_params": num_params, "num_tensors": 10},
        rounds=rounds,
        breakpoint_every=rounds,
        session=bench.session,
        seed=1,
        protect=protect,
    )
    job.run(progress=False)
    return [event.body["seconds"] for event in job.events() if event.type == "round"][2:]


def compare(bench: BenchFederation, num_params: int, rounds: int, pairs: int) -> None:
    """Print the rounds of both, and the median ratio of the pairs."""
    found: dict[str, list[float]] = {"plain": [], "secure": []}
    ratios = []
    for pair in range(pairs):
        order = ("plain", "secure") if pair % 2 == 0 else ("secure", "plain")
        both = {
            kind: seconds_of_rounds(
                bench, Protect(secagg=True) if kind == "secure" else None, num_params, rounds
            )
            for kind in order
        }
        ratios.append(statistics.median(both["secure"]) / statistics.median(both["plain"]))
        for kind, seconds in both.items():
            found[kind] += seconds
    print(f"{len(bench.nodes)} nodes, {num_params:>10,} parameters:")
    for kind, seconds in found.items():
        print(f"  {kind:<6} round {spread(seconds)}")
    shown = ", ".join(f"{each:.2f}" for each in ratios)
    print(f"  median ratio of {pairs} pairs {statistics.median(ratios):.2f} ({shown})", flush=True)


def main() -> None:
    """Print the figures that were asked for, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--params", type=int)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--graphs", action="store_true", help="what a sum of many nodes costs one of them")
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    if given.graphs:
        graphs(given.params or 1_000_000)
        return
    if not given.params:
        masking()
        graphs(1_000_000)
    with federation(given.nodes) as bench:
        if given.params:
            compare(bench, given.params, given.rounds, given.pairs)
            return
        compare(bench, 25_000_000, given.rounds, given.pairs)
        compare(bench, 10_000, 5 * given.rounds, given.pairs)


if __name__ == "__main__":
    main()
