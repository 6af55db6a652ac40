"""The view of a job that goes on, as text and as HTML, drawn from events alone."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from fedjob.common.notebooks.living_output import Forms
from fedjob.researcher.monitoring.notebook_display import NotebookDisplay
from fedjob.researcher.storage.event import JobEvent


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def shown(
    *events: tuple[str, str, dict[str, Any]], nodes: tuple[str, ...] = ("a", "b"), pause_s: float = 1.0
) -> tuple[NotebookDisplay, list[Forms]]:
    """Return a display that has been given events, one second after another, and what it drew."""
    clock, drawn = Clock(), list[Forms]()
    display = NotebookDisplay("study (job_1)", lambda: nodes, 4, draw=drawn.append, clock=clock)
    for number, (kind, node, body) in enumerate(events, start=1):
        clock.now += pause_s
        round_ = int(body.pop("round", 0))
        display.tell(JobEvent(type=kind, seq=number, time=clock.now, node=node, body=body, round=round_))
    display.close()
    return display, drawn


def state(name: str, node: str = "", **body: Any) -> tuple[str, str, dict[str, Any]]:
    return ("state", node, {"state": name, **body})


RUNNING = (
    state("waiting"),
    state("queued"),
    state("starting"),
    state("running"),
    ("ask", "", {"nodes": ["a", "b"]}),
    state("running", "a"),
    ("progress", "a", {"done": 3, "total": 12}),
    ("metrics", "a", {"phase": "train", "loss": 0.51234, "iteration": 3, "num_updates": 12}),
)


def test_a_running_job_is_one_line_and_a_row_for_each_node() -> None:
    display, drawn = shown(*RUNNING)
    assert drawn[-1]["text/plain"].splitlines() == [
        "study (job_1): running, 0 of 4 rounds, about 2 min left",
        "node  state    progress    loss",
        "a     running  25 %      0.5123",
        "b     asked",
    ]
    assert display.view().forms() == drawn[-1]


def test_a_node_that_is_left_out_says_why() -> None:
    _, drawn = shown(*RUNNING, ("error", "b", {"reason": "no_reply"}))
    assert "b     left out: no_reply" in drawn[-1]["text/plain"]
    _, drawn = shown(*RUNNING, ("round", "", {"round": 1, "left_out": {"b": "silent"}}))
    assert "left out: silent" in drawn[-1]["text/html"]


def test_a_node_that_comes_back_is_not_left_out_any_more() -> None:
    _, drawn = shown(
        *RUNNING, ("error", "b", {"reason": "no_reply"}), ("round", "", {"round": 2, "left_out": {}})
    )
    assert "left out" not in drawn[-1]["text/plain"]
    assert "2 of 4 rounds" in drawn[-1]["text/plain"]


def test_a_job_that_waits_names_the_owner_and_whom_to_ask() -> None:
    _, drawn = shown(
        state("waiting"), ("grant", "", {"waiting": ["b"], "contacts": {"b": "bo@hospital.example"}})
    )
    text = drawn[-1]["text/plain"]
    assert "waits for the owner of b (ask bo@hospital.example) to decide" in text
    assert "waits for its owner" in text


def test_a_job_that_failed_says_why_and_how_long_it_took() -> None:
    _, drawn = shown(*RUNNING, state("failed", reason="quorum_lost", detail="round 1 can't go on"))
    text = drawn[-1]["text/plain"]
    assert text.startswith("study (job_1): failed, 0 of 4 rounds, took 5 s\nquorum_lost: round 1 can't go on")
    assert "running" not in text


def test_the_end_has_the_metrics_and_whom_the_result_is_about() -> None:
    display, drawn = shown(*RUNNING, state("completed"))
    display.conclude("2 of 2 nodes, 100 of 100 rows", {"accuracy (validate)": 0.87})
    text = drawn[-1]["text/plain"]
    assert "accuracy (validate) 0.8700" in text
    assert "2 of 2 nodes, 100 of 100 rows" in text
    assert "width:100%" in drawn[-1]["text/html"]


def test_events_that_come_fast_are_drawn_now_and_then_and_the_last_one_always() -> None:
    many = [("progress", "a", {"done": i, "total": 1000}) for i in range(1000)]
    _, drawn = shown(*RUNNING, *many, pause_s=0.001)
    assert len(drawn) < 20
    assert "a     running  100 %" in drawn[-1]["text/plain"]


def test_many_nodes_are_cut() -> None:
    nodes = tuple(f"n{i:04}" for i in range(500))
    _, drawn = shown(*RUNNING, nodes=nodes)
    assert len(drawn[-1]["text/plain"].splitlines()) < 40
    assert "470 more nodes" in drawn[-1]["text/plain"]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


EVIL = "<script>alert(1)</script>\x1b[2J\u202e&\"'"


@pytest.mark.parametrize(
    "event",
    [
        ("error", EVIL, {"reason": EVIL}),
        ("error", "a", {"reason": EVIL}),
        ("metrics", "a", {EVIL: 1.0}),
        ("note", "a", {"text": EVIL}),
        ("note", EVIL, {"text": [EVIL]}),
        ("round", "", {"left_out": {EVIL: EVIL}}),
        ("round", "", {"left_out": EVIL}),
        ("grant", "", {"waiting": [EVIL], "contacts": {EVIL: EVIL}}),
        ("schedule", "", {"nodes": {EVIL: EVIL}, "reason": EVIL}),
        ("state", "a", {"state": EVIL, "reason": EVIL}),
        ("state", "", {"state": "failed", "reason": EVIL, "detail": EVIL}),
        ("ask", "", {"nodes": [EVIL]}),
        ("progress", "a", {"done": EVIL, "total": None}),
        ("progress", "a", {"done": float("nan"), "total": float("inf")}),
        ("metrics", "a", {"loss": float("nan"), "auc": 10**400}),
        (EVIL, EVIL, {EVIL: EVIL}),
    ],
)
def test_what_nodes_write_is_shown_and_nothing_more(event: tuple[str, str, dict[str, Any]]) -> None:
    _, drawn = shown(*RUNNING, event, nodes=("a", "b", EVIL))
    for forms in drawn:
        tags = Tags()
        tags.feed(forms["text/html"])
        assert tags.open == []
        assert set(tags.found) <= {
            "style", "div", "span", "i", "p", "table", "thead", "tbody", "tr", "th", "td", "small", "pre",
        }  # fmt: skip
        assert "\x1b" not in forms["text/plain"] + forms["text/html"]
        assert "\u202e" not in forms["text/plain"] + forms["text/html"]


@pytest.mark.parametrize("suffix", ["", " (validate)"])
def test_a_confusion_matrix_is_not_a_second_column_of_the_accuracy(suffix: str) -> None:
    measured = {"phase": "validate", "accuracy": 0.5, "confusion_matrix": 0.5}
    display, drawn = shown(*RUNNING, ("metrics", "a", measured))
    display.conclude("", {f"accuracy{suffix}": 0.5, f"confusion_matrix{suffix}": 0.5})
    assert "accuracy" in drawn[-1]["text/plain"]
    assert "confusion_matrix" not in drawn[-1]["text/plain"]


def test_a_confusion_matrix_alone_is_shown() -> None:
    display, drawn = shown(*RUNNING, ("metrics", "a", {"phase": "validate", "confusion_matrix": 0.5}))
    display.conclude("", {"confusion_matrix (validate)": 0.5})
    assert drawn[-1]["text/plain"].count("confusion_matrix") == 2
