"""Columns and arguments that a job lacks are named at the researcher, before any owner is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedjob import Cast, KMeans, LogisticRegression, Quorum, Scale, Select, Statistics
from fedjob.common.errors import SpecError
from fedjob.common.types import new_job_id
from fedjob.data.preprocessing import to_plain_steps
from fedjob.protocols import PROTOCOLS
from fedjob.researcher.definition.arguments import checked_quorum
from fedjob.researcher.definition.data_checks import check_columns
from fedjob.researcher.storage.spec import Component, JobSpec
from fedjob.training_plans.source.required_arguments import check_arguments

HEARTS = {"age": "int", "sex": "string", "chol": "float", "sick": "bool"}
WITHOUT = {name: kind for name, kind in HEARTS.items() if name != "chol"}


def spec_of(operation: Any, quorum: Quorum | None = None, steps: tuple[Any, ...] = ()) -> JobSpec:
    name, config = PROTOCOLS.config_of(operation)
    info = {"name": "d", "num_rows": 9, **({"preprocess": to_plain_steps(steps)} if steps else {})}
    spec = JobSpec(id=new_job_id(), protocol=Component(name=name, config=config), rounds=1, seed=1)
    return replace(
        spec,
        datasets={"north": dict(info), "south": dict(info)},
        quorum=checked_quorum("quorum", quorum or Quorum(required="all")),
    )


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        (
            Statistics(mean="chol"),
            "south: there is no column 'chol'; there are age, sex, sick. To go on without south",
        ),
        (Statistics(mean="age", by="chol"), "south: there is no column 'chol'"),
        (Statistics(mean="agee"), r"north: .*did you mean 'age'\?.*; south: "),
        (Statistics(mean="sex"), r"expected numbers, found sex \(string\): cast or encode first"),
        (Statistics(quantiles="sex"), "expected numbers, found sex"),
        (LogisticRegression(target="sick", features=["sex"]), "expected numbers, found sex"),
        (LogisticRegression(target="ill", features=["age"]), "no column 'ill'"),
        (KMeans(features=["age", "chol"], clusters=2), "south: there is no column 'chol'"),
    ],
)
def test_a_column_that_a_node_lacks_is_named_before_anybody_is_asked(operation: Any, says: str) -> None:
    with pytest.raises(SpecError, match=f"nobody was asked yet: .*{says}"):
        check_columns(spec_of(operation), {"north": HEARTS, "south": WITHOUT})


@pytest.mark.parametrize(
    "operation",
    [
        Statistics(mean=["age", "sick"], by="sex", categories="sex", count="sex"),
        LogisticRegression(target="sick", features=["age", "sex"], categorical="sex"),
    ],
)
def test_columns_that_fit_are_not_refused(operation: Any) -> None:
    check_columns(spec_of(operation), {"north": HEARTS, "south": WITHOUT})


def test_a_node_without_the_columns_may_be_missing_where_the_quorum_allows_it() -> None:
    schemas = {"north": HEARTS, "south": WITHOUT}
    check_columns(spec_of(Statistics(mean="chol"), Quorum(min_nodes=1)), schemas)
    with pytest.raises(SpecError, match="south"):
        check_columns(spec_of(Statistics(mean="chol"), Quorum(min_nodes=2)), schemas)
    check_columns(spec_of(Statistics(mean="chol")), {"north": HEARTS, "south": {}})  # it publishes none


def test_preprocessing_is_followed_as_far_as_it_can_be_known() -> None:
    schemas = {"north": HEARTS, "south": HEARTS}
    with pytest.raises(SpecError, match=r"preprocessing \(select\): there is no column 'cp'"):
        check_columns(spec_of(Statistics(mean="age"), steps=(Select(["age", "cp"]),)), schemas)
    with pytest.raises(SpecError, match="no column 'chol'; there are age"):
        check_columns(spec_of(Statistics(mean="chol"), steps=(Select(["age"]),)), schemas)
    check_columns(spec_of(Statistics(mean="sex"), steps=(Cast(["sex"], "float"), Scale(["age"]))), schemas)
    with pytest.raises(SpecError, match=r"found age \(str\)"):
        check_columns(spec_of(Statistics(mean="age"), steps=(Cast(["age"], "str"),)), schemas)


METHODS = {"init_optimizer": ("model", "training_args"), "training_data": ("dataset", "training_args")}
ALWAYS = """
class P:
    def init_optimizer(self, net, args):
        {body}
"""


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        ("return SGD(net, lr=args['lr'])", True),
        ("rate = args['lr'] * 2; return SGD(net, lr=rate)", True),
        ("return SGD(net, lr=args['lr'] or 1)", True),
        ("return SGD(net, lr=args.get('lr', 0.1))", False),
        ("return SGD(net, lr=args['lr'] if 'lr' in args else 0.1)", False),
        ("return SGD(net, lr='lr' in args and args['lr'])", False),
        ("args['lr'] = 1", False),
        ("return SGD(net, lr=net['lr'])", False),
        ("return SGD(net, size=args['batch_size'])", False),
    ],
)
def test_an_argument_that_a_plan_takes_in_any_case_is_missed_before_it_runs(body: str, missing: bool) -> None:
    text = ALWAYS.format(body=body)
    if not missing:
        check_arguments(text, "P", METHODS, {"batch_size"})
        return
    with pytest.raises(
        SpecError, match=r"P\.init_optimizer takes training_args\['lr'\] \(line 4 of the plan\)"
    ):
        check_arguments(text, "P", METHODS, {"batch_size"})
    check_arguments(text, "P", METHODS, {"lr"})


def test_an_argument_behind_an_early_return_is_not_missed() -> None:
    text = ALWAYS.format(body="if net:\n            return 1\n        return args['lr']")
    check_arguments(text, "P", METHODS, {"batch_size"})
