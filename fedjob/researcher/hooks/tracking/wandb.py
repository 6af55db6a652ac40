"""A hook that keeps a job as a run of Weights & Biases: parameters, metrics per node and overall, plan and result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from fedjob.common.errors import ConfigError
from fedjob.researcher.hooks.tracking.experiment_tracking import ExperimentTracking, needs_extra
from fedjob.researcher.hooks.tracking.tracked_job import TrackedJob, metric_key
from fedjob.researcher.hooks.tracking.tracking_thread import ExperimentRun
from fedjob.researcher.storage.measurements import Measurement

MODES = ("online", "offline")


@dataclass
class WandB(ExperimentTracking):
    """Keep the job as a run of Weights & Biases.

    Args:
        project: at the service.
        entity: user or team; None for the default of whoever is logged in.
        mode: `online`, or `offline` for a folder that `wandb sync` sends later; None for the environment's
            `WANDB_MODE`, else `online`.
        dir: where wandb keeps its files; None for the job's folder.
        run_name: None for the job's name.
    """

    project: str = "fedjob"
    entity: str | None = None
    mode: str | None = None
    dir: str | None = None
    run_name: str | None = None
    name: ClassVar[str] = "wandb"

    def run(self) -> ExperimentRun:
        os.environ.setdefault(
            "WANDB_ERROR_REPORTING", "false"
        )  # a job reports to nobody that it does not name
        try:
            import wandb
        except ImportError as error:
            raise needs_extra("WandB", "wandb") from error
        mode: Any = self.mode or os.environ.get("WANDB_MODE", "online")
        if mode not in MODES:
            raise ConfigError(f"mode of the WandB hook: expected {' or '.join(MODES)}, found {mode!r}")
        if mode == "online" and not wandb.api.api_key:  # it would ask for it, where nobody may be to answer
            raise ConfigError(
                "nobody is logged in at Weights & Biases: run `wandb login`, or use WandB(mode='offline')"
            )
        return _WandBRun(self, mode)


class _WandBRun:
    def __init__(self, hook: WandB, mode: Any) -> None:
        self._hook, self._mode = hook, mode
        self._run: Any = None
        self._id = ""

    def open(self, job: TrackedJob) -> int:
        import wandb

        self._id = job.id
        self._run = wandb.init(
            project=self._hook.project,
            entity=self._hook.entity,
            name=self._hook.run_name or job.name,
            id=job.id,
            resume="allow",
            mode=self._mode,
            dir=self._hook.dir or str(job.folder),
            config={**job.params, **job.tags},
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )
        if job.plan is not None:
            self._keep(f"plan-{job.id}", "code", job.plan)
        return int(self._run.step)

    def log(self, rows: Sequence[Measurement]) -> None:
        for round_, found in groupby(sorted(rows, key=lambda row: row.round), key=lambda row: row.round):
            self._run.log({metric_key(row): row.value for row in found}, step=round_)

    def finish(self, outcome: str, result: Path | None) -> None:
        if result is not None:
            self._keep(f"result-{self._id}", "result", result)
        self._run.summary["outcome"] = str(outcome)
        self._run.finish(exit_code=0 if outcome == "completed" else 1)

    def _keep(self, name: str, kind: str, path: Path) -> None:
        import wandb

        artifact = wandb.Artifact(name, type=kind)
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                artifact.add_file(str(file), name=file.relative_to(path.parent).as_posix())
        self._run.log_artifact(artifact)
