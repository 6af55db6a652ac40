"""A hook that keeps a job as a run of MLflow: parameters, metrics per node and overall, plan and result."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fedjob.researcher.hooks.tracking.experiment_tracking import ExperimentTracking, needs_extra
from fedjob.researcher.hooks.tracking.tracked_job import TrackedJob, metric_key
from fedjob.researcher.hooks.tracking.tracking_thread import ExperimentRun
from fedjob.researcher.storage.measurements import Measurement

BATCH = 100
"""Parameters or metrics that one request carries; MLflow takes no more parameters."""

LAST_ROUND = "fedjob.round"
"""The tag with the last round that a run has."""

_STATUS = {"completed": "FINISHED", "killed": "KILLED"}


@dataclass
class MLflow(ExperimentTracking):
    """Keep the job as a run of MLflow.

    Args:
        tracking_uri: None for the environment's `MLFLOW_TRACKING_URI`.
        experiment: its name; made where there is none.
        run_name: None for the job's name.
    """

    tracking_uri: str | None = None
    experiment: str = "fedjob"
    run_name: str | None = None
    name: ClassVar[str] = "mlflow"

    def run(self) -> ExperimentRun:
        os.environ.setdefault(
            "MLFLOW_DISABLE_TELEMETRY", "true"
        )  # a job reports to nobody that it does not name
        try:
            import mlflow
        except ImportError as error:
            raise needs_extra("MLflow", "mlflow") from error
        uri = self.tracking_uri or mlflow.get_tracking_uri()
        return _MLflowRun(uri, self.experiment, self.run_name)


class _MLflowRun:
    def __init__(self, uri: str, experiment: str, name: str | None) -> None:
        self._uri, self._experiment, self._name = uri, experiment, name
        self._client: Any = None
        self._id = ""

    def open(self, job: TrackedJob) -> int:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = client = MlflowClient(tracking_uri=self._uri)
        known = client.get_experiment_by_name(self._experiment)
        experiment = client.create_experiment(self._experiment) if known is None else known.experiment_id
        for run in client.search_runs([experiment], f"tags.`fedjob.job` = '{job.id}'", max_results=1):
            self._id = run.info.run_id
            client.update_run(self._id, status="RUNNING")
            return int(run.data.tags.get(LAST_ROUND, 0))
        run = client.create_run(experiment, tags=dict(job.tags), run_name=self._name or job.name)
        self._id = run.info.run_id
        params = [Param(name, value) for name, value in job.params.items()]
        for start in range(0, len(params), BATCH):
            client.log_batch(self._id, params=params[start : start + BATCH])
        if job.plan is not None:
            client.log_artifact(self._id, str(job.plan))
        return 0

    def log(self, rows: Sequence[Measurement]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(metric_key(row), row.value, now_ms, row.round) for row in rows]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self._id, metrics=metrics[start : start + BATCH])
        self._client.set_tag(self._id, LAST_ROUND, str(max(row.round for row in rows)))

    def finish(self, outcome: str, result: Path | None) -> None:
        if result is not None:
            self._client.log_artifacts(self._id, str(result), "result")
        self._client.set_terminated(self._id, _STATUS.get(outcome, "FAILED"))
