"""Whether an offered job could start here, and what is held for it until its first task comes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.common.lifecycle import ACTIVE, PENDING
from fedjob.common.needs import read_need
from fedjob.node import taskkeeping as keeping
from fedjob.node.parts import Turn
from fedjob.node.resources import Judgement, judge
from fedjob.node.settings import NodeConfig


def consider(
    turn: Turn,
    config: NodeConfig,
    *,
    researcher: str,
    job: str,
    resources: Mapping[str, Any],
    reserve: bool,
) -> Judgement:
    """Judge whether a job could start, and hold what it needs if it wants that and nothing is short."""
    book = turn.book
    try:
        need = read_need(resources)
    except SpecError as error:
        return Judgement(schedule="resources", short=(str(error)[:200],), workers=config.workers)
    judgement = judge(
        book.ledger,
        job,
        need,
        workers=config.workers,
        active=sum(row.state in ACTIVE for row in book.tasks.values()),
        ahead=sum(row.state in PENDING for row in book.tasks.values()),
        is_open=book.is_open,
    )
    if reserve and need.holds and not judgement.short and job:
        turn.step(keeping.Reserve(job, researcher, dict(resources), time.monotonic() + config.reserve_s))
    return judgement
