"""The limits of a grant: its end, the runs, rows and predictions that it allows, and bounds on arguments."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from fedjob.common.checks import is_number
from fedjob.common.errors import SpecError
from fedjob.node.config.limit_words import LOGS, PREDICTIONS
from fedjob.privacy.protections import check_protections, demanded_by_both, in_words

_AFTER = re.compile(r"\+?(\d+(?:\.\d+)?)(s|min|h|d|w)")
_UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_COUNTS = ("runs", "inferences", "rows", "moved_mb", "min_rows")
_MAX_COUNT = 2**53
_LAST = datetime(9999, 1, 1).timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantLimits:
    """The limits of a grant; 0 and empty mean that there is none.

    Args:
        until: seconds since 1970.
        runs: jobs that may use it.
        inferences: predictions that all of them may make together.
        predictions: `stay` has them stay here as files, and only their number leaves; empty: as the job asks.
        rows: examples that all their tasks may compute on together.
        moved_mb: megabytes of objects that they may fetch and store here together; without a grant, each job's.
        min_rows: nothing computed on fewer rows leaves the node.
        logs: `none`, `stdout` or `all`: what of the log the researcher sees; empty: as the node is set.
        secrets: of the dataset that the plan may use, by name; empty for none.
        args: name of an argument -> `{min, max, choices}`: it may be anything within; `model_args.width` names
            one of several, `optimizer.lr` a nested one. With `exact` it has to be as it was asked for, too.
        any_args: whatever arguments the plan is given.
        protections: that a job must have, such as `secagg:5` or `dp:3,1e-6`.
    """

    until: float = 0.0
    runs: int = 0
    inferences: int = 0
    rows: int = 0
    moved_mb: int = 0
    min_rows: int = 0
    logs: str = ""
    predictions: str = ""
    secrets: tuple[str, ...] = ()
    args: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    any_args: bool = False
    protections: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """Return what is limited, as plain data."""
        plain: dict[str, Any] = {
            name: getattr(self, name) for name in ("until", *_COUNTS, "logs", "predictions", "any_args")
        }
        plain["secrets"], plain["protections"] = list(self.secrets), list(self.protections)
        plain["args"] = {name: dict(bounds) for name, bounds in self.args.items()}
        return {name: value for name, value in plain.items() if value}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> GrantLimits:
        """Build them from what `to_plain` returned."""
        known = dict(plain)
        known["secrets"] = tuple(known.get("secrets", ()))
        known["protections"] = tuple(known.get("protections", ()))
        return cls(**known)

    def over(self, now: float) -> bool:
        """True if the time of these limits has passed."""
        return 0 < self.until <= now


def bounds_for(args: Mapping[str, Mapping[str, Any]], path: tuple[str, ...]) -> list[Mapping[str, Any]]:
    """Return all bounds of an entry of a question; none where the owner did not name it.

    Args:
        args: by name, with the section before it or without.
        path: section and names.
    """
    return [bounds for name, bounds in args.items() if tuple(name.split(".")) in (path, path[1:])]


def agreed(one: GrantLimits, other: GrantLimits) -> GrantLimits:
    """Return what two approvers agree on: the bounds of both, and free only what both leave free."""
    both = tighten(one, other)
    args = {}
    for name, bounds in both.args.items():
        is_free = all(
            limits.any_args if name not in limits.args else not limits.args[name].get("exact")
            for limits in (one, other)
        )
        args[name] = bounds if is_free else {**bounds, "exact": True}
    return replace(both, args=args, any_args=one.any_args and other.any_args)


def tighten(one: GrantLimits, other: GrantLimits) -> GrantLimits:
    """Return limits that hold what both hold; they allow the secrets that the first allows."""

    def least(a: float, b: float) -> Any:
        return min(a or b, b or a)

    args = {name: dict(bounds) for name, bounds in one.args.items()}
    for name, bounds in other.args.items():
        args[name] = _both_bounds(args.get(name, {}), bounds)
    logs = [level for level in (one.logs, other.logs) if level]
    predictions = [word for word in (one.predictions, other.predictions) if word]
    return GrantLimits(
        until=least(one.until, other.until),
        runs=least(one.runs, other.runs),
        inferences=least(one.inferences, other.inferences),
        rows=least(one.rows, other.rows),
        moved_mb=least(one.moved_mb, other.moved_mb),
        min_rows=max(one.min_rows, other.min_rows),
        logs=min(logs, key=LOGS.index) if logs else "",
        predictions=max(predictions, key=PREDICTIONS.index) if predictions else "",
        secrets=tuple(name for name in one.secrets if not other.secrets or name in other.secrets),
        args=args,
        any_args=one.any_args,
        protections=demanded_by_both(one.protections, other.protections),
    )


def parse_limits(
    *,
    until: str | None = None,
    runs: int | None = None,
    inferences: int | None = None,
    rows: int | None = None,
    moved_mb: int | None = None,
    min_rows: int | None = None,
    logs: str | None = None,
    predictions: str | None = None,
    secrets: Iterable[str] = (),
    args: Iterable[str] = (),
    any_args: bool = False,
    protections: Iterable[str] = (),
    now: float | None = None,
) -> GrantLimits:
    """Read limits as an owner types them.

    Args:
        until: a date (its end), a date and time, or a while from now such as `30d`.
        args: `name=1..100`, `name=..0.5` or `name=a,b`.
        protections: that a job must have, see `check_protections`.

    Raises:
        SpecError: one of them can't be read, or is not built; says what was expected.
    """
    protections = check_protections(protections)
    counts = {
        "runs": runs,
        "inferences": inferences,
        "rows": rows,
        "moved_mb": moved_mb,
        "min_rows": min_rows,
    }
    for name, value in counts.items():
        if value is not None and not 1 <= value <= _MAX_COUNT:
            raise SpecError(f"--{name.replace('_', '-')} is 1 or more, at most {_MAX_COUNT}, not {value}")
    if logs is not None and logs not in LOGS:
        raise SpecError(f"--logs is one of {', '.join(LOGS)}, not {logs!r}")
    if predictions is not None and predictions not in PREDICTIONS:
        raise SpecError(f"--predictions is one of {', '.join(PREDICTIONS)}, not {predictions!r}")
    return GrantLimits(
        until=0.0 if until is None else parse_until(until, time.time() if now is None else now),
        logs=logs or "",
        predictions=predictions or "",
        secrets=tuple(dict.fromkeys(secrets)),
        args=_parse_args(args),
        any_args=any_args,
        protections=protections,
        **{name: value or 0 for name, value in counts.items()},
    )


def parse_until(text: str, now: float) -> float:
    """Return when, in seconds since 1970.

    Raises:
        SpecError: it is no time, or one that has passed.
    """
    after = _AFTER.fullmatch(text)
    if after:
        end = now + float(after[1]) * _UNITS_S[after[2]]
        if not end < _LAST:
            raise SpecError(f"--until {text[:40]} is beyond the year 9998")
        return end
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise SpecError(
            "--until is a date such as 2030-06-30, a time such as 2030-06-30T18:00, or a while from now such "
            f"as 90min, 12h or 30d; found {text[:40]!r}"
        ) from error
    if len(text) == 10:
        at = at.replace(hour=23, minute=59, second=59)
    if at.timestamp() <= now:
        raise SpecError(f"--until {text} has passed")
    return at.timestamp()


def describe_limits(limits: GrantLimits) -> list[str]:
    """Return a line for each limit, as an owner reads it."""
    lines = []
    if limits.until:
        lines.append(f"until {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(limits.until))}")
    if limits.runs:
        lines.append(f"{limits.runs} run{'' if limits.runs == 1 else 's'}")
    if limits.inferences:
        lines.append(f"{limits.inferences} inferences")
    if limits.rows:
        lines.append(f"{limits.rows} rows in all")
    if limits.moved_mb:
        lines.append(f"{limits.moved_mb} MB to and from the hub")
    if limits.min_rows:
        lines.append(f"at least {limits.min_rows} rows each")
    if limits.logs:
        lines.append(f"logs {limits.logs}")
    if limits.secrets:
        lines.append(f"may use the secrets {', '.join(limits.secrets)}")
    if limits.predictions:
        lines.append(f"predictions {limits.predictions}")
    lines += [f"{name} = {describe_bounds(bounds)}" for name, bounds in limits.args.items()]
    if limits.any_args:
        lines.append("any arguments")
    return lines + in_words(limits.protections)


def describe_bounds(bounds: Mapping[str, Any]) -> str:
    """Return bounds as they are typed."""
    exact = ", as it was asked for" if bounds.get("exact") else ""
    if "choices" in bounds:
        return ",".join(map(str, bounds["choices"])) + exact
    return f"{bounds.get('min', '')}..{bounds.get('max', '')}{exact}"


def fits(value: Any, bounds: Mapping[str, Any]) -> bool:
    """Tell whether a value lies within bounds; of a list each element has to, and there is one at least."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(fits(each, bounds) for each in value)
    if "choices" in bounds:
        return any(type(c) is type(value) and c == value for c in bounds["choices"]) or (
            isinstance(value, float) and value in [c for c in bounds["choices"] if type(c) is int]
        )
    if not is_number(value):  # NaN and infinity lie within nothing
        return False
    return bool(bounds.get("min", -math.inf) <= value <= bounds.get("max", math.inf))


