"""A node among everything that a plan could reach, and what looks from outside whether any of it was."""

from __future__ import annotations

import os
import secrets
import socket
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedjob.common.types import Ref, new_job_id
from fedjob.common.values import decode
from fedjob.messaging.messages import Result, Task, work_key
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.sandbox.enclosure import NAMESPACES, NONE
from fedjob.node.storage.secrets import Secrets
from tests.integration.nodes import Federation
from tests.sandbox.plan import HONEST, SAME_ENTRY, SHARED_ENTRY, VICTIM, plan_text
from tests.sandbox.probe import ALONE, PAIR, SAME, SHARED, Outcome, Probe
from tests.sandbox.surroundings import (
    OUTSIDE,
    Listeners,
    Neighbour,
    Shared,
    UserFiles,
    processes_with,
    secret,
    site_packages,
)

NODE = "node1"
MEMORY_MB = 768
SCRATCH_MB = 256
GONE_WITHIN_S = 20.0
OPEN = NodeConfig(approval="off", workers=2, threads=1, worker_memory_mb=MEMORY_MB, scratch_mb=SCRATCH_MB)

ALONE_ENTRY = """
def probes(dataset, at):
    ((me, body),) = BODIES.items()
    found = body({**at, "path": str(dataset.path)}, me)
    return None if not found else found if isinstance(found, dict) else "got:" + text_of(found)
"""


@dataclass(slots=True)
class _Tried:
    """One probe while it is tried."""

    probe: Probe
    token: str
    said: str = ""
    job: str = ""
    result: Result | None = None
    seen: str = ""
    served: bool = True
    took_s: float = 0.0


