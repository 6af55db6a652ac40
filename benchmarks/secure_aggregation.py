"""What secure aggregation costs: a node's processor time for masking, and seconds per round with and without, in pairs.

The processor time is also that with the noise of whole nodes.

python benchmarks/secure_aggregation.py                                      masks, 100 MB and 40 KB a round, 4 nodes
python benchmarks/secure_aggregation.py --params 25000000 --pairs 4 --rounds 6
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from _federation import BenchFederation, federation, spread

from fedjob import FedAvg, Job, Protect
from fedjob.parameters.files import save_params
from fedjob.privacy.secagg.contribution_numbers import contribution_numbers
from fedjob.privacy.secagg.masked_vector import TensorFile, write_vector
from fedjob.privacy.secagg.node_noise import NoiseTerms, OwnNoise, noise_terms
from fedjob.privacy.secagg.node_session import Mask
from fedjob.privacy.secagg.terms import Terms, usual_threshold
from tests.secure_sums import Transcript, nodes, terms_for

HERE = Path(__file__).parent
MASKED, NODES = 10_000_000, 20


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
            began = time.process_time()
            write_vector(
                Path(folder) / f"masked-{number}",
                TensorFile(own),
                TensorFile(before),
                list(params),
                0.5,
                values,
                terms.fixed_point,
                masks,
                0,
                _own_noise(terms) if noised else None,
            )
            seconds[noised].append(time.process_time() - began)
    print(f"{MASKED:,} parameters among {NODES} nodes, processor time of one node:")
    print(f"  shares for the others {shares_s * 1000:.1f} ms")
    print(f"  fixed point, {NODES} masks, file: {spread(seconds[False])}")
    print(f"  the same with the noise of whole nodes: {spread(seconds[True])}", flush=True)


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
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    if not given.params:
        masking()
    with federation(given.nodes) as bench:
        if given.params:
            compare(bench, given.params, given.rounds, given.pairs)
            return
        compare(bench, 25_000_000, given.rounds, given.pairs)
        compare(bench, 10_000, 5 * given.rounds, given.pairs)


if __name__ == "__main__":
    main()
