"""The words for a question: what would be computed, as a data protection officer reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedjob.common.errors import FedjobError
from fedjob.common.types import ENDLESS
from fedjob.node.grants.contract import Request, defaults_of, is_same
from fedjob.privacy.protect import TREE
from fedjob.protocols import PROTOCOLS

_MEASURES = {
    "mean": "mean",
    "count": "count",
    "missing": "number of missing values",
    "variance": "variance",
    "std": "standard deviation",
    "min": "smallest value",
    "max": "largest value",
}
_LENGTHS = ("epochs", "num_updates", "batch_size", "lr", "test_ratio")


def question_in_words(protocol: str, entry: str, asked: Request, min_rows: int) -> str:
    """Return what a request would compute, and what of it would leave the node.

    Args:
        entry: the plan's class.
        min_rows: of the dataset, the project and the grant together; 0 for none.
    """
    words = _OF_PROTOCOL.get(protocol, _unnamed)
    try:
        settings = {**defaults_of(protocol), **asked.config}
        PROTOCOLS.build(protocol, settings)
        text = words(protocol, entry, asked, settings)
    except FedjobError as error:
        return f"{protocol} with settings that it can't have, so that it would not run: {error}"
    text += gpus_in_words(asked) + _protection_in_words(asked)
    if asked.compress:
        text += f"; parameters come and leave in a shorter, less exact form ({compression_in_words(asked.compress)})"
    if not min_rows:
        return text
    grouped = protocol == "statistics" and settings.get("by")
    rule = f"groups under {min_rows} withheld" if grouped else f"nothing on fewer than {min_rows} rows leaves"
    return f"{text}, {rule}"


def gpus_in_words(asked: Request) -> str:
    """Return which devices a job may use, as the end of a sentence; nothing where the node's owner lends none."""
    if asked.gpus is None:
        return ""
    if not asked.gpus:
        return "; no GPU"
    numbers = listed([str(number) for number in asked.gpus])
    several = "s" if len(asked.gpus) > 1 else ""
    count = asked.resources.get("gpus", 0)
    most = f" ({count} at a time)" if several and count != len(asked.gpus) else ""
    return f"; may use GPU{several} {numbers}{most}"


def _protection_in_words(asked: Request) -> str:
    words = ""
    secagg, dp = asked.protect.get("secagg"), asked.protect.get("dp")
    if secagg:
        words += (
            f", under secure aggregation: of this node's numbers only the sum over {secagg['min_nodes']} nodes or more "
            "becomes known"
        )
    if dp and dp["kind"] == "record":
        words += (
            f", under differential privacy of single records (epsilon {dp['epsilon']:g}, delta {dp['delta']:g}, over all "
            "rounds together): noise is added here, so that what leaves says next to nothing about any one record, and "
            "nothing else leaves but the number of rows"
        )
    if dp and dp.get("mechanism") == TREE:
        words += (
            "; the noise is that of a tree over the steps of each pass over the records, which are taken in a fixed order "
            "(DP-FTRL): it counts whole passes, and assumes nothing of samples"
        )
    if dp and dp["kind"] == "node":
        words += (
            f", under differential privacy of whole nodes (epsilon {dp['epsilon']:g}, delta {dp['delta']:g}, over all "
            "rounds together): noise of all nodes is in the sum, so that it says next to nothing about this one"
        )
    return words


def compression_in_words(compress: Mapping[str, Any]) -> str:
    """Return the form in which parameters travel, with its settings."""
    settings = ", ".join(entries_in_words(compress["config"]))
    return f"{compress['name']}: {settings}" if settings else str(compress["name"])


def entries_in_words(given: Mapping[str, Any]) -> list[str]:
    """Return a line for each entry of arguments, properties or settings, none of them cut."""
    return [f"{shown_name(name)} = {shown_value(value)}" for name, value in given.items()]


def settings_in_words(protocol: str, asked: Request) -> list[str]:
    """Return a line for each setting of a protocol that is not as it would be without being given."""
    try:
        usual = defaults_of(protocol)
    except FedjobError:
        usual = {}
    given = {k: v for k, v in asked.config.items() if k not in usual or not is_same(v, usual[k])}
    return entries_in_words(given)


