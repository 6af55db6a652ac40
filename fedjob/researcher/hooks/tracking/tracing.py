"""A hook that writes traces of a job for OpenTelemetry: who waits for what in each round, as spans."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from fedjob.common.errors import ConfigError
from fedjob.common.files import private
from fedjob.common.lifecycle import HISTORY
from fedjob.researcher.hooks.base import Hook
from fedjob.researcher.hooks.tracking.experiment_tracking import needs_extra
from fedjob.researcher.storage.event import JobEvent
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import Position

FILE = "traces.jsonl"
"""Name of the file in the job's folder that spans go into where no collector is named."""

FLUSH_WITHIN_S = 10.0
"""Time that the job's end may wait for a collector."""

JOB = ("job",)
"""The key of the span of the whole job; the others are `(round, N)`, `(ask, N, STEP)`, `(task, KEY)`, `(state, KEY)`."""


@dataclass
class Tracing(Hook):
    """Write the spans job, round, ask, task and task's state, one inside the other, with OpenTelemetry.

    They go to the tracer provider that the process has, if it has one; else to a collector; else into the file
    `traces.jsonl` of the job's folder, one span a line.

    Args:
        endpoint: URL of a collector's OTLP over HTTP, such as `http://localhost:4318/v1/traces`.
    """

    endpoint: str | None = None
    name: ClassVar[str] = "tracing"
    _spans: dict[tuple[Any, ...], Any] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _provider: Any = field(default=None, init=False, repr=False)
    _tracer: Any = field(default=None, init=False, repr=False)
    _file: Any = field(default=None, init=False, repr=False)
    _ask: tuple[Any, ...] = field(default=JOB, init=False, repr=False)

    def start(self, folder: JobFolder, rounds: int, position: Position, extras: Mapping[str, Path]) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.sdk.trace import TracerProvider
        except ImportError as error:
            raise needs_extra("Tracing", "tracing") from error
        provider: Any = trace.get_tracer_provider()
        if self.endpoint is not None or not isinstance(provider, TracerProvider):
            provider = self._provider = self._own_provider(folder)
        self._tracer = provider.get_tracer("fedjob")

    def event(self, event: JobEvent) -> None:
        if self._tracer is None:
            return
        with self._lock:  # events come from several threads
            if event.type == "state" and event.task:
                self._task(event)
            elif event.type == "ask":
                self._asked(event)
            elif event.type == "round":
                left_out = [f"{node}: {why}" for node, why in sorted(event.body.get("left_out", {}).items())]
                attributes = {"fedjob.nodes": event.body.get("nodes", []), "fedjob.left_out": left_out}
                self._close(("round", event.round), event, attributes)
            elif event.type == "state" and not event.node:
                self._open(JOB, "job", event, {"fedjob.job": event.job}, None)
                self._spans[JOB].add_event(str(event.body.get("state")), timestamp=_ns(event))
            elif event.type == "error" and JOB in self._spans:
                why = {"fedjob.node": event.node, "reason": str(event.body.get("reason", ""))}
                self._spans[JOB].add_event("error", why, timestamp=_ns(event))

    def end(self, outcome: str) -> None:
        if self._tracer is None:
            return
        with self._lock:
            for key in sorted(self._spans, key=_depth, reverse=True):
                span = self._spans.pop(key)
                span.set_attribute("fedjob.outcome", outcome)
                span.end()
            self._tracer = None
        if self._provider is not None:
            self._provider.force_flush(int(FLUSH_WITHIN_S * 1000))
            self._provider.shutdown()
        if self._file is not None:
            self._file.close()

    # -- spans --------------------------------------------------------------------

    def _asked(self, event: JobEvent) -> None:
        round_ = ("round", event.round)
        self._open(round_, f"round {event.round}", event, {"fedjob.round": event.round}, JOB)
        if self._ask != JOB:  # a round's asks follow each other
            self._close(self._ask, event, {})
        step = str(event.body.get("step", ""))
        self._ask = ("ask", event.round, step, event.seq)
        attributes = {"fedjob.step": step, "fedjob.nodes": event.body.get("nodes", [])}
        self._open(self._ask, f"ask {step}", event, attributes, round_)

    def _task(self, event: JobEvent) -> None:
        task, now = ("task", event.task), ("state", event.task)
        state = str(event.body.get("state", ""))
        who = {"fedjob.node": event.node, "fedjob.task": event.task, "fedjob.round": event.round}
        self._close(now, event, {})
        if state in HISTORY:
            attributes = {"fedjob.state": state, "fedjob.reason": str(event.body.get("reason", ""))}
            self._close(task, event, attributes)
            return
        self._open(task, event.node, event, who, self._ask)
        self._open(now, state, event, who, task)

    def _open(
        self,
        key: tuple[Any, ...],
        name: str,
        event: JobEvent,
        attributes: Mapping[str, Any],
        parent: tuple[Any, ...] | None,
    ) -> None:
        from opentelemetry import trace

        if key in self._spans:
            return
        above = self._spans.get(parent) if parent else None
        context = trace.set_span_in_context(above) if above is not None else None
        self._spans[key] = self._tracer.start_span(
            name, context=context, attributes=dict(attributes), start_time=_ns(event)
        )

    def _close(self, key: tuple[Any, ...], event: JobEvent, attributes: Mapping[str, Any]) -> None:
        if key[0] == "round" and self._ask[:2] == ("ask", key[1]):
            self._close(self._ask, event, {})
            self._ask = JOB
        if (span := self._spans.pop(key, None)) is not None:
            span.set_attributes(dict(attributes))
            span.end(end_time=_ns(event))

    def _own_provider(self, folder: JobFolder) -> Any:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import (
            BatchSpanProcessor,
            ConsoleSpanExporter,
            SimpleSpanProcessor,
        )

        provider = TracerProvider(
            resource=Resource.create({"service.name": "fedjob"}), shutdown_on_exit=False
        )
        if self.endpoint is None:
            self._file = open(folder.path / FILE, "a", encoding="utf-8", opener=private)  # noqa: SIM115
            lines = ConsoleSpanExporter(
                out=self._file, formatter=lambda span: span.to_json(indent=None) + "\n"
            )
            provider.add_span_processor(SimpleSpanProcessor(lines))
            return provider
        if not self.endpoint.startswith(("http://", "https://")):
            raise ConfigError(
                f"endpoint of the Tracing hook: expected a URL of http or https, found {self.endpoint!r}"
            )
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=self.endpoint, timeout=FLUSH_WITHIN_S))
        )
        return provider


def _ns(event: JobEvent) -> int:
    return int(event.time * 1e9)


def _depth(key: tuple[Any, ...]) -> int:
    return ("job", "round", "ask", "task", "state").index(key[0])