def _parse_args(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return bounds by name; a name that is given twice has to fit both."""
    args: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, bounds = _parse_bounds(text)
        args[name] = _both_bounds(args[name], bounds) if name in args else bounds
    return args


def _parse_bounds(text: str) -> tuple[str, dict[str, Any]]:
    name, equals, bounds = text.partition("=")
    low, dots, high = bounds.partition("..")
    try:
        if not equals or not name.strip() or not bounds:
            raise ValueError
        if not dots:
            return name.strip(), {"choices": [_scalar(choice) for choice in bounds.split(",")]}
        found = {side: _number(value) for side, value in (("min", low), ("max", high)) if value}
        if not found or found.get("min", -math.inf) > found.get("max", math.inf):
            raise ValueError
    except ValueError as error:
        raise SpecError(
            f"--arg is NAME=MIN..MAX, NAME=..MAX, NAME=MIN.. or NAME=a,b; found {text[:80]!r}"
        ) from error
    return name.strip(), found


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return int(value) if value.is_integer() and "e" not in text and "." not in text else value


def _scalar(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return _number(text)
    except ValueError:
        return text


def _both_bounds(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    both: dict[str, Any] = {"exact": True} if one.get("exact") or other.get("exact") else {}
    if "choices" in one and "choices" in other:
        return {**both, "choices": [choice for choice in one["choices"] if fits(choice, other)]}
    if "choices" in one or "choices" in other:
        choices, span = (one, other) if "choices" in one else (other, one)
        has_span = "min" in span or "max" in span
        return {**both, "choices": [each for each in choices["choices"] if not has_span or fits(each, span)]}
    lows = [bounds["min"] for bounds in (one, other) if "min" in bounds]
    highs = [bounds["max"] for bounds in (one, other) if "max" in bounds]
    return both | ({"min": max(lows)} if lows else {}) | ({"max": min(highs)} if highs else {})
