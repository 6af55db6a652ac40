"""The description of a request or a grant for the node's owner: who asks what, in words, what it costs, what is new in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedjob.common.codec import to_plain
from fedjob.common.errors import FedjobError, SpecError
from fedjob.common.items import Items
from fedjob.common.terminal.times import when
from fedjob.common.types import rounds_text
from fedjob.node.data.datasets import Datasets, RegisteredDataset
from fedjob.node.grants.contract import deviations
from fedjob.node.grants.decisions import Grants, approved_before, burden_of
from fedjob.node.grants.grant import MB, SHA256_CHARS, Grant
from fedjob.node.grants.limits import describe_limits
from fedjob.node.grants.permissions import price_of
from fedjob.node.grants.question_words import (
    compression_in_words,
    entries_in_words,
    question_in_words,
    settings_in_words,
    shown_name,
)
from fedjob.node.protection.privacy_accounts import PrivacyAccounts
from fedjob.node.protection.privacy_ledger import Quote
from fedjob.node.storage.burden import Burden
from fedjob.node.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """All that an owner needs to decide about one request, or to look at one grant.

    Args:
        question: what would be computed, in words; empty for a standing agreement.
        lines: name and value of everything else; a value with several lines has its name on the first alone.
        text: of the plan, exactly as it would run; empty for none.
        before: the newest request like it that was approved for the same key.
        earlier: the plan's text of that one.
        compared: how it differs from that one, in sentences.
        alike: the newest approved grant whose text differs in comments or formatting only.
        price: in differential privacy, or why it can't run so; None for none.
        burden: bytes, time and memory; None for a standing agreement.
    """

    grant: Grant
    question: str
    lines: tuple[tuple[str, str], ...]
    text: str
    before: Grant | None
    earlier: str
    compared: tuple[str, ...]
    differences: tuple[str, ...]
    alike: Grant | None
    price: Quote | str | None
    burden: Burden | None
    dataset: RegisteredDataset | None

    @property
    def changes(self) -> list[str]:
        """The lines of the plan's text that differ from the last one that was approved."""
        from fedjob.node.grants.plan_review import difference

        return difference(self.earlier, self.text) if self.earlier and self.earlier != self.text else []

    def to_plain(self) -> dict[str, Any]:
        """Return it flat, for JSON."""
        return {
            **self.grant.to_plain(),
            "question_in_words": self.question,
            "privacy": plain_price(self.price),
            "burden": {} if self.burden is None else self.burden.to_plain(),
            "differs_from": "" if self.before is None else self.before.id,
            "differences": list(self.differences),
            "differs_only_in_form_from": "" if self.alike is None else self.alike.id,
        }


def review_of(database: Database, id_: str) -> Review:
    """Return the review of the one request or grant whose id begins so.

    Raises:
        SpecError: none does, or several.
        FedjobError: the plan's text is damaged.
    """
    store = Grants(database)
    grant = store.get(id_)
    text = _text(store, grant)
    dataset = Datasets(database).find(grant.subject.dataset)
    org = store.known.org_of(grant.subject.researcher, grant.subject.key_hex)
    before = approved_before(store, grant)
    price, burden = price_for(store, grant, database), burden_of(grant, database)
    question = _question(grant, _min_rows(store, grant, dataset))
    about = _lines(grant, 0 if dataset is None else dataset.num_rows, org, question)
    return Review(
        grant=grant,
        question=question,
        lines=(*about, *(() if burden is None else burden.lines()), *_price_lines(price)),
        text=text,
        before=before,
        earlier="" if before is None else _text(store, before),
        compared=tuple(_compared(before, grant)),
        differences=() if before is None else tuple(_differences(before, grant)),
        alike=_alike(store, grant, text),
        price=price,
        burden=burden,
        dataset=dataset,
    )


def _lines(grant: Grant, num_rows: int, org: str | None, question: str) -> Iterator[tuple[str, str]]:
    subject, asked = grant.subject, grant.asked
    described = ", ".join(
        asked.owner.get(word, "") for word in ("name", "org", "role") if asked.owner.get(word)
    )
    yield "grant", grant.id
    yield "status", grant.status
    yield "origin", grant.origin
    yield "who", subject.researcher + (f" ({described})" if described else "")
    yield "key", subject.key_hex
    if grant.origin == "request":
        yield (
            "known",
            "no: no request signed with this key was approved yet"
            if org is None
            else f"yes, of {org or 'no organisation'}",
        )
    yield "when", when(grant.requested)
    if grant.origin == "request":
        yield "question", question
    yield "plan", "any plan" if asked.needs == ("data",) else subject.entry
    yield "hash", subject.plan or asked.reading
    yield "protocol", grant.protocol
    yield "data", subject.dataset + (f", {num_rows} rows" if num_rows else "")
    yield "version", subject.version[:16]
    yield "use", subject.use
    if asked.preprocess:
        yield "prepared by", asked.preprocess
    yield from _titled("settings", settings_in_words(grant.protocol, asked) if grant.protocol else [])
    arguments = entries_in_words(asked.model_args) + entries_in_words(asked.training_args)
    yield from _titled("arguments", arguments or ["-"])
    yield from _titled("properties", entries_in_words(asked.props))
    yield from _titled("items", entries_in_words(_chosen(asked.items)))
    yield from _titled("split", entries_in_words(asked.split))
    yield from _titled("sends along", _hashed(asked.artifacts))
    yield from _titled("uses models", _hashed(asked.models))
    if asked.files:
        yield "brings", f"data of its own, sha256 {asked.files[:16]}"
    yield from _titled("protected by", _protections(asked.protect))
    if asked.compress:
        yield "travels as", compression_in_words(asked.compress)
    yield "rounds", rounds_text(asked.rounds)
    yield "nested plans", ", ".join(sha256[:16] for sha256 in asked.launches) or "none"
    yield "pool", str(asked.resources.get("pool", "") or "default")
    if asked.gpus is not None:
        yield "gpus", ", ".join(str(number) for number in asked.gpus) or "no GPU"
    yield "project", subject.project or asked.project
    yield "job", " ".join(word for word in (asked.job, asked.job_name) if word)
    yield "note", asked.note
    if grant.decided is not None:
        yield "decided", f"{when(grant.decided)} by {grant.decided_by or 'time'}"
        yield "answer", grant.note
        yield "limits", "; ".join(describe_limits(grant.limits))
        yield (
            "used by",
            f"{grant.uses} job{'' if grant.uses == 1 else 's'}, {grant.rows_spent} rows{_predicted(grant)}{_moved(grant)}",
        )
    if grant.rule:
        yield "agreement", grant.rule