def shown_value(value: Any) -> str:
    """Return a value as Python writes it, letters that could look like others as escape sequences beside it."""
    text = repr(value)
    return text if text.isascii() else f"{text} (in ASCII letters {value!a})"


def shown_name(name: str) -> str:
    """Return a name as it is, or as Python writes it where it holds anything but ASCII letters and signs."""
    plain = name.isascii() and name.isprintable() and name == name.strip() and name
    return name if plain else shown_value(name)


def listed(words: Sequence[str]) -> str:
    """Return words as a list in a sentence: `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def columns(names: Any) -> str:
    """Return columns as a list in a sentence."""
    return listed([f"`{shown_name(str(name))}`" for name in names])


# --- analytics --------------------------------------------------------------------------------------


def _statistics(protocol: str, entry: str, asked: Request, of: Mapping[str, Any]) -> str:
    by_columns: dict[tuple[str, ...], list[str]] = {}
    for name, words in _MEASURES.items():
        if of[name]:
            by_columns.setdefault(tuple(of[name]), []).append(words)
    parts = [f"{listed(measures)} of {columns(names)}" for names, measures in by_columns.items()]
    parts += [
        f"histogram of {columns([name])} with the edges {listed([str(edge) for edge in edges])}"
        for name, edges in of["histogram"].items()
    ]
    parts += [
        f"quantiles of {columns([name])} at {listed([str(at) for at in ats])}" for name, ats in _quantiles(of)
    ]
    for name, words in (
        ("categories", "how often each value occurs of {}"),
        ("covariance", "covariance of {}"),
        ("correlation", "correlation of {}"),
        ("table", "count of every combination of values of {}"),
    ):
        if of[name]:
            parts.append(words.format(columns(of[name])))
    return "; ".join(parts) + (f", grouped by {columns(of['by'])}" if of["by"] else "")


def _quantiles(of: Mapping[str, Any]) -> list[tuple[str, Sequence[Any]]]:
    asked = of["quantiles"]
    return (
        list(asked.items()) if isinstance(asked, Mapping) else [(name, (0.25, 0.5, 0.75)) for name in asked]
    )


def _outliers(protocol: str, entry: str, asked: Request, of: Mapping[str, Any]) -> str:
    names = columns(of["columns"]) if of["columns"] else "every column of numbers"
    return (
        f"count, mean, standard deviation, quartiles and numbers of outliers of {names} (beyond {of['whisker']} "
        f"interquartile ranges, beyond {of['z']} standard deviations)"
    )


def _kmeans(protocol: str, entry: str, asked: Request, of: Mapping[str, Any]) -> str:
    return (
        f"{of['clusters']} clusters of rows by {columns(of['features'])}: number and sum of the rows of each, in at "
        f"most {of['max_steps']} steps"
    )


def _pca(protocol: str, entry: str, asked: Request, of: Mapping[str, Any]) -> str:
    number = "all" if of["components"] is None else str(of["components"])
    return f"principal components ({number}) of {columns(of['features'])}: sums, and sums of products of two columns"


def _regression(protocol: str, entry: str, asked: Request, of: Mapping[str, Any]) -> str:
    kind = protocol.replace("_", " ") + (" regression" if protocol == "ridge" else "")
    penalty = f" with the penalty {of['alpha']}" if "alpha" in of else ""
    without = "" if of["intercept"] else " without an intercept"
    return f"{kind} of {columns([of['target']])} on {_terms(of)}{penalty}{without}: coefficients with standard errors"


def _cox(protocol: str, entry: str, asked: Request, of: Mapping[str, Any]) -> str:
    return (
        f"Cox regression of the time {columns([of['duration']])} to the event {columns([of['event']])} on "
        f"{_terms(of)}, baseline {of['baseline']}: hazard ratios with standard errors"
    )


def _kaplan_meier(protocol: str, entry: str, asked: Request, of: Mapping[str, Any]) -> str:
    grid = f"{len(of['times'])} given times" if of["times"] else f"{of['bins']} times of equal distance"
    groups = f", grouped by {columns(of['by'])}" if of["by"] else ""
    return (
        f"survival curve of the time {columns([of['duration']])} to the event {columns([of['event']])}{groups}: how many "
        f"rows have the event, and how many are last observed, at each of {grid}"
    )


def _terms(of: Mapping[str, Any]) -> str:
    plain = [name for name in of["features"] if name not in of["categorical"]]
    parts = ([columns(plain)] if plain else []) + (
        [f"the categories of {columns(of['categorical'])}"] if of["categorical"] else []
    )
    return listed(parts)


def _psi(protocol: str, entry: str, asked: Request, of: Mapping[str, Any]) -> str:
    on = of["on"]
    names = columns(sorted(set(on.values()))) if isinstance(on, Mapping) else columns([on])
    return (
        f"which identifiers in {names} all nodes have: each node sends its own blinded; the identifiers themselves are "
        f"sent by node {shown_name(str(of['own']))} alone"
    )


# --- plans ------------------------------------------------------------------------------------------


def _training(protocol: str, entry: str, asked: Request, of: Mapping[str, Any]) -> str:
    about = (PROTOCOLS.find(protocol).__doc__ or "").partition("\n")[0].rstrip(".")
    leaves = "the trained parameters, the number of examples and metrics leave"
    if asked.protect.get("dp"):
        leaves = "the trained parameters leave"
    return (
        f"training of the model of plan {shown_name(entry)} by {protocol} ({about}), {_rounds(asked)}"
        f"{_lengths(asked)}: {leaves} in every round"
    )


def _evaluation(protocol: str, entry: str, asked: Request, of: Mapping[str, Any]) -> str:
    return (
        f"metrics of a given model of plan {shown_name(entry)} on test rows{_lengths(asked)}; nothing is trained: the "
        "sums that the metrics are made of leave"
    )


def _inference(protocol: str, entry: str, asked: Request, of: Mapping[str, Any]) -> str:
    where = (
        "are sent to the researcher" if of["release"] else "stay here as files, and only their number leaves"
    )
    return (
        f"a prediction for every single row by a given model of plan {shown_name(entry)}, {_rounds(asked)}: "
        f"the predictions {where}"
    )


def _function(protocol: str, entry: str, asked: Request, of: Mapping[str, Any]) -> str:
    return f"one call of {shown_name(entry)} with the arguments below: whatever it returns leaves"


def _steps(protocol: str, entry: str, asked: Request, of: Mapping[str, Any]) -> str:
    return (
        f"the work of plan {shown_name(entry)} on its items, {_rounds(asked)}: whatever it returns "
        "leaves, and the researcher may send it values in every round"
    )


def _own(protocol: str, entry: str, asked: Request, of: Mapping[str, Any]) -> str:
    return (
        f"a protocol of the researcher's own, class {shown_name(str(of['entry']))} in the text of plan "
        f"{shown_name(entry)}: whatever its contribute returns leaves; read it"
    )


def _unnamed(protocol: str, entry: str, asked: Request, of: Mapping[str, Any]) -> str:
    about = (PROTOCOLS.find(protocol).__doc__ or "").partition("\n")[0]
    return f"{protocol}, which no page of fedjob describes: {about}"


def _rounds(asked: Request) -> str:
    if asked.rounds == ENDLESS:
        return "rounds without end"
    return f"{asked.rounds} round{'' if asked.rounds == 1 else 's'}"


def _lengths(asked: Request) -> str:
    given = [
        f"{name} {shown_value(asked.training_args[name])}" for name in _LENGTHS if name in asked.training_args
    ]
    return ", " + ", ".join(given) if given else ""


_Words = Callable[[str, str, Request, Mapping[str, Any]], str]

_OF_PROTOCOL: dict[str, _Words] = {
    "statistics": _statistics,
    "outliers": _outliers,
    "kmeans": _kmeans,
    "pca": _pca,
    **dict.fromkeys(("linear_regression", "logistic_regression", "poisson_regression", "ridge"), _regression),
    "cox_regression": _cox,
    "kaplan_meier": _kaplan_meier,
    "psi": _psi,
    "evaluation": _evaluation,
    "inference": _inference,
    "function": _function,
    "steps": _steps,
    "own": _own,
    **dict.fromkeys(
        (
            *(
                "cyclic",
                "ditto",
                "fedavg",
                "fedbn",
                "fedbuff",
                "fednova",
                "fedopt",
                "fedper",
                "fedprox",
                "finetuned",
            ),
            *("flexlora", "flora", "qfedavg", "scaffold"),
        ),
        _training,
    ),
}