class Hospital:
    """A real node with its daemon, its fork server and workers, and victims around it.

    Args:
        folder: empty.
        kind: of the sandbox: `namespaces`, `landlock` or `none`.
    """

    def __init__(self, folder: Path, kind: str = NAMESPACES) -> None:
        self.folder = folder
        self.user = UserFiles(folder)
        self.listeners = Listeners(folder, self.user.watched)
        self.neighbour = Neighbour(folder)
        self.shared = Shared()
        self.in_environment = secret()
        self._before = dict(os.environ)
        os.environ["HOSPITAL_PASSWORD"] = self.in_environment
        self.federation = Federation(folder)
        config = replace(OPEN, sandbox="none" if kind == NONE else "on")
        self.node = self.federation.node(NODE, config=config)
        self.home = self.node.home
        self._tokens = 0
        self._mark = secrets.token_hex(2)[:3]  # other tests may have a hospital at the same time
        self._honest = 0
        self._honest_job = new_job_id()
        self._kind = kind
        self.secrets = [*self.user.secrets, *self.neighbour.secrets, self.shared.secret, self.in_environment]
        self._furnish()
        if kind != NONE:
            self.node.sandboxes = (kind,)
        self.node.start()
        assert self.serves()

    def _furnish(self) -> None:
        """Put secrets where the node keeps what no plan is to see."""
        home, data = self.home, self.node.folder
        with self.node.database() as database:
            datasets = Datasets(database)
            datasets.add(
                replace(describe_dataset("toy", data / "toy.npz"), name="other", path=str(self.user.table))
            )
        Secrets(home.secrets).set("other", "password", self._kept(secret()))
        (data / "neighbour.csv").write_text(self._kept(secret()))
        (home.root / "config.toml").write_text(f"# {self._kept(secret())}\n")
        (home.root / "membership.mpk").write_text(self._kept(secret()))
        for folder in (home.hooks, home.releases, home.outputs):
            folder.mkdir(exist_ok=True, mode=0o700)
        (home.hooks / "spare").write_text(self._kept(secret()))
        home.releases_of("other").write_text(self._kept(secret()))
        (home.outputs / "kept.csv").write_text(self._kept(secret()))
        (home.objects / "kept-by-hand").write_text(self._kept(secret()))
        self.victim_log = home.log_of("0" * 64, "stdout")
        self.victim_log.write_text(self._kept(secret()) + "\n")
        home.log.write_text(self._kept(secret()) + "\n")
        key = next(path for path in home.keys.iterdir() if path.name != "party")
        self.key = key
        self.secrets += [key.read_bytes().decode("latin-1"), "SQLite format 3\x00"]

    def _kept(self, text: str) -> str:
        self.secrets.append(text)
        return text

    # --- what probes are told ---------------------------------------------------------------------

    def _at(self) -> dict[str, Any]:
        daemon = self.node.daemon
        assert daemon is not None
        servers = list(
            daemon._context.workers._servers.values()
        )  # their numbers are no secret to an attacker
        home, heard = self.home, self.listeners
        return {
            "home": str(home.root),
            "key": str(self.key),
            "membership": str(home.root / "membership.mpk"),
            "config": str(home.root / "config.toml"),
            "database": str(home.database),
            "secrets": str(home.secrets),
            "releases": str(home.releases_of("other")),
            "kept": str(home.outputs / "kept.csv"),
            "object": str(home.objects / "kept-by-hand"),
            "node_log": str(home.log),
            "victim_log": str(self.victim_log),
            "neighbour": str(self.node.folder / "neighbour.csv"),
            "other": str(self.user.table),
            "other_folder": str(self.user.other),
            "spare": str(self.user.spare),
            "user_home": str(self.user.home),
            "ssh_key": str(self.user.ssh_key),
            "profile": str(self.user.profile),
            "authorized": str(self.user.authorized),
            "watched": str(self.user.watched),
            "temporary": str(self.user.temporary),
            "shm_file": str(self.shared.file),
            "site": site_packages(),
            "tcp": heard.tcp,
            "tcp6": heard.tcp6,
            "udp": heard.udp,
            "udp6": heard.udp6,
            "unix": str(heard.unix),
            "unix_tmp": str(heard.unix_tmp),
            "unix_dgram": str(heard.unix_dgram),
            "abstract": heard.abstract,
            "abstract_dgram": heard.abstract_dgram,
            "canary": self.neighbour.pid,
            "canary_address": self.neighbour.address,
            "canary_fd": self.neighbour.descriptor,
            "daemon": os.getpid(),
            "group": os.getpgid(0),
            "server": servers[-1]._process.pid if servers else 0,
            "scratch_bytes": SCRATCH_MB << 20,
            "hostname": socket.gethostname(),
            "ipc": os.stat("/proc/self/ns/ipc").st_ino,
            "shm_key": self.shared.key,
            "queue": f"/{self.shared.name}",
            "memory": MEMORY_MB << 20,
            "sees_only_its_own": self._kind == NAMESPACES,
            "victim_key": "",
            "next_key": "",
        }

    # --- tasks ------------------------------------------------------------------------------------

    def _task(self, text: str, entry: str, args: dict[str, Any], limit_s: float | None = None) -> Task:
        task = self.federation.ann.task(text, entry, protocol="function", params={}, limit_s=limit_s)
        return replace(task, training_args=args)

    def _honest_task(self) -> Task:
        self._honest += 1
        return self._task(HONEST, "honest", {"number": self._honest})

    def _in_job(self, job: str) -> None:
        self.federation.ann.job = job

    def serves(self) -> bool:
        """Tell whether the node computes an honest task of another job."""
        self._in_job(self._honest_job)
        found = self.federation.ann.result(NODE, self._honest_task())
        return found.ok and decode(found.value) == {"rows": 20, "twice": 2 * self._honest}

    def _value(self, result: Result) -> Any:
        if result.blob is not None:
            from fedjob.common.codec import unpack

            return decode(
                unpack(self.federation.repository.get_bytes(result.blob, limit_bytes=1 << 30))["value"]
            )
        return decode(result.value) if result.ok else None

    # --- probes -----------------------------------------------------------------------------------

    def try_all(self, probes: Iterable[Probe]) -> dict[str, Outcome]:
        """Try every probe and return what came of each, by name."""
        tried = [_Tried(probe, self._token()) for probe in probes]
        for kind in dict.fromkeys(t.probe.kind for t in tried):
            for how in (SHARED, SAME):
                chosen = [t for t in tried if t.probe.kind == kind and t.probe.how == how]
                if chosen:
                    self._try_together(chosen, SHARED_ENTRY if how == SHARED else SAME_ENTRY)
        for one in [t for t in tried if t.probe.how == ALONE]:
            began = time.monotonic()
            self._try_alone(one)
            one.took_s = time.monotonic() - began
        pairs = [t for t in tried if t.probe.how == PAIR]
        if pairs:
            self._try_pairs(pairs)
        return {t.probe.name: self._judge(t) for t in tried}

    def _token(self) -> str:
        self._tokens += 1
        return f"probe-{self._mark}-{self._tokens:04d}"  # the name of a process has 15 characters

    def _try_together(self, tried: Sequence[_Tried], entry: str) -> None:
        """Run many probes in one task, while a task of another job computes beside it."""
        victim_job, victim = new_job_id(), self._task(VICTIM, "victim", {"seconds": 3.0, "secret": secret()})
        self._in_job(victim_job)
        sent = self.federation.ann.train(NODE, victim)
        at = {**self._at(), "victim_key": self._key_of(victim, victim_job)}
        found = self._run(plan_text([(t.token, t.probe.code) for t in tried], entry), tried, at, 110.0)
        beside = self.federation.ann.answer_to(sent, Result)
        said = found if isinstance(found, dict) else {}
        untouched = beside.ok and decode(beside.value) == "untouched"
        self._in_job(victim_job)
        self.federation.ann.end(NODE)
        for one in tried:
            one.said = str(said.get(one.token, f"failed:the task told nothing of it: {found!r}"[:2000]))
            one.served = untouched
        self._close_job(tried)

    def _run(self, text: str, tried: Sequence[_Tried], at: dict[str, Any], limit_s: float | None) -> Any:
        job = new_job_id()
        self._in_job(job)
        result = self.federation.ann.result(NODE, self._task(text, "probes", {"at": at}, limit_s), 120.0)
        for one in tried:
            one.job, one.result = job, result
        return self._value(result) if result.ok else f"{result.reason}: {result.detail}"

    def _key_of(self, task: Task, job: str) -> str:
        return work_key(job=job, round_=1, step="train", node=NODE, task=task)

    def _try_alone(self, one: _Tried) -> None:
        at = self._at()
        text = plan_text([(one.token, one.probe.code)], ALONE_ENTRY)
        if one.probe.kill:
            self._try_and_end(one, text, at)
        else:
            victim_sent = victim_job = None
            if 'at["victim_key"]' in one.probe.code:
                victim_job, victim = (
                    new_job_id(),
                    self._task(VICTIM, "victim", {"seconds": 1.0, "secret": secret()}),
                )
                self._in_job(victim_job)
                victim_sent = self.federation.ann.train(NODE, victim)
                at["victim_key"] = self._key_of(victim, victim_job)
            next_job, planned = new_job_id(), self._task(HONEST, "honest", {"number": 21})
            at["next_key"] = self._key_of(planned, next_job)
            found = self._run(text, [one], at, one.probe.limit_s)
            one.said = str(found) if found is not None else "nothing:"
            if one.result is not None and not one.result.ok:
                one.said = f"failed:{found}"
            if victim_sent is not None:
                beside = self.federation.ann.answer_to(victim_sent, Result)
                one.served &= beside.ok and decode(beside.value) == "untouched"
            if 'at["next_key"]' in one.probe.code:
                self._in_job(next_job)
                honest = self.federation.ann.result(NODE, planned)
                if not honest.ok or decode(honest.value) != {"rows": 20, "twice": 42}:
                    one.seen += "another task has another result; "
        one.seen += self._leaves(one)
        self._close_job([one])

    def _try_and_end(self, one: _Tried, text: str, at: dict[str, Any]) -> None:
        """Start a probe and end its job while it runs."""
        one.job = new_job_id()
        self._in_job(one.job)
        self.federation.ann.train(NODE, self._task(text, "probes", {"at": at}, one.probe.limit_s))
        deadline = time.monotonic() + 20
        while not processes_with([one.token]) and time.monotonic() < deadline:
            time.sleep(0.05)
        one.said = "nothing:" if time.monotonic() < deadline else "failed:it never began"

    def _try_pairs(self, tried: Sequence[_Tried]) -> None:
        """Plant in one task; seek in one of the same job with another plan, and in one of another job."""
        self._run(plan_text([(t.token, t.probe.code) for t in tried], SAME_ENTRY), tried, self._at(), 60.0)
        jobs = [one.job for one in tried[:1]]
        seeking = plan_text([(t.token, t.probe.seek) for t in tried], SAME_ENTRY)
        told = []
        for job in (jobs[0], new_job_id()):
            self._in_job(job)
            result = self.federation.ann.result(
                NODE, self._task(seeking, "probes", {"at": self._at()}, 60.0), round_=2
            )
            told.append(self._value(result) if result.ok else {})
            if job not in jobs:
                self.federation.ann.end(NODE)
            assert result.ok, result
        for one in tried:
            said = [found.get(one.token, "") for found in told]
            one.said = next((s for s in said if s.startswith("got:")), said[-1])
        self._close_job(tried)

    def _close_job(self, tried: Sequence[_Tried]) -> None:
        """End the probes' job, wait until nothing is left of it, and have the node serve another."""
        self._in_job(tried[0].job)
        self.federation.ann.end(NODE)
        tokens = {one.token for one in tried}
        deadline = time.monotonic() + GONE_WITHIN_S
        left = processes_with(tokens)
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            left = processes_with(tokens)
        serves = self.serves()
        for one in tried:
            one.served &= serves
            if one.token in left:
                one.seen += "a process of it was left; "

    def _bytes_of(self, ref: Ref, result: Result) -> bytes:
        """Return parameters as they came: few are attached to the answer."""
        if result.attached:
            return b"".join(result.attached.values())
        return self.federation.repository.get_bytes(ref, limit_bytes=1 << 30)

    def _leaves(self, one: _Tried) -> str:
        """Return what a task brought to the researcher, or left for the owner, that it should not have."""
        seen = ""
        result = one.result
        if result is not None:
            brought = repr(self._value(result)) if result.ok else f"{result.detail} {result.trace}"
            if isinstance(result.params, Ref):
                brought += self._bytes_of(result.params, result).decode("latin-1")
            if any(word in brought for word in self.secrets):
                seen += "a secret came with its result; "
        folder = self.home.outputs / one.job
        for path in folder.rglob("*") if folder.exists() else ():
            about = path.lstat()
            if stat.S_ISDIR(about.st_mode):
                continue
            if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1 or about.st_mode & 0o6000:
                seen += f"the owner finds {stat.filemode(about.st_mode)} with {about.st_nlink} links; "
                break
            if about.st_size > 8 << 30:
                seen += f"the owner finds a file of {about.st_size} bytes; "
        return seen

    # --- the verdict ------------------------------------------------------------------------------

    def _judge(self, one: _Tried) -> Outcome:
        got = one.said.startswith("got:")
        harm = []
        if got and (not one.probe.secret or any(word in one.said for word in self.secrets)):
            harm.append("it got what it wanted")
        if one.seen:
            harm.append(one.seen.rstrip("; "))
        if any(one.token.encode() in data for data in self.listeners.heard):
            harm.append("a listener outside heard it")
        if one.token.encode() in self.neighbour.written():
            harm.append("it wrote into another process")
        harm += [
            f"it is in {place}"
            for place in self._written()
            if one.token in place or one.token in self._text(place)
        ]
        reason = one.result.reason if one.result is not None and not one.result.ok else ""
        return Outcome(one.said[:600], got, tuple(harm), reason, one.served, one.took_s)

    def _written(self) -> list[str]:
        """Return the paths of files that no probe should have changed, and of those in folders where none should be."""
        home = self.home
        files = [
            home.root / "config.toml",
            self.user.table,
            self.node.folder / "neighbour.csv",
            self.user.profile,
        ]
        files += [
            self.user.authorized,
            self.victim_log,
            home.releases_of("other"),
            home.log,
            *map(Path, OUTSIDE),
        ]
        folders = [home.keys, home.hooks, home.results, self.user.other, self.node.folder, self.user.home]
        folders += [self.user.watched, home.root, Path(site_packages())]
        for folder in folders:
            files += [path for path in folder.iterdir() if path.name.startswith("probe")]
        return [str(path) for path in files if path.exists()]

    def _text(self, place: str) -> str:
        path = Path(place)
        return (
            path.read_text(errors="replace")[-200_000:]
            if path.is_file() and "# probe" in path.read_text(errors="replace")
            else ""
        )

    def close(self) -> None:
        self.federation.close()
        self.listeners.close()
        self.neighbour.close()
        self.shared.close()
        if "HOSPITAL_PASSWORD" not in self._before:
            os.environ.pop("HOSPITAL_PASSWORD", None)
        for place in [*OUTSIDE, *(p for p in self._written() if Path(p).name.startswith("probe_"))]:
            Path(place).unlink(missing_ok=True)


__all__ = ["Hospital"]