def _hashed(files: Mapping[str, str]) -> list[str]:
    return [f"{shown_name(name)}, sha256 {sha256[:16]}" for name, sha256 in files.items()]


def _protections(protect: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {', '.join(entries_in_words({k: v for k, v in settings.items() if v is not None}))}"
        for name, settings in protect.items()
    ]


def price_for(store: Grants, grant: Grant, database: Database) -> Quote | str | None:
    """Return what a request would cost in differential privacy, or why it can't run so; None for none."""
    dataset = Datasets(database).find(grant.subject.dataset)
    try:
        limits = store.projects.limits_of(grant.subject.project)
        return price_of(grant, limits, dataset, PrivacyAccounts(database))
    except SpecError as error:
        return str(error)


def plain_price(price: Quote | str | None) -> dict[str, Any]:
    """Return a price as plain data; empty for none."""
    if price is None:
        return {}
    return {"refusal": price} if isinstance(price, str) else {**price.to_plain(), "refusal": price.refusal}


def short_price(price: Quote | str | None) -> str:
    """Return a price in a few words, for a table."""
    if not isinstance(price, Quote):
        return "-" if price is None else "not possible"
    if price.refusal:
        return f"{price.cost:.3g}, too much"
    return f"{price.cost:.3g}" + (f", then {price.after:.3g} left" if price.budget is not None else "")


def _price_lines(price: Quote | str | None) -> Iterator[tuple[str, str]]:
    if price is not None:
        yield "costs", price if isinstance(price, str) else price.words


def _moved(grant: Grant) -> str:
    return f", {grant.moved_bytes / MB:,.1f} of {grant.limits.moved_mb} MB" if grant.limits.moved_mb else ""


def _predicted(grant: Grant) -> str:
    return f", {grant.inferences_spent} predictions" if grant.inferences_spent else ""


def _titled(title: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield lines under one title; nothing of what is asked is cut off."""
    for number, line in enumerate(lines):
        yield "" if number else title, line


def _chosen(items: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a job says of the items, where that is not what every job has."""
    usual = to_plain(Items())
    return {name: value for name, value in items.items() if value != usual.get(name)}


def _question(grant: Grant, min_rows: int) -> str:
    if grant.origin != "request":
        return ""
    if grant.asked.needs == ("data",):
        return "whatever the researcher would run on these data: one decision for all of it"
    return question_in_words(grant.protocol, grant.subject.entry, grant.asked, min_rows)


def _min_rows(store: Grants, grant: Grant, dataset: RegisteredDataset | None) -> int:
    """Return how many rows a number has to be made of here, whoever set it."""
    of_data = 0 if dataset is None or grant.subject.use != "private" else dataset.min_rows
    of_project = store.projects.limits_of(grant.subject.project).min_rows
    return max(of_data, of_project, grant.limits.min_rows)


def _compared(before: Grant | None, grant: Grant) -> Iterator[str]:
    """Yield how a request differs from the newest that was approved for the same researcher."""
    if grant.origin != "request":
        return
    if before is None:
        yield "nothing like it was approved for this researcher's key before"
        return
    found = _differences(before, grant)
    what = f"{len(found)} way{'' if len(found) == 1 else 's'}" if found else "no way"
    yield f"in {what} from grant {before.id}, approved on {when(before.decided)}"
    yield from found


def _differences(before: Grant, grant: Grant) -> list[str]:
    found = [str(one) for one in deviations(before.asked, grant.asked)]
    if before.subject.plan != grant.subject.plan:
        found.append(f"the plan's text is another, approved was {before.subject.plan[:16]}")
    if before.subject.entry != grant.subject.entry:
        found.append(f"the plan's class is {grant.subject.entry}, approved was {before.subject.entry}")
    if before.subject.version != grant.subject.version:
        found.append("the data have changed since")
    return found


def _text(store: Grants, grant: Grant) -> str:
    plan = grant.subject.plan or grant.asked.reading
    if len(plan) != SHA256_CHARS:
        return ""
    data = store.texts.of(plan)
    if data is None and grant.origin == "rule":
        return ""  # an agreement may name a hash whose text nobody has sent yet
    if data is None:
        raise FedjobError(
            f"the text of grant {grant.id} is damaged: reject it, and have the researcher request it again"
        )
    return data.decode()


def _alike(store: Grants, grant: Grant, text: str) -> Grant | None:
    """Return the newest approved grant whose text differs in comments or formatting only."""
    from fedjob.node.grants.plan_review import differs_only_in_form

    for other in store.approved_plans() if text else []:
        approved = store.texts.of(other.subject.plan)
        if approved is not None and differs_only_in_form(approved.decode(), text):
            return other
    return None
