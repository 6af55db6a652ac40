"""The settings of a node: everything that its owner can set."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from fedjob.common.errors import ConfigError, SpecError
from fedjob.common.network.proxy import check_proxy_setting
from fedjob.common.requirements import read_bytes
from fedjob.common.telemetry.logs import LOG_FORMATS
from fedjob.common.types import Contact, read_contacts
from fedjob.identity.encryption import CHOICES
from fedjob.node.config.capacity import Capacity, CapacityPart, read_labels, read_pools
from fedjob.node.config.hours import read_hours
from fedjob.node.config.options import read_options
from fedjob.node.config.page_people import read_people


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """A node's settings; `fedjob node config show` lists them.

    Args:
        proxy: on the way to the hub: its URL, with a login where it wants one; `none`; empty for what the
            environment says. Used from the next start on.
        tls_ca: file of the certificate of the hub's authority, or of a proxy's that looks inside TLS; empty for the
            one that the home joined with.
        tls_cert, tls_key: files of a certificate of this party's own and of its key, where the hub issues none.
        encryption: `on`: messages and objects are encrypted for their readers, and plain ones refused; `off`: the hub
            can read them; `auto`: on where the roster is pinned.
        approval: `on`: user code runs only if the owner approved its exact text.
        approvers: different people who have to approve a grant before it counts.
        plans: patterns of built-in operations that run without asking, such as `fedjob.statistics`.
        operations: patterns of operations that exist here at all, such as `fedjob.train.*`.
        ask_data: patterns of datasets whose use has to be granted whatever the plan.
        unknown: what a researcher's key that the owner has not met gets: `pending` asks the owner whatever
            standing agreements say, `deny` refuses, `allow` treats it as known.
        own_of: patterns of researchers whose own data these are: operations may show them what lies here, such
            as a private set intersection the identifiers that it found.
        verifier: what a researcher has to show beside the signature: `signature` is content with that, `oidc`
            wants a login at an OpenID provider; or the name of an installed verifier.
        verifier_options: its options, `name=value, ...`: for `oidc` `issuer`, `client_id`, `claim`, `nonce`.
        projects: patterns of the projects that the node takes part in; jobs without a project always may.
        contact: whom researchers should ask, `NAME, ROLE, ADDRESS`; several with semicolons between them.
        page_issuer: URL of the OpenID provider at which people sign in to the owner's page, with `--openid`.
        page_client_id: the name under which the provider knows the page.
        page_secret_file: file with the client's secret, for its owner alone; empty for a public client.
        page_people: who may enter, `sub=ID, email=ADDRESS, group=NAME`; nobody else does. Only addresses that the
            provider has verified count.
        page_groups_claim: of the token, with the names of a person's groups.
        page_scopes: what the provider is asked for, with blanks between.
        page_tls_ca: file of the certificate of the provider's own authority; empty for the public ones.
        notify_mail, notify_webhook, notify_command: where the owner is notified that a request waits.
        notify_every_s: at least so long between two notices; what came in between is notified together.
        smtp: server that takes the mail, `smtp://host:port` or `smtps://user:password@host:port`.
        bring: `off` refuses data that researchers bring with a job.
        bring_mb: size of such data, unpacked.
        publish_mocks: `on` lets researchers download the mocks of datasets.
        publish_speed: `on` lets researchers who ask what a job would cost know how fast earlier tasks went here.
        errors: what is reported to a researcher of an error in a plan: `reason` is its
            class and the plan's line numbers, `full` its message too.
        workers: tasks that run at the same time; 0 queues them only.
        job_workers: of those, tasks of one job.
        cpus: cores that jobs may ask for; 0 for as many as there are.
        memory: that jobs may ask for, such as `16Gi`; empty for the machine's.
        gpus: devices that jobs may ask for; -1 for as many as there are. No task sees others.
        gpu_jobs: jobs that may hold one device at once; with 2 a worker's torch may have half of its memory.
        labels: words that jobs may ask for, with commas between them.
        pools: parts of the node that jobs ask for by name, such as `gpu: workers=1 gpus=0,1; batch: workers=2`.
        hours: when tasks may begin, such as `Mon-Fri 20:00-06:00, Sat-Sun 00:00-24:00`; empty for always.
        reserve_s: seconds for which an offer holds resources until a task takes them.
        orphan_after_s: seconds after which unfinished tasks are given up if who asked for them is silent.
        sandbox: `on`: workers run in a sandbox, and none runs where it can't be closed; `none` lets plans see and do
            what the node's user can, which every answer says.
        scratch_mb: what one worker may write, its output included; it takes memory, half of the machine's at most.
        launcher: how worker processes are started: `process`, or the name of an installed launcher.
        launcher_options: its options, `name=value, ...`; goes before what a job asks for.
        hooks: those that are called on events of tasks here: `csv`, or names of installed hooks, with commas between them.
        hook_options: their options, `csv.events=task.*, ...`.
        logs_mock, logs_private: which output of user code a researcher is sent by itself.
        threads: torch threads of each worker; 0 shares the cores among the workers.
        task_limit_s: wall-clock seconds that one task may take at most.
        worker_memory_mb: private memory that one worker may allocate; 0 for 80 % of the machine's.
        warm_workers: worker processes that are kept between rounds.
        warm_memory_mb: memory that they may hold together; the longest unused goes first. 0 for a quarter
            of the machine's.
        warm_s: seconds after which an unused one goes, and later the fork server.
        log_kb: what user code may print, per task and stream.
        logs_mb: of task logs altogether; the oldest go first.
        result_mb: size of one result.
        metrics_port: of this machine's loopback, at which `GET /metrics` and `/healthz` are served; 0 for none.
            Used from the next start on.
        log_format: of `logs/node.log`: `text`, or `json` for one object a line. Used from the next start on.
        log_file_mb: size at which `logs/node.log` is put aside and begun anew; 0 where something else rotates it,
            such as logrotate. Used from the next start on.
        log_files: of the log, the old ones that are kept beside the newest.
        max_tasks, max_tasks_per_researcher: tasks in the queue, running ones included.
        max_pending: undecided grants per researcher.
    """

    proxy: str = field(default="", metadata={"check": check_proxy_setting})
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    encryption: str = field(default="auto", metadata={"choices": CHOICES})
    approval: str = field(default="on", metadata={"choices": ("on", "off")})
    approvers: int = field(default=1, metadata={"at_least": 1})
    plans: str = ""
    operations: str = "*"
    ask_data: str = ""
    unknown: str = field(default="pending", metadata={"choices": ("pending", "deny", "allow")})
    own_of: str = ""
    verifier: str = "signature"
    verifier_options: str = field(default="", metadata={"check": read_options})
    projects: str = "*"
    contact: str = field(default="", metadata={"check": lambda text: _contacts(text)})
    page_issuer: str = field(default="", metadata={"check": lambda text: _issuer(text)})
    page_client_id: str = ""
    page_secret_file: str = ""
    page_people: str = field(default="", metadata={"check": read_people})
    page_groups_claim: str = "groups"
    page_scopes: str = field(default="openid profile email", metadata={"check": lambda text: _scopes(text)})
    page_tls_ca: str = ""
    notify_mail: str = ""
    notify_webhook: str = field(default="", metadata={"check": lambda text: _url(text, "http", "https")})
    notify_command: str = field(default="", metadata={"check": lambda text: _words(text)})
    notify_every_s: float = field(default=60.0, metadata={"at_least": 0.0})
    smtp: str = field(
        default="smtp://127.0.0.1:25", metadata={"check": lambda text: _url(text, "smtp", "smtps")}
    )
    bring: str = field(default="on", metadata={"choices": ("on", "off")})
    bring_mb: int = field(default=1024, metadata={"at_least": 1})
    publish_mocks: str = field(default="on", metadata={"choices": ("on", "off")})
    publish_speed: str = field(default="on", metadata={"choices": ("on", "off")})
    errors: str = field(default="reason", metadata={"choices": ("reason", "full")})
    workers: int = field(default=1, metadata={"at_least": 0})
    job_workers: int = field(default=1, metadata={"at_least": 1})
    cpus: float = field(default=0.0, metadata={"at_least": 0.0})
    memory: str = field(default="", metadata={"check": lambda text: _memory_bytes(text)})
    gpus: int = field(default=0, metadata={"at_least": -1})
    gpu_jobs: int = field(default=1, metadata={"at_least": 1})
    labels: str = ""
    pools: str = field(default="", metadata={"check": read_pools})
    hours: str = field(default="", metadata={"check": read_hours})
    reserve_s: float = field(default=30.0, metadata={"at_least": 1.0})
    orphan_after_s: float = field(default=6 * 3600.0, metadata={"at_least": 1.0})
    sandbox: str = field(default="on", metadata={"choices": ("on", "none")})
    scratch_mb: int = field(default=8192, metadata={"at_least": 16})
    launcher: str = "process"
    launcher_options: str = field(default="", metadata={"check": read_options})
    hooks: str = ""
    hook_options: str = field(default="", metadata={"check": read_options})
    logs_mock: str = field(default="all", metadata={"choices": ("none", "stdout", "all")})
    logs_private: str = field(default="none", metadata={"choices": ("none", "stdout", "all")})
    threads: int = field(default=0, metadata={"at_least": 0})
    task_limit_s: float = field(default=24 * 3600.0, metadata={"at_least": 0.1})
    worker_memory_mb: int = field(default=0, metadata={"at_least": 0})
    warm_workers: int = field(default=4, metadata={"at_least": 0})
    warm_memory_mb: int = field(default=0, metadata={"at_least": 0})
    warm_s: float = field(default=600.0, metadata={"at_least": 0.0})
    log_kb: int = field(default=1024, metadata={"at_least": 1})
    logs_mb: int = field(default=256, metadata={"at_least": 1})
    result_mb: int = field(default=4096, metadata={"at_least": 1})
    metrics_port: int = field(default=0, metadata={"at_least": 0, "check": lambda number: check_port(number)})
    log_format: str = field(default="text", metadata={"choices": LOG_FORMATS})
    log_file_mb: float = field(default=5.0, metadata={"at_least": 0.0})
    log_files: int = field(default=2, metadata={"at_least": 1})
    max_tasks: int = field(default=64, metadata={"at_least": 1})
    max_tasks_per_researcher: int = field(default=16, metadata={"at_least": 1})
    max_pending: int = field(default=64, metadata={"at_least": 1})

    @property
    def torch_threads(self) -> int:
        """Threads that a worker computes with."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // max(1, self.workers))

    @property
    def gpu_share(self) -> float:
        """The part of a device's memory that one worker may have: as many workers may be on it as there are parts."""
        return 1.0 / (self.gpu_jobs * max(1, min(self.workers, self.job_workers)))

    @property
    def contacts(self) -> tuple[Contact, ...]:
        """Whom researchers should ask."""
        return read_contacts(self.contact)

    def capacity(self) -> Capacity:
        """Return what the node lends out to tasks.

        Raises:
            ConfigError: `memory` or `pools` does not read.
        """
        num_gpus = num_gpus_here() if self.gpus < 0 else self.gpus
        whole = CapacityPart(
            workers=self.workers,
            cpus=self.cpus or float(len(os.sched_getaffinity(0))),
            memory_bytes=_memory_bytes(self.memory),
            gpus=tuple(range(num_gpus)),
        )
        return Capacity(
            whole=whole,
            labels=read_labels(self.labels),
            pools=read_pools(self.pools),
            gpu_jobs=self.gpu_jobs,
        )

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


