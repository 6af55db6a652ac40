"""What a node's owner can set, and the folders of a node's home."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from fedjob.common.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """A node's settings; `fedjob node config show` lists them.

    Args:
        approval: `on`: user code runs only if the owner approved its exact text.
        errors: what a researcher is told of an error in a plan: `reason` is its
            class and the plan's line numbers, `full` its message too.
        workers: tasks that run at the same time.
        threads: torch threads of each worker; 0 shares the cores among the workers.
        task_limit_s: wall-clock seconds that one task may take at most.
        worker_memory_mb: private memory that one worker may allocate; 0 for 80 % of the machine's.
        warm_workers: worker processes that are kept between rounds.
        warm_memory_mb: memory that they may hold together; the longest unused goes first. 0 for a quarter
            of the machine's.
        warm_s: seconds after which an unused one goes, and later the fork server.
        log_kb: what user code may print, per job.
        result_mb: size of one result.
        max_tasks, max_tasks_per_researcher: tasks in the queue, running ones included.
        max_pending: undecided grants per researcher.
    """

    approval: str = field(default="on", metadata={"choices": ("on", "off")})
    errors: str = field(default="reason", metadata={"choices": ("reason", "full")})
    workers: int = field(default=1, metadata={"at_least": 1})
    threads: int = field(default=0, metadata={"at_least": 0})
    task_limit_s: float = field(default=24 * 3600.0, metadata={"at_least": 0.1})
    worker_memory_mb: int = field(default=0, metadata={"at_least": 0})
    warm_workers: int = field(default=4, metadata={"at_least": 0})
    warm_memory_mb: int = field(default=0, metadata={"at_least": 0})
    warm_s: float = field(default=600.0, metadata={"at_least": 0.0})
    log_kb: int = field(default=1024, metadata={"at_least": 1})
    result_mb: int = field(default=4096, metadata={"at_least": 1})
    max_tasks: int = field(default=64, metadata={"at_least": 1})
    max_tasks_per_researcher: int = field(default=16, metadata={"at_least": 1})
    max_pending: int = field(default=64, metadata={"at_least": 1})

    @property
    def torch_threads(self) -> int:
        """Threads that a worker computes with."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // self.workers)

    @property
    def worker_memory_bytes(self) -> int:
        """Private memory that one worker may allocate."""
        return self.worker_memory_mb << 20 or machine_memory_bytes() * 8 // 10

    @property
    def warm_memory_bytes(self) -> int:
        """Memory that idle workers may hold together."""
        return self.warm_memory_mb << 20 or machine_memory_bytes() // 4


def machine_memory_bytes() -> int:
    """Return the memory of this machine, or of the container that this process lives in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no control group, or no limit
        return total


class NodeHome:
    """Every file name of a node's home."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.database = self.root / "node.sqlite"
        self.keys = self.root / "keys"
        self.lock = self.root / "lock"
        self.spool = self.root / "spool"
        self.objects = self.spool / "objects"
        self.tasks = self.spool / "tasks"
        self.results = self.spool / "results"
        self.state = self.root / "state"
        self.scratch = self.root / "scratch"
        self.logs = self.root / "logs"
        self.log = self.logs / "node.log"

    def __repr__(self) -> str:
        return f"NodeHome({str(self.root)!r})"

    def create(self) -> None:
        """Make the folders that are not there; only the owner may look into them."""
        inside = (self.objects, self.tasks, self.results, self.state, self.scratch, self.logs)
        for folder in (self.root, *inside):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def check(self) -> None:
        """Refuse a folder that is no node's home.

        Raises:
            ConfigError: it has no key.
        """
        if not (self.keys / "party").exists():
            raise ConfigError(
                f"{self.root} is not a node's home: run `fedjob node init --home {self.root} --id NAME "
                "--hub URL` (or --invite FILE)"
            )

    def result_of(self, key: str) -> Path:
        """The folder that holds the finished result of a task."""
        return self.results / key

    def work_of(self, key: str) -> Path:
        """The folder that a worker writes a task's output to."""
        return self.tasks / key

    def object_of(self, sha256: str) -> Path:
        """An object fetched from the repository."""
        return self.objects / sha256

    def states_of(self, job: str) -> Path:
        """The folder of a job's node states."""
        return self.state / job

    def state_of(self, job: str, state: str) -> Path:
        """One node state."""
        return self.states_of(job) / f"{state}.safetensors"

    def log_of(self, job: str) -> Path:
        """What a job's user code printed."""
        return self.logs / f"{job}.log"

    def scratch_of(self, worker: str) -> Path:
        """A folder that lives as long as a warm worker."""
        return self.scratch / worker
