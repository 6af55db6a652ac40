"""A node's answer as a fold takes it, and as a protocol may know it."""

from __future__ import annotations

import hashlib

from fedjob.common.auxiliary import split
from fedjob.common.codec import pack
from fedjob.common.contribution import Contribution
from fedjob.common.protocols.base import Reply
from fedjob.common.usage import Usage
from fedjob.researcher.federation import Place
from fedjob.researcher.reply_files import Arrival


def contribution_of(arrival: Arrival, place: Place) -> Contribution:
    """Return what is folded; its tensors stay in their file until they are asked for."""
    return Contribution(
        arrival.result.value if arrival.params is None else arrival.params,
        arrival.result.weight,
        arrival.result.metrics,
        staleness=place.round - place.round_of(arrival.node),
    )


def reply_of(arrival: Arrival, place: Place) -> Reply:
    """Return what a protocol may know of it."""
    result = arrival.result
    return Reply(
        node=arrival.node,
        num_examples=result.num_examples,
        weight=result.weight,
        metrics=result.metrics,
        timing=result.timing,
        state=result.state,
        threads=result.threads,
        used=tuple(result.used),
        usage=None if result.usage is None else Usage(*result.usage),
        params_hash=result.params.sha256 if result.params else hashlib.sha256(pack(result.value)).hexdigest(),
        value=result.value,
        items=result.items,
        aux={} if arrival.params is None else split(arrival.params)[1],
        staleness=place.round - place.round_of(arrival.node),
    )