def _memory_bytes(text: str) -> int:
    try:
        return read_bytes(text) if text else machine_memory_bytes()
    except SpecError as error:
        raise ConfigError(str(error)) from error


def _contacts(text: str) -> None:
    try:
        read_contacts(text)
    except SpecError as error:
        raise ConfigError(str(error)) from error


def _url(text: str, *schemes: str) -> None:
    try:
        url = urlsplit(text)
        fits = url.scheme in schemes and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        fits = False
    if text and not fits:
        expected = " or ".join(f"{scheme}://HOST:PORT" for scheme in schemes)
        raise ConfigError(f"expected {expected}, found {text[:80]!r}")


def _issuer(text: str) -> None:
    from fedjob.identity.openid.provider import (
        check_issuer,  # with a client for HTTP, which commands rarely need
    )

    try:
        if text:
            check_issuer(text)
    except SpecError as error:
        raise ConfigError(str(error)) from error


def _scopes(text: str) -> None:
    if "openid" not in text.split() or not (text.isascii() and text.isprintable()):
        raise ConfigError(f"expected scopes with blanks between and openid among them, found {text[:80]!r}")


def _words(text: str) -> None:
    try:
        shlex.split(text)
    except ValueError as error:
        raise ConfigError(
            f"expected a command, as a shell reads it, found {text[:80]!r} ({error})"
        ) from error


def check_port(number: int) -> None:
    """Refuse what is no port.

    Raises:
        ConfigError: it is none.
    """
    if number > 65535:
        raise ConfigError(f"expected a port from 1 to 65535, or 0 for none, found {number}")


def num_gpus_here() -> int:
    """Count the NVIDIA devices of this machine, without loading their driver."""
    try:
        return len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        return 0
