"""The terms of a private training with tree noise at one node: the tree, its noise, and what each pass over the records costs.

DP-FTRL, Kairouz et al. 2021, https://arxiv.org/abs/2103.00039, with the tree begun anew at every pass. The records are
divided into blocks, one for each step of a pass; over the steps of a pass stands a binary tree, each node of which has
the sum of the bounded gradients of the steps below it and noise of its own. A record is in one step of a pass, and so
in one node of each of `TreeTerms.height` levels at most: whatever is computed from the noisy nodes of one pass, the
gradients of its steps among that, is one Gaussian mechanism with a sensitivity of the root of the height, however the
steps go by what came out before (Denisov et al. 2022, https://arxiv.org/abs/2202.08312, theorem 2.1). No record is
drawn by chance, so that no assumption about samples is made.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedjob.common.codec import from_plain
from fedjob.common.errors import SpecError
from fedjob.privacy.dp.calibration import noise_for
from fedjob.privacy.dp.mechanisms import Gaussian

SEED_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeTerms:
    """The terms of one round of private training with tree noise.

    Args:
        epsilon, delta: that all rounds together keep for each record.
        noise: standard deviation of the noise of one node of a tree, by the bound of a gradient's norm.
        blocks: into which the records are divided: steps of one pass over them.
        steps: of one round.
        rounds: that the noise is for.
        max_grad_norm: the bound on the Euclidean norm of one record's gradient.
        num_rows: of the dataset, as its owner registered it; the number is public.
    """

    epsilon: float
    delta: float
    noise: float
    blocks: int
    steps: int
    rounds: int
    max_grad_norm: float
    num_rows: int

    @property
    def height(self) -> int:
        """The most nodes of a tree that one of its steps is below: levels of which a node is ever complete."""
        return self.blocks.bit_length()

    @property
    def passes(self) -> int:
        """Passes over the records that all rounds begin."""
        return passes_of(0, self.steps * self.rounds, self.blocks)

    @property
    def sample_size(self) -> float:
        """The expected number of records in a block, by which the sum of a step is divided."""
        return self.num_rows / self.blocks

    @property
    def deviation(self) -> float:
        """The standard deviation of the noise of one node of a tree."""
        return self.noise * self.max_grad_norm

    def cost(self, passes: int) -> Gaussian:
        """Return the mechanism of so many passes over the records, one or more, for the ledger."""
        return Gaussian(noise=self.noise / math.sqrt(self.height), number=passes)

    def to_plain(self) -> dict[str, Any]:
        """Return them as plain data."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TreeTerms:
        """Build them from plain data."""
        return from_plain(cls, dict(plain))


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeStretch:
    """The steps of one computation on the trees of a job at a node.

    Args:
        seed: of all noise of these trees, and of the division into blocks; it never leaves the node.
        first: number of the stretch's first step among those of all rounds, from 0. A step is released once: what is
            computed again is given further steps, unless nothing of it had left.
    """

    terms: TreeTerms
    seed: bytes = field(repr=False)
    first: int

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"tree": self.terms.to_plain(), "seed": self.seed, "first": self.first}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TreeStretch:
        """Build it from plain data."""
        return cls(
            terms=TreeTerms.from_plain(plain["tree"]), seed=bytes(plain["seed"]), first=int(plain["first"])
        )


def fresh_seed() -> bytes:
    """Return a seed of the operating system's randomness."""
    return os.urandom(SEED_BYTES)


def passes_of(first: int, steps: int, blocks: int) -> int:
    """Return on how many passes, counted from the first one of all, steps up to those from `first` on are."""
    return -(-(first + steps) // blocks)


def variance_at(level: int) -> float:
    """Return the variance of the best estimate of a node's sum from it and all below it, by that of one node.

    Honaker 2015, "Efficient use of differentially private binary trees": each level's estimate weighs a node's own
    noisy sum against those of its two halves by their variances. 1 for a leaf, towards 1/2 with the level.
    """
    return 1.0 / (2.0 - 2.0**-level)


def end_variance(blocks: int) -> float:
    """Return the variance of the noise on the sum over a whole pass, by that of one node."""
    return math.fsum(variance_at(level) for level in range(blocks.bit_length()) if blocks >> level & 1)


def tree_terms(
    *,
    epsilon: float,
    delta: float,
    max_grad_norm: float,
    rounds: int,
    num_rows: int,
    batch_size: int,
    steps: int,
) -> TreeTerms:
    """Return the terms that keep an epsilon over all rounds of a job.

    Args:
        num_rows: of the dataset, as its owner registered it.
        batch_size: the expected number of records in a block, to rounding.
        steps: of one round.

    Raises:
        SpecError: there are too few rows, no noise is enough, or nothing could be learned under it.
    """
    if num_rows < batch_size:
        raise SpecError(
            f"tree noise is for blocks of about batch_size={batch_size} records, and there are {num_rows}: give a smaller "
            "batch_size in training_args"
        )
    if steps < 1:
        raise SpecError(
            "private training takes one step a round or more, and the training arguments ask for none"
        )
    blocks = -(-num_rows // batch_size)
    passes = passes_of(0, steps * rounds, blocks)
    noise = noise_for(epsilon, delta, number=passes) * math.sqrt(blocks.bit_length())
    if noise * math.sqrt(passes * end_variance(blocks)) >= batch_size * steps * rounds:
        raise SpecError(
            f"with {num_rows} rows and epsilon={epsilon:g} there would be nothing but noise: over all {steps * rounds} steps "
            "it moves every parameter by more than the records of the blocks can. Ask for a larger epsilon, a larger "
            "batch_size, or datasets of more rows"
        )
    return TreeTerms(
        epsilon=epsilon,
        delta=delta,
        noise=noise,
        blocks=blocks,
        steps=steps,
        rounds=rounds,
        max_grad_norm=max_grad_norm,
        num_rows=num_rows,
    )
