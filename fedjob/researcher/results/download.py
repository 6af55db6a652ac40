"""The download of a finished job: record, parameters, metrics, logs and result, readable without fedjob."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from fedjob.common.errors import ConfigError, NotReady
from fedjob.common.files import by_users_umask, new_folder, remove_folder
from fedjob.common.lifecycle import HISTORY
from fedjob.researcher.monitoring.logs import read_logs
from fedjob.researcher.storage.breakpoints import hash_file, list_breakpoints, load_breakpoint, newest_valid
from fedjob.researcher.storage.event_log import read_events
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import load_spec
from fedjob.researcher.storage.transitions import notice

MARK = ".fedjob-download.json"
"""Name of the file in a download's folder that lists what fedjob wrote there, each with its sha256."""

_METRICS = ("round", "phase", "metric", "node", "value", "num_examples", "error")


@by_users_umask()
def download(folder: JobFolder, target: Path, *, force: bool = False) -> dict[str, int]:
    """Write a finished job's record, parameters per round, metrics, released logs and result into a folder.

    Args:
        target: a folder, made if need be.
        force: replace the files of an earlier download in it. Whatever else lies there stays.

    Returns:
        name -> size in bytes of every file.

    Raises:
        NotReady: the job has not ended.
        ConfigError: the folder holds something already; with `force`, a file of another origin under a name
            that is needed. Nothing was written.
    """
    record = notice(folder)
    if record.state not in HISTORY:
        raise NotReady(
            f"{folder.path.name} is {record.state}: there is nothing to fetch before its end",
            id=folder.path.name,
            state=record.state,
        )
    target = target.expanduser().absolute()
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target} is a file: give a folder")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise ConfigError(
            f"{target} exists and is not empty: give another folder, or --force to replace an earlier download in it"
        )
    draft = target.with_name(f".fedjob_{target.name}.{os.getpid()}")
    try:
        remove_folder(draft)
        with new_folder(draft, mode=0o777):
            files = _write(folder, draft)
            _move(draft, target, files)
        remove_folder(draft)
    except OSError as error:
        raise ConfigError(f"can't write {target}: {error.strerror or error}") from error
    return files


def _write(folder: JobFolder, target: Path) -> dict[str, int]:
    shutil.copyfile(folder.record, target / "record.json")
    _write_json(target / "spec.json", asdict(load_spec(folder.spec)))
    for source in (folder.plan, folder.events, folder.traffic):
        if source.exists():
            shutil.copyfile(source, target / source.name)
    if folder.result.is_dir():
        shutil.copytree(folder.result, target / "result", copy_function=shutil.copyfile)
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


def _move(draft: Path, target: Path, files: dict[str, int]) -> None:
    """Put the files of a draft into place, and remove those of an earlier download that are not among them.

    Raises:
        ConfigError: something of another origin, or changed since, has the name of one of them.
    """
    names = [*files, "files.json"]
    earlier = {name for name, sha256 in _written(target).items() if _is_as_written(target / name, sha256)}
    taken = [name for name in names if name not in earlier and _is_taken(target, name)]
    if taken:
        raise ConfigError(
            f"{target} holds {', '.join(taken[:3])}{' and more' if taken[3:] else ''}, which fedjob did not write, "
            "or which was changed since: move it, or give another folder"
        )
    hashes = {name: hash_file(draft / name) for name in names}
    target.mkdir(parents=True, exist_ok=True)
    # first, so that after a kill the next download knows each file as its own
    _write_json(target / MARK, {**{name: _written(target)[name] for name in earlier}, **hashes})
    for name in sorted(earlier - set(names)):
        (target / name).unlink(missing_ok=True)
        _remove_empty(target / name, target)
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft / name, target / name)
    _write_json(target / MARK, hashes)


def _written(target: Path) -> dict[str, str]:
    """Return the names in a folder that an earlier download wrote, each with its sha256."""
    try:
        found = json.loads((target / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    plain = found if isinstance(found, dict) else {}
    return {name: str(plain[name]) for name in plain if _is_inside(target, name)}


def _is_inside(target: Path, name: str) -> bool:
    return (target / name).parent.resolve().is_relative_to(target.resolve())


def _is_as_written(path: Path, sha256: str) -> bool:
    return path.is_file() and not path.is_symlink() and hash_file(path) == sha256


def _is_taken(target: Path, name: str) -> bool:
    """Tell whether something has the name of a file already, or a file that of a folder on the way to it."""
    path = target / name
    if path.exists() or path.is_symlink() or not _is_inside(target, name):
        return True
    above = path.parent
    while above != target:
        if above.exists() and not above.is_dir():
            return True
        above = above.parent
    return False


def _remove_empty(path: Path, root: Path) -> None:
    for folder in path.parents:
        if folder == root or any(folder.iterdir()):
            return
        folder.rmdir()


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, default=str) + "\n", encoding="utf-8")
