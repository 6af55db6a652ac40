"""Whether something may run here: the dataset, its limits, and the owner's grant."""

from __future__ import annotations

from dataclasses import dataclass

from fedjob.common.errors import FedjobError, PlanError
from fedjob.common.messages import Offer, Task
from fedjob.common.protocols import PROTOCOLS
from fedjob.node.datasets import Dataset, Datasets
from fedjob.node.grants import Grant, Grants, Subject
from fedjob.node.settings import NodeConfig

MAX_PLAN_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """What policy says.

    Args:
        status: as in `messages.Answer`; `pending` without a grant means that nobody was asked yet.
        reason, detail: why it may not run.
    """

    status: str
    subject: Subject | None = None
    dataset: Dataset | None = None
    grant: Grant | None = None
    reason: str = ""
    detail: str = ""

    @property
    def allowed(self) -> bool:
        """Whether it may run now."""
        return self.status in ("granted", "not-needed")


def judge(
    wish: Offer | Task,
    *,
    researcher: str,
    key_hex: str,
    datasets: Datasets,
    grants: Grants,
    config: NodeConfig,
) -> Verdict:
    """Decide over an offer or a task; it looks only."""
    dataset = datasets.find(wish.dataset)
    if dataset is None:
        return _no("no_dataset", f"there is no dataset {wish.dataset[:80]!r} here")
    if wish.use not in ("private", "mock"):
        return _no("spec", f"data are used as 'private' or 'mock', not {wish.use[:40]!r}")
    if wish.use == "mock" and not dataset.mock:
        return _no("no_mock", f"dataset {dataset.name} has no mock")
    if wish.use == "private" and dataset.num_rows < dataset.min_rows:
        return _no("min_rows", f"dataset {dataset.name} has fewer rows than its owner's minimum")
    try:
        needs_plan = PROTOCOLS.find(wish.protocol).needs_plan
    except FedjobError as error:
        return _no("protocol", str(error))
    if needs_plan and wish.plan is None:
        return _no("plan", f"{wish.protocol} needs a training plan")
    if wish.plan is not None and (wish.plan.parts or wish.plan.size_bytes > MAX_PLAN_BYTES):
        return _no("plan", f"a plan's text has at most {MAX_PLAN_BYTES} bytes")
    if wish.plan is not None and not wish.entry.isidentifier():
        return _no("plan", "the name of the plan's class is missing")
    subject = Subject(
        researcher=researcher,
        key_hex=key_hex,
        plan="" if wish.plan is None else wish.plan.sha256,
        entry=wish.protocol if wish.plan is None else wish.entry,
        dataset=dataset.name,
        use=wish.use,
    )
    if config.approval == "off":
        return Verdict("not-needed", subject, dataset)
    grant = grants.find(subject)
    if grant is None:
        return Verdict("pending", subject, dataset, None, "not_requested", "its owner was not asked yet")
    if grant.status == "approved":
        return Verdict("granted", subject, dataset, grant)
    if grant.status == "rejected":
        return Verdict("rejected", subject, dataset, grant, "rejected", grant.note)
    return Verdict("pending", subject, dataset, grant, "", "its owner has not decided yet")


def examine_plan(data: bytes) -> tuple[str, tuple[str, ...]]:
    """Return a plan's text and the packages that this node lacks for it; nothing is executed.

    Raises:
        PlanError: it does not read as it runs, or is no Python.
    """
    from fedjob.common.plans.hidden import check_plan_text
    from fedjob.common.plans.source import missing_packages

    text = check_plan_text(data)
    if text.encode() != data:
        raise PlanError("the plan's text is not in the form that fedjob extracts")
    return text, missing_packages(text)


def _no(reason: str, detail: str) -> Verdict:
    return Verdict("unknown", reason=reason, detail=detail)
