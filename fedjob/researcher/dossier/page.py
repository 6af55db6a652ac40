"""The page of a dossier, for people: plain HTML that prints well and asks no other host for anything. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedjob.common.notebooks import html
from fedjob.common.notebooks.html import BAD, GOOD, WAIT, Piece

_STYLE = """<style>
:root{color-scheme:light dark}
body{margin:0;background:Canvas}
main{max-width:62rem;margin:0 auto;padding:2rem 1.25rem 4rem}
.fedjob h1{font-size:1.6rem;line-height:1.25;margin:0 0 .25rem}
.fedjob h2{font-size:1.1rem;margin:2.2rem 0 .4rem;padding-top:.6rem;border-top:1px solid var(--line)}
.fedjob{font-size:14px}
.fedjob p{max-width:46rem;margin:.3rem 0 .6rem}
.fedjob li{max-width:46rem;margin:.25rem 0}
.fedjob code{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.fedjob .fj-scroll{overflow-x:auto}
.fedjob pre{max-height:none;white-space:pre-wrap;overflow-wrap:anywhere}
@media print{main{max-width:none;padding:0}.fedjob pre{border:1px solid var(--line)}.fedjob h2{break-after:avoid}
.fedjob.fedjob.fedjob table td.fj-s{white-space:normal}}
</style>"""

JSON_OPENS = '<script type="application/json" id="dossier">'
JSON_CLOSES = "</script>"

_VERDICTS = {"equal": GOOD, "secure sum": GOOD, "different": BAD, "not kept": WAIT}
SHORT = 16
"""Characters of a hash that a table shows; the whole of it is in the data for machines."""


def canonical_json(content: Mapping[str, Any]) -> str:
    """Return plain data as the one JSON text that stands for it, safe inside HTML."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def dossier_page(content: Mapping[str, Any]) -> str:
    """Return the page of a dossier, with the same content as JSON for machines inside."""
    job = content["job"]
    title = f"Dossier of {job['name'] or job['id']}"
    body = "".join(
        _section(heading, *pieces)
        for heading, pieces in (
            ("Who asked what", _asked(content)),
            ("Who allowed it", _permissions(content)),
            ("Data", _data(content)),
            ("Limits and protections", _protections(content)),
            ("What left each node", _left(content)),
            ("Rounds", _rounds(content)),
            ("Verification", _verification(content)),
            ("What was not checked", [_list(content["not_checked"])]),
            ("The plan, word for word", _plan(content)),
            ("Result", _result(content)),
            ("Software", _software(content)),
        )
    )
    made = content["made"]
    about = html.note(
        f"Made {_when(made['time'])} with fedjob {made['fedjob']}. The last line of this file is its signature."
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{html.escaped(title)}</title>{html.STYLE}{_STYLE}</head>\n"
        f'<body><main><div class="fedjob"><h1>{html.escaped(title)}</h1>{about}{body}</div></main>\n'
        f"{JSON_OPENS}{canonical_json(content)}{JSON_CLOSES}\n</body></html>\n"
    )


# -- sections ------------------------------------------------------------------


def _asked(content: Mapping[str, Any]) -> list[Piece]:
    job, plan = content["job"], content["plan"]
    who = ", ".join(str(value) for value in job["about_the_researcher"].values() if value)
    rounds = f"{job['rounds_done']} of {job['rounds_asked']}"
    return [
        html.facts(
            _known(
                {
                    "job": job["id"],
                    "name": job["name"],
                    "note": job["note"],
                    "project": job["project"],
                    "researcher": f"{job['researcher']} ({who})" if who else job["researcher"],
                    "researcher's key": _code(job["researcher_key"]),
                    "federation": job["federation"],
                    "computation": _component(job["protocol"]),
                    "plan": f"{plan['entry']} (sha256 {plan['sha256'][:SHORT]}…)" if plan["entry"] else "",
                    "data used": "stand-ins made by the owners" if job["use"] == "mock" else "private data",
                    "rounds": rounds,
                    "ended": f"{job['state']} {job['reason']}".strip(),
                    "created": _when(job["created"]),
                    "started": _when(job["started"]),
                    "finished": _when(job["finished"]),
                    "attempts": job["attempt"],
                    "cloned from": job["cloned_from"],
                }
            )
        )
    ]


def _permissions(content: Mapping[str, Any]) -> list[Piece]:
    rows = [
        (
            each["node"],
            each["decision"],
            each["by"],
            _when(each["decided"]),
            _when(each["until"]),
            _words(each["limits"]),
            " ".join(filter(None, (each["note"], each["reason"]))),
            _code(each["grant"]),
        )
        for each in content["permissions"]
    ]
    return [_table(("node", "decision", "by", "decided", "until", "limits", "note", "grant"), rows)]


def _data(content: Mapping[str, Any]) -> list[Piece]:
    rows = [
        (
            each["node"],
            each["dataset"],
            _code(each["version"]),
            each["rows_registered"],
            each["rows_read"],
            each["rows_used"],
            each["rounds"],
            "" if each["took_part"] else each["why_not"],
        )
        for each in content["data"]
    ]
    header = ("node", "dataset", "version", "rows registered", "read", "used", "rounds", "left out because")
    return [_table(header, rows)]


def _protections(content: Mapping[str, Any]) -> list[Piece]:
    found = content["protections"]
    spent = [
        (node, f"{each.get('epsilon', 0):.4g}", f"{each.get('delta', 0):g}")
        for node, each in sorted(found["privacy_spent"].items())
    ]
    sandboxes = [(node, sandbox or "none") for node, sandbox in sorted(found["sandboxes"].items())]
    pieces = [
        html.facts(
            {
                "protection of contributions": _words(found["protect"]) or "none asked for",
                "guard": _words(found["guard"]) or "the defaults",
                "who must take part": _words(found["quorum"]) or "the default",
                "aggregator": _component(found["aggregator"]) or "the computation's own",
                "choice of nodes": _component(found["selector"]),
            }
        )
    ]
    if spent:
        pieces.append(_table(("node", "epsilon spent", "delta"), spent))
    if sandboxes:
        pieces.append(_table(("node", "sandbox that it computed in"), sandboxes))
    return pieces


def _left(content: Mapping[str, Any]) -> list[Piece]:
    rows = [
        (
            each["node"],
            each["answers"],
            each["tensor_bytes"],
            each["other_bytes"],
            ", ".join(each["metrics"]),
            _words(each["events"]),
        )
        for each in content["left_the_nodes"]
    ]
    words = html.note(
        "Counted from the answers that this side keeps: parameters, then everything else that an answer held, the metrics that it "
        "named, and the events that came while it worked."
    )
    header = ("node", "answers", "bytes of parameters", "other bytes", "metrics", "events")
    return [words, _table(header, rows)]


def _rounds(content: Mapping[str, Any]) -> list[Piece]:
    rows = [
        (
            each["round"],
            each["step"],
            each["aggregator"],
            Piece(
                "<br>".join(
                    f"{html.escaped(node)} {_code(sha256)} {html.escaped(f'× {weight:g}')}"
                    for node, sha256, weight in each["inputs"]
                )
            ),
            "; ".join(f"{node}: {why}" for node, why in sorted(each["left_out"].items())),
            _code(each["output_hash"]),
        )
        for each in content["rounds"]
    ]
    return [
        _table(("round", "step", "aggregator", "from, with sha256 and weight", "left out", "total"), rows)
    ]


def _verification(content: Mapping[str, Any]) -> list[Piece]:
    checks, logs = content["verification"], content["audit_logs"]
    verdicts: dict[str, int] = {}
    for check in checks:
        verdicts[check["verdict"]] = verdicts.get(check["verdict"], 0) + 1
    chips = [
        html.chip(f"{count} {verdict}", _VERDICTS.get(verdict, WAIT)) for verdict, count in verdicts.items()
    ]
    pieces = [
        html.note(
            "Every aggregation was computed again from the answers that it was made of, and compared byte for byte."
        ),
        Piece(f"<p>{html.joined(*chips)}</p>") if chips else html.note("There was nothing to compute again."),
    ]
    odd = [check for check in checks if check["verdict"] not in ("equal", "secure sum")]
    if odd:
        rows = [(check["round"], check["step"], check["verdict"], check["detail"]) for check in odd]
        pieces.append(_table(("round", "step", "verdict", "why"), rows))
    if logs:
        heads = [
            (
                each["node"],
                each["count"],
                each["seq"],
                _code(each["hash"]),
                "; ".join(each["contradictions"]) or "none",
            )
            for each in logs
        ]
        header = ("node", "heads", "records", "newest head", "contradictions")
        pieces.append(_table(header, heads, "The nodes' audit logs, as their signed heads show them"))
    return pieces


def _plan(content: Mapping[str, Any]) -> list[Piece]:
    plan = content["plan"]
    settings = {
        "model arguments": _words(plan["model_args"]),
        "training arguments": _words(plan["training_args"]),
        "arguments of single nodes": _words(plan["training_args_per_node"]),
        "preprocessing": _words(plan["preprocess"]),
        "files sent along": _words(plan["artifacts"]),
        "data that the researcher brought": plan["files_brought"],
        "sha256": _code(plan["sha256"], whole=True),
    }
    pieces = [html.facts(_known(settings))]
    if plan["text"]:
        pieces.append(html.preformatted(plan["text"]))
    for node, each in sorted(plan["per_node"].items()):
        pieces.append(html.note(f"At {node}: {each['entry']}, sha256 {each['hash']}"))
    pieces += [html.preformatted(text) for text in plan["texts_per_node"].values()]
    return pieces


def _result(content: Mapping[str, Any]) -> list[Piece]:
    rows = [(each["file"], each["bytes"], _code(each["sha256"])) for each in content["result"]]
    return [_table(("file", "bytes", "sha256"), rows)] if rows else [html.note("There is no result.")]


def _software(content: Mapping[str, Any]) -> list[Piece]:
    made = content["made"]
    versions = {
        "fedjob": made["fedjob"],
        "Python": made["python"],
        "system": made["system"],
        **made["packages"],
    }
    return [html.note("Of the researcher's machine, when this file was made."), html.facts(versions)]


# -- pieces --------------------------------------------------------------------


def _section(heading: str, *pieces: Piece) -> str:
    return f"<section><h2>{html.escaped(heading)}</h2>{''.join(pieces)}</section>"


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Piece:
    """Return a table of all rows, without the columns that are empty in each."""
    cells = [tuple(row) for row in rows]
    used = [column for column in range(len(header)) if any(row[column] not in ("", None) for row in cells)]
    shown = [[row[column] for column in used] for row in cells]
    drawn = html.table([header[column] for column in used], shown, caption=caption, most=None)
    return Piece(f'<div class="fj-scroll">{drawn}</div>') if cells else html.note("None.")


def _known(rows: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in rows.items() if value not in ("", None, 0)}


def _code(text: str, *, whole: bool = False) -> Piece:
    short = text if whole or len(text) <= SHORT else f"{text[:SHORT]}…"
    return Piece(f'<code title="{html.escaped(text)}">{html.escaped(short)}</code>' if text else "")


def _when(time: str) -> str:
    """Return a time of ISO 8601 in UTC to the second: `2026-11-30 10:24:41 UTC`."""
    return f"{time[:10]} {time[11:19]} UTC" if time else ""


def _component(component: Mapping[str, Any]) -> str:
    if not component:
        return ""
    name = component.get("name") or component.get("entry") or ""
    config = _words(component.get("config", {}))
    return f"{name} ({config})" if config else str(name)


def _words(value: Any) -> str:
    """Return plain data in a line: `lr: 0.1; epochs: 2`."""
    if isinstance(value, Mapping):
        return "; ".join(
            f"{name}: {_words(each)}" for name, each in value.items() if each not in (None, "", {}, [])
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(each) for each in value)
    return str(value)


def _list(sentences: Sequence[str]) -> Piece:
    return Piece("<ul>" + "".join(f"<li>{html.escaped(each)}</li>" for each in sentences) + "</ul>")
