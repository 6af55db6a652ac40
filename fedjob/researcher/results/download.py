"""The download of a finished job: record, parameters, metrics, logs and result, readable without fedjob."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from fedjob.common.errors import ConfigError, NotReady
from fedjob.common.lifecycle import HISTORY
from fedjob.researcher.monitoring.logs import read_logs
from fedjob.researcher.storage.breakpoints import list_breakpoints, load_breakpoint, newest_valid
from fedjob.researcher.storage.event_log import read_events
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import load_spec
from fedjob.researcher.storage.transitions import notice

_METRICS = ("round", "phase", "metric", "node", "value", "num_examples", "error")


def download(folder: JobFolder, target: Path, *, force: bool = False) -> dict[str, int]:
    """Write a finished job's record, parameters per round, metrics, released logs and result into a folder.

    Args:
        target: a new folder.
        force: replace what is there.

    Returns:
        name -> size in bytes of every file.

    Raises:
        NotReady: the job has not ended.
        ConfigError: the folder exists.
    """
    record = notice(folder)
    if record.state not in HISTORY:
        raise NotReady(
            f"job {folder.path.name} is {record.state}: there is nothing to fetch before its end",
            id=folder.path.name,
            state=record.state,
        )
    if target.exists():
        if not force:
            raise ConfigError(f"{target} exists: give another folder, or --force to replace it")
        shutil.rmtree(target)
    target.mkdir(parents=True)
    shutil.copyfile(folder.record, target / "record.json")
    _write_json(target / "spec.json", asdict(load_spec(folder.spec)))
    for source in (folder.plan, folder.events, folder.traffic):
        if source.exists():
            shutil.copyfile(source, target / source.name)
    if folder.result.is_dir():
        shutil.copytree(folder.result, target / "result")
    for kept in list_breakpoints(folder.breakpoints):
        (target / "rounds" / kept.name).mkdir(parents=True)
        for file in kept.glob("*.safetensors"):
            shutil.copyfile(file, target / "rounds" / kept.name / file.name)
    newest = newest_valid(folder.breakpoints)
    with (target / "metrics.csv").open("w", newline="", encoding="utf-8") as measured:
        writer = csv.DictWriter(measured, _METRICS)
        writer.writeheader()
        if newest is not None:
            writer.writerows(asdict(row) for row in load_breakpoint(newest).position.rows)
    lines = [str(line) for line in read_logs(read_events(folder.events))]
    (target / "logs.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    files = {
        path.relative_to(target).as_posix(): path.stat().st_size
        for path in sorted(target.rglob("*"))
        if path.is_file()
    }
    _write_json(target / "files.json", files)
    return files


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, default=str) + "\n", encoding="utf-8")
