"""A node's answer to private statistics, and its form.

Noise stands in place of the record of releases, see `privacy.release_book`: the record keeps exact numbers from being about few rows
by themselves or as differences, and noisy ones hide each row whatever they are about and whatever else was released.
So groups and categories of few rows are answered like all others. An owner's minimum of rows is that of the dataset here,
as it was registered: whether a smaller set reaches it is something about records.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fedjob.aggregation.contribution import Contribution
from fedjob.common.errors import NodeFailure
from fedjob.privacy.dp.discrete_noise import RandomBytes
from fedjob.privacy.dp.sum_terms import SumTerms
from fedjob.protocols.analytics.measures import Measures
from fedjob.protocols.analytics.private_statistics.exact_sums import exact_sums
from fedjob.protocols.analytics.private_statistics.questions import (
    SENSITIVITIES,
    num_groups,
    questions_of,
)
from fedjob.protocols.analytics.table import frame_of, need_columns
from fedjob.protocols.answer_form import AnswerForm, Number, Numbers, Record, Row

if TYPE_CHECKING:
    from fedjob.protocols.base import Local

NOISED = "noised"
"""The only step under differential privacy, in which a node answers all sums at once, with noise; also their key."""

VARIANCES = "variances"


def noisy_form(measures: Measures) -> AnswerForm:
    """Return the form of what `noisy_contribution` returns."""
    groups = num_groups(measures)
    sums = Row(tuple(Numbers((groups * question.bins,)) for question in questions_of(measures)))
    return Record({NOISED: sums, VARIANCES: Numbers((len(SENSITIVITIES),), Number(0.0))})


def noisy_contribution(
    measures: Measures, local: Local, *, asked: bool, source: RandomBytes = os.urandom
) -> Contribution:
    """Return the sums of a node's rows with noise, each by its sensitivity, and the variances of the noise on these.

    Args:
        asked: whether the task asks for this step.
        source: of the random bits; the operating system's but in tests.

    Raises:
        NodeFailure: with reason `privacy`: the task and its noise do not belong together; with reason `min_rows`: the
            dataset is smaller than its owner's minimum; with reason `columns`: it lacks a column.
    """
    if not (asked and local.noise):
        found = "has no terms of its noise" if asked else "asks for exact numbers"
        raise NodeFailure(local.node, "privacy", f"under differential privacy this task {found}")
    terms, questions = SumTerms.from_plain(local.noise), questions_of(measures)
    if terms.number != len(questions):
        raise NodeFailure(
            local.node,
            "privacy",
            f"the noise is for {terms.number} sums, and these statistics are {len(questions)}",
        )
    min_rows = int(local.limits.get("min_rows") or 0)
    if terms.num_rows < min_rows:
        raise NodeFailure(
            local.node,
            "min_rows",
            f"the dataset has {terms.num_rows} rows, fewer than the owner's minimum of {min_rows}",
        )
    frame = frame_of(local)
    need_columns(local.node, frame, (*measures.all_columns, *measures.by))
    exact = exact_sums(measures, questions, frame)
    value = {
        NOISED: [
            [
                number / question.sensitivity
                for number in terms.noised(numbers, question.sensitivity, source=source)
            ]
            for question, numbers in zip(questions, exact, strict=True)
        ],
        VARIANCES: [terms.variance(size) / size**2 for size in SENSITIVITIES],
    }
    return Contribution(value, float(terms.num_rows))
