"""The home of a node on disk: every file name in it."""

from __future__ import annotations

from pathlib import Path

from fedjob.common.errors import ConfigError
from fedjob.common.files import make_folder
from fedjob.identity.enrolment import check_role_of_home
from fedjob.identity.private_home import OpenHome, close_home


class NodeHome:
    """Every file name of a node's home."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.database = self.root / "node.sqlite"
        self.keys = self.root / "keys"
        self.party = self.keys / "party"
        self.lock = self.root / "lock"
        self.spool = self.root / "spool"
        self.objects = self.spool / "objects"
        self.tasks = self.spool / "tasks"
        self.results = self.spool / "results"
        self.secrets = self.root / "secrets.json"
        self.models = self.root / "models.json"
        self.page_password = self.root / "page_password.json"
        self.state = self.root / "state"
        self.scratch = self.root / "scratch"
        self.brought = self.root / "brought"
        self.releases = self.root / "releases"
        self.outputs = self.root / "outputs"
        self.hooks = self.root / "hooks"
        self.logs = self.root / "logs"
        self.log = self.logs / "node.log"
        self.task_logs = self.logs / "tasks"

    def __repr__(self) -> str:
        return f"NodeHome({str(self.root)!r})"

    def create(self) -> OpenHome:
        """Make the folders that are not there; only the owner may look into them, and what was open is closed."""
        inside = (self.objects, self.tasks, self.results, self.state, self.scratch, self.logs, self.task_logs)
        for folder in (self.root, *inside):
            make_folder(folder)
        return close_home(self.root)

    def check(self) -> None:
        """Refuse a folder that is no node's home.

        Raises:
            ConfigError: it has no key, or is another role's.
        """
        check_role_of_home(self.root, "node")
        if not self.party.exists():
            raise ConfigError(
                f"{self.root} is not a node's home: run `fedjob node init --home {self.root} --id NAME "
                "--hub URL` (or --invite FILE)"
            )

    @property
    def node(self) -> str:
        """The node's id; empty for a home that has not joined."""
        return self.party.read_text(encoding="utf-8").strip() if self.party.exists() else ""

    def result_of(self, key: str) -> Path:
        """The folder that holds the finished result of a task."""
        return self.results / key

    def object_of(self, sha256: str) -> Path:
        """An object fetched from the repository."""
        return self.objects / sha256

    def states_of(self, job: str) -> Path:
        """The folder of a job's node states."""
        return self.state / job

    def state_of(self, job: str, state: str) -> Path:
        """One node state."""
        return self.states_of(job) / f"{state}.safetensors"

    def outputs_of(self, job: str, dataset: str, round_: int) -> Path:
        """Files that a round of a job left here for the owner, such as predictions that may not leave."""
        return self.outputs / job / (dataset or "brought") / f"round_{round_:04d}"

    def releases_of(self, dataset: str) -> Path:
        """The record of the released answers about the rows of a dataset."""
        return self.releases / f"{dataset}.safetensors"

    def log_of(self, key: str, stream: str) -> Path:
        """The file of what a task's user code wrote to `stdout` or `stderr`."""
        return self.task_logs / f"{key}.{stream}"

    def scratch_of(self, worker: str) -> Path:
        """A folder that lives as long as a warm worker."""
        return self.scratch / worker
