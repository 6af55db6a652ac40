"""Probes of survival: processes that try to outlive their task, and the timing of its end."""

from __future__ import annotations

from tests.sandbox.probe import ALONE, Chapter

SURVIVAL = Chapter("survival")


def _add(name: str, tries: str, code: str, **more: object) -> None:
    SURVIVAL.add(name, tries, code, how=ALONE, **more)


_add("leaves_a_grandchild", "leave a process that has left its session and its parents", "run_away(me)")
_add(
    "leaves_a_deaf_grandchild",
    "leave a process that ignores signals",
    """
def deaf():
    for number in range(1, 32):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
run_away(me, first=deaf)
""",
)
_add(
    "leaves_a_program",
    "leave a program in the background",
    """
subprocess.Popen(["/bin/sh", "-c", f"trap '' HUP TERM INT; while :; do sleep 1; done; : {me}"], start_new_session=True)
time.sleep(0.1)
""",
)
_add(
    "leaves_a_stopped_process",
    "leave a process that is stopped",
    "run_away(me, first=lambda: os.kill(os.getpid(), signal.SIGSTOP))",
)
_add(
    "leaves_a_process_without_death_signal",
    "leave a process that does not die with its parent",
    "run_away(me, first=lambda: LIBC.prctl(1, 0))",
)
_add(
    "leaves_a_sibling",
    "make a process that is its parent's child",
    """
pid = call("clone", 0x8000 | signal.SIGCHLD, 0, 0, 0, 0)
if pid == 0:
    LIBC.prctl(15, me.encode())
    os.setsid()
    time.sleep(60)
    os._exit(0)
time.sleep(0.1)
""",
    ends=("", "exception"),
)
_add(
    "runs_from_process_to_process",
    "run away by forking again and again",
    """
if os.fork() == 0:
    os.setsid()
    LIBC.prctl(15, me.encode())
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        if os.fork():
            os._exit(0)
        os.setsid()
        time.sleep(0.002)
    os._exit(0)
time.sleep(0.2)
""",
)
_add(
    "adopts_its_orphans",
    "become the parent of orphans and leave",
    """
if os.fork() == 0:
    os.setsid()
    LIBC.prctl(36, 1)
    LIBC.prctl(15, me.encode())
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
    time.sleep(60)
    os._exit(0)
time.sleep(0.1)
""",
)
_add(
    "keeps_the_link_open",
    "end while a child holds its link",
    """
if os.fork() == 0:
    os.setsid()
    LIBC.prctl(15, me.encode())
    time.sleep(60)
    os._exit(0)
os._exit(0)
""",
    ends=("worker_died",),
)
_add(
    "stops_itself",
    "stop itself for ever",
    "os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(60)",
    limit_s=1.0,
    ends=("timeout",),
)
_add(
    "stops_everything_around_it",
    "stop its parent and itself",
    "os.kill(os.getppid(), signal.SIGSTOP) if os.getppid() in (0, 1, 2) else None\nos.kill(0, signal.SIGSTOP)\ntime.sleep(60)",
    limit_s=1.0,
    ends=("timeout", "worker_died"),
)
_add(
    "blocks_every_signal",
    "block every signal and go on",
    """
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
run_away(me)
time.sleep(60)
""",
    limit_s=1.0,
    ends=("timeout",),
)
_add(
    "survives_a_kill",
    "survive when the researcher ends the job",
    """
run_away(me)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(60)
""",
    kill=True,
    limit_s=20.0,
    ends=("killed", "cancelled", "ended"),
)
_add(
    "forks_while_it_is_killed",
    "fork at the moment of its end",
    """
def again():
    while True:
        if os.fork() == 0:
            os.setsid()
            LIBC.prctl(15, me.encode())
        else:
            time.sleep(0.005)
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        LIBC.prctl(15, me.encode())
        ends = time.monotonic() + 20
        while time.monotonic() < ends:
            if os.fork():
                os._exit(0)
            time.sleep(0.003)
        os._exit(0)
time.sleep(60)
""",
    kill=True,
    limit_s=20.0,
    ends=("killed", "cancelled", "ended"),
)
_add(
    "kills_what_watches_it",
    "kill the fork server, so that nobody reaps",
    """
run_away(me)
os.kill(at["server"], signal.SIGKILL)
time.sleep(0.5)
""",
    ends=("", "exception", "worker_died"),
)
_add(
    "kills_its_parent",
    "kill its parent",
    """
run_away(me)
os.kill(os.getppid(), signal.SIGKILL) if os.getppid() > 0 else None
time.sleep(0.5)
""",
    ends=("", "exception", "worker_died"),
)
_add(
    "kills_all_that_it_sees",
    "kill every process with its token or in its sight",
    """
if at["sees_only_its_own"]:
    os.kill(-1, signal.SIGKILL)
time.sleep(0.2)
return None
""",
    ends=("", "exception", "worker_died"),
)
