"""The command `fedjob demo`: a hub, some nodes and a training job on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedjob.common.errors import ConfigError, MissingPackage
from fedjob.common.files import make_folder, open_locked, remove_folder
from fedjob.one_machine.commands import Commands

if TYPE_CHECKING:
    from fedjob.demo.data import Shares
    from fedjob.researcher.jobs.job import Job
    from fedjob.researcher.jobs.session import Session

SEED = 7
ALPHA = 0.3
TAG = "digits"
TABLE_TAG = "cancer"
TRAINING = {
    "lr": 0.05,
    "epochs": 2,
    "batch_size": 32,
    "test_ratio": 0.2,
    "test_on_global_updates": True,
}
MODEL = {"hidden": 32}
_PACKAGES = (
    "matplotlib",
    "numpy",
    "paho",
    "pandas",
    "rich",
    "safetensors",
    "sklearn",
    "starlette",
    "torch",
    "uvicorn",
)
_MARK = ".fedjob-demo"
_FILES = ("plan.py", "model.safetensors", "model.safetensors.txt", "plot.png")
_PLAN = Path(__file__).with_name("plan.py")
_CLINIC = re.compile(r"clinic-\d+")
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option(
    "--nodes", "num_nodes", type=click.IntRange(1, 32), default=4, show_default=True, help="Number of nodes."
)
@click.option(
    "--rounds", type=click.IntRange(1, 1000), default=10, show_default=True, help="Number of rounds."
)
@click.option("--alpha", type=click.FloatRange(0.01, 1000), default=ALPHA, show_default=True,
              help="How alike the nodes' data are; the smaller, the more uneven.")  # fmt: skip
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=SEED,
    show_default=True,
    help="Seed of the data's division and of training.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True,
              help="Tasks that a node runs at the same time.")  # fmt: skip
@click.option("--reset", is_flag=True, help="Only remove what an earlier demo left.")
@click.option(
    "--keep",
    is_flag=True,
    help="Leave hub and nodes running until Ctrl-C, so that you can try a job of your own.",
)
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-output"),
    show_default=True,
    help="Folder for everything that the demo makes; what an earlier demo made there is replaced.",
)
def demo(
    num_nodes: int,
    rounds: int,
    alpha: float,
    seed: int,
    workers: int,
    reset: bool,
    keep: bool,
    home: Path,
) -> None:
    """Start a hub and some nodes on this machine, train a model across them, and compare.

    The data are the handwritten digits that ship with scikit-learn; each node
    offers a table of patients as well. Nothing is downloaded, and nothing goes
    on running afterwards.

    \b
    fedjob demo
    fedjob demo --keep
    """
    lacking = [name for name in _PACKAGES if find_spec(name) is None]
    if lacking:
        raise MissingPackage(
            f"the demo is hub, nodes and researcher in one, and lacks {', '.join(lacking)}: pip install 'fedjob[demo]'"
        )
    from rich.console import Console

    console = Console(highlight=False)
    nodes = [f"clinic-{number}" for number in range(1, num_nodes + 1)]
    began = time.monotonic()
    with _ended_by_signals():
        lock = _fresh(home)
        if reset:
            os.close(lock)
            others = sorted(path.name for path in home.iterdir() if path.name != _MARK)
            console.print(
                f"{home} is empty"
                + (f", but for what is not the demo's: {', '.join(others)}" if others else "")
            )
            return
        console.print(f"[bold]A hub and {num_nodes} clinics[/], each a process with a home of its own")
        try:
            with Commands(
                home / "logs", lambda line: console.print(f"[dim]$ {line}[/]", soft_wrap=True)
            ) as run:
                hub_url, shares = _start(run, console, home, nodes, alpha, seed, workers)
                job = _train(console, home, nodes, rounds, seed, hub_url, shares)
                console.print(f"[dim]{time.monotonic() - began:.0f} s in all[/]")
                _print_next(console, home, job, keep)
                if keep:
                    _wait(console, run)
        except KeyboardInterrupt:
            console.print("interrupted; hub and nodes are stopped")
            raise click.exceptions.Exit(130) from None
        finally:
            os.close(lock)


def _start(
    commands: Commands, console: Any, home: Path, nodes: list[str], alpha: float, seed: int, workers: int
) -> tuple[str, Shares]:
    """Start the hub, divide the data, and create and start the nodes."""
    from fedjob.demo.data import deal, deal_patients

    commands.start(
        "hub", "start", "--home", str(home / "hub"), "--port", "0", "--mqtt-port", "0", log="hub", show=True
    )
    shares = deal(home / "data", nodes, alpha=alpha, seed=seed)
    deal_patients(home / "data", nodes, seed=seed)
    ready = commands.wait_for("hub", r"hub ready: (\S+) .*")
    console.print(ready[0], soft_wrap=True)
    with ThreadPoolExecutor(5) as pool:
        made: dict[str, Future[None]] = {
            node: pool.submit(_make_node, commands, home, node, ready[1], node == nodes[0]) for node in nodes
        }
        imported = pool.submit(_import_torch)  # at the same time, because it takes seconds
        for node in nodes:
            made[node].result()
            words = ("node", "start", "--home", str(home / node), "--workers", str(workers))
            commands.start(*words[: None if workers > 1 else 4], log=node, show=node == nodes[0])
        for node in nodes:
            commands.wait_for(node, r"node ready: .*")
        imported.result()
    console.print(f"node ready: {nodes[0]}" + (f" ... {nodes[-1]}, made the same way" if nodes[1:] else ""))
    return ready[1], shares


def _make_node(commands: Commands, home: Path, node: str, hub_url: str, show: bool) -> None:
    where, data = str(home / node), str(home / "data" / f"{node}.npz")
    for words in (
        ("init", "--home", where, "--id", node, "--hub", hub_url),
        ("data", "add", TAG, data, "--tags", TAG, "--home", where),
        ("data", "add", TABLE_TAG, str(home / "data" / f"{node}.csv"), "--tags", TABLE_TAG, "--home", where),
        # no owner reads plans here; at a real node a person approves a plan's text before it runs
        ("config", "set", "approval", "off", "--home", where),
        (
            "config",
            "set",
            "threads",
            "1",
            "--home",
            where,
        ),  # the clinics here share one machine
    ):
        commands.run("node", *words, log=node, show=show)


def _import_torch() -> None:
    import torch

    torch.set_num_threads(1)  # the model is small, and the clinics compute on the same cores


def _train(
    console: Any,
    home: Path,
    nodes: list[str],
    rounds: int,
    seed: int,
    hub_url: str,
    shares: Shares,
) -> Job:
    """Train across the nodes, then at each node alone and on all data pooled; compare, and save."""
    from fedjob.demo.report import FEDERATED, POOLED, comparison, draw
    from fedjob.researcher.jobs.session import connect

    plan_path = home / "plan.py"
    shutil.copyfile(_PLAN, plan_path)
    _note(plan_path)
    researcher = home / "researcher"
    with connect(hub=hub_url, home=researcher, id="researcher") as session:
        console.print(
            "\n[bold]Federated:[/] loss and accuracy of the shared model on each clinic's own test part"
        )
        job, marks = _federated(console, session, plan_path, nodes, rounds, seed, shares)
    saved = job.result.save(home / "model.safetensors")
    _note(saved)
    _note(saved.with_name(f"{saved.name}.txt"))  # whom it is about
    all_marks = {FEDERATED: marks}
    console.print("\n[bold]The same plan[/] by each clinic alone, and on the data of all of them pooled")
    with console.status("training"):
        for who, path in {POOLED: shares.pool_path, **shares.parts}.items():
            all_marks[who] = _local(plan_path, researcher, who, path, rounds, seed, shares)
    pooled = sum(shares.num_rows.values())
    console.print(comparison(all_marks, {FEDERATED: pooled, POOLED: pooled, **shares.num_rows}))
    console.print(f"[dim]on {len(shares.test[1])} images that nobody trained on[/]")
    draw(all_marks, shares, home / "plot.png")
    _note(home / "plot.png")
    console.print("\n[bold]Saved[/]")
    for path, what in {
        home / "plot.png": "the picture of it",
        saved: f"the model, {saved.stat().st_size / 1000:.0f} kB",
        plan_path: "the training plan that the nodes ran",
        job.folder: "the job: spec, events, breakpoints, every reply",
    }.items():
        console.print(f"  {_short(path)}  [dim]{what}[/]", soft_wrap=True)
    return job


def _federated(
    console: Any, session: Session, plan_path: Path, nodes: list[str], rounds: int, seed: int, shares: Shares
) -> tuple[Job, list[dict[str, float]]]:
    from fedjob.common.quorum import Quorum
    from fedjob.demo.watching import Diary, RoundDisplay, examine
    from fedjob.researcher.jobs.job import Job

    watching, diary = RoundDisplay(console, nodes), Diary()
    job = Job(
        "fedavg",
        training_plan=f"{plan_path}:Digits",
        data={"tags": [TAG]},
        model_args=MODEL,
        training_args=TRAINING,
        rounds=rounds,
        name="demo",
        seed=seed,
        quorum=Quorum(min_nodes=len(nodes), deadline_s=120),
        hooks=[watching, diary],
        validate_at_end=True,
        keep=True,
        session=session,
    )
    job.run(progress=False)
    watching.finish(job.position.rows)
    return job, examine(diary, job.training_plan, shares.test)


def _local(
    plan_path: Path, home: Path, who: str, data: Path, rounds: int, seed: int, shares: Shares
) -> list[dict[str, float]]:
    """Train on one file, in this process: the same plan, the same rounds."""
    from fedjob.demo.watching import Diary, examine
    from fedjob.researcher.jobs.job import Job

    diary = Diary()
    job = Job(
        "fedavg",
        training_plan=f"{plan_path}:Digits",
        nodes="local",
        as_node=who,
        data=data,
        model_args=MODEL,
        training_args={**TRAINING, "test_on_global_updates": False},
        rounds=rounds,
        name=who,
        seed=seed,
        hooks=[diary],
        breakpoint_every=rounds,
        home=home,
    )
    job.run(progress=False)
    return examine(diary, job.training_plan, shares.test)


def _print_next(console: Any, home: Path, job: Job, keep: bool) -> None:
    """Print the commands to try next."""
    fedjob, researcher = _how_to_call("fedjob"), _short(home / "researcher")
    commands = {
        f"{fedjob} verify {job.id[4:12]} --home {researcher}": "aggregate every round again from its replies",
        f"{fedjob} node tasks --home {_short(home / 'clinic-1')}": "what a clinic computed, and for whom",
        f"{fedjob} demo --nodes 8 --alpha 0.1": "more clinics, less alike",
        f"{fedjob} demo --keep": "leave the hub and the clinics running, to try a job of your own",
    }
    if keep:
        del commands[f"{fedjob} demo --keep"]
        commands = {f"{fedjob} nodes --home {researcher}": "who is there", **commands}
    console.print("\n[bold]Next[/]")
    for command, why in commands.items():
        console.print(f"  {command}  [dim]{why}[/]", soft_wrap=True)
    console.print(
        "  [dim]read[/] README.md [dim]and[/] notebooks/01_first_job.ipynb[dim]: a first job of your own[/]"
    )
    if keep:
        console.print(
            "\nhub and nodes are running; in Python: "
            f"[bold]session = fedjob.connect(home={str(home / 'researcher')!r})[/]\nCtrl-C stops them",
            soft_wrap=True,
        )


def _wait(console: Any, commands: Commands) -> None:
    """Return at Ctrl-C, or when the hub or a node has ended by itself."""
    while not (dead := commands.dead()):
        try:
            time.sleep(0.5)
        except KeyboardInterrupt:
            return
    console.print(f"{', '.join(dead)} ended by itself: see the logs")


def _fresh(home: Path) -> int:
    """Remove what an earlier demo left in its folder and lock it; return the descriptor of its lock.

    Raises:
        ConfigError: it holds other files, or another demo runs in it.
    """
    mark = home / _MARK
    if home.exists() and any(home.iterdir()) and not mark.exists():
        raise ConfigError(f"{home} is not empty and not an earlier demo's: give another folder with --home")
    make_folder(home)
    lock = open_locked(mark)
    if lock is None:
        raise ConfigError(f"another demo runs in {home}: end it, or give another folder with --home")
    try:
        _remove_earlier(home)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _remove_earlier(home: Path) -> None:
    """Remove what an earlier demo wrote; whatever else lies in the folder stays.

    Raises:
        ConfigError: one of its files was changed since; nothing was removed.
    """
    files, changed = _written(home), []
    for name in _FILES:
        there = (home / name).exists()
        if there and (name not in files or _sha256(home / name) != files[name]):
            changed.append(name)
    if changed:
        raise ConfigError(
            f"{' and '.join(changed)} in {home} was not written by the demo, or was changed since: move it, or give "
            "the new demo another folder with --home"
        )
    for path in home.iterdir():
        if path.is_symlink() or not path.is_dir():
            continue
        if _CLINIC.fullmatch(path.name) or path.name == "researcher":
            if (path / "keys" / "party").exists():
                remove_folder(path, marker="keys/party")
        elif path.name == "hub" and (path / "hub.sqlite").exists():
            remove_folder(path, marker="hub.sqlite")
    for name in ("data/*.npz", "data/clinic-*.csv", "logs/*.log", *_FILES):
        for file in home.glob(name):
            file.unlink()
    for name in ("data", "logs"):
        with suppress(OSError):  # not there, or something else lies in it
            (home / name).rmdir()


def _written(home: Path) -> dict[str, str]:
    """Return the sha256 of each file that the demo wrote for people to look at, by its name."""
    try:
        found = json.loads((home / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(sha256) for name, sha256 in found.items()} if isinstance(found, dict) else {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _note(path: Path) -> None:
    """Remember that the demo wrote a file, so that the next one may replace it."""
    known = {**_written(path.parent), path.name: _sha256(path)}
    (path.parent / _MARK).write_text(json.dumps(known), encoding="utf-8")  # in place: it is locked


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Treat SIGTERM and a closed terminal as Ctrl-C, so that the processes are ended."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _how_to_call(name: str) -> str:
    """Return what to type for a command of this environment."""
    here = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    return name if found is not None and Path(found) == here else shlex.quote(_short(here))


def _short(path: Path) -> str:
    """Return a path as one would type it from here."""
    absolute = Path(os.path.abspath(path))
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)
