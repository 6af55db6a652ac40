"""Plans that misbehave without malice: each ends with a named reason, or not at all."""

from __future__ import annotations

from tests.sandbox.probe import ALONE, Chapter

MISBEHAVIOUR = Chapter("misbehaviour")

_DIED, _RAISED = ("worker_died",), ("exception",)


def _add(
    name: str, tries: str, code: str, ends: tuple[str, ...] = ("",), limit_s: float | None = 10.0
) -> None:
    MISBEHAVIOUR.add(name, tries, code, how=ALONE, ends=ends, limit_s=limit_s)


_add("exits", "exit", "sys.exit(3)", _RAISED)
_add("exits_at_once", "exit without a word", "os._exit(0)", _DIED)
_add("exits_in_a_thread", "exit in a thread", "t = threading.Thread(target=sys.exit)\nt.start()\nt.join()")
_add("interrupts_itself", "raise KeyboardInterrupt", "raise KeyboardInterrupt", _RAISED)
_add("raises_what_is_no_exception", "raise GeneratorExit", "raise GeneratorExit", _RAISED)
_add(
    "raises_with_a_bad_text",
    "raise an error whose text raises",
    'class Odd(Exception):\n    def __str__(self):\n        raise ValueError("no text")\nraise Odd',
    _RAISED + _DIED,
)
_add("raises_a_long_text", "raise an error of 10 MB", 'raise ValueError("x" * (10 << 20))', _RAISED)
_add("loops", "loop without end", "while True:\n    pass", ("timeout",), 1.0)
_add("sleeps", "sleep without end", "time.sleep(1000)", ("timeout",), 1.0)
_add(
    "waits_for_a_lock",
    "wait for itself",
    "lock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    ("timeout",),
    1.0,
)
_add("recurses", "call itself without end", "def again():\n    return again()\nagain()", _RAISED)
_add(
    "recurses_in_c",
    "overrun its stack",
    "sys.setrecursionlimit(10**9)\nvalue = []\nfor _ in range(10**5):\n    value = [value]\nrepr(value)",
    _RAISED + _DIED,
)
_add("crashes", "read address 0", "ctypes.string_at(0)", _DIED)
_add("aborts", "abort", "os.abort()", _DIED)
_add(
    "divides_by_zero_in_c",
    "raise a floating point signal",
    "os.kill(os.getpid(), signal.SIGFPE)",
    ("", *_DIED),
)
_add("ends_itself", "kill itself", "os.kill(os.getpid(), signal.SIGKILL)", ("", *_DIED))
_add(
    "terminates_itself",
    "send itself SIGTERM",
    "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.3)",
    ("", *_DIED),
)
_add(
    "closes_its_files", "close every open file", "os.closerange(0, 4096)", ("", *_DIED, "no_space", *_RAISED)
)
_add(
    "closes_its_link", "close its link", "order, link = here()\nlink._socket.close()", ("", *_DIED, *_RAISED)
)
_add("shuts_its_link", "shut its link and go on", "order, link = here()\nlink.shut()\ntime.sleep(0.3)", _DIED)
_add(
    "closes_its_output",
    "close standard output and error",
    "sys.stdout.close()\nsys.stderr.close()\nos.close(1)\nos.close(2)",
    ("", *_RAISED, *_DIED),
)
_add(
    "replaces_its_output",
    "replace standard output",
    'sys.stdout = None\nsys.stderr = open(os.devnull, "w")',
    ("", *_DIED, *_RAISED),
)
_add("forks_and_returns_twice", "fork and return in both", "os.fork()", ("", *_DIED))
_add(
    "forks_and_leaves",
    "fork, and leave the child",
    "if os.fork() == 0:\n    LIBC.prctl(15, me.encode())\n    time.sleep(60)\n    os._exit(0)",
)
_add(
    "leaves_threads",
    "leave threads",
    "for _ in range(20):\n    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
)
_add(
    "leaves_threads_that_count",
    "leave threads that are no daemons",
    "for _ in range(3):\n    threading.Thread(target=time.sleep, args=(60,)).start()",
)
_add(
    "changes_signals",
    "ignore every signal",
    "for number in range(1, 65):\n    try:\n        signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass",
)
_add("changes_folders", "change its folder", 'os.chdir("/")')
_add(
    "removes_its_folder",
    "remove its folder",
    "os.chdir(scratch())\nshutil.rmtree(scratch(), ignore_errors=True)",
)
_add(
    "removes_its_output_folder",
    "remove its output",
    "shutil.rmtree(output(), ignore_errors=True)",
    ("", "no_space", "decode", *_DIED, *_RAISED),
)
_add(
    "masks_its_files",
    "mask every right of its files",
    "os.umask(0o777)",
    ("", "no_space", "decode", *_DIED, *_RAISED),
)
_add(
    "limits_itself",
    "take its own limits away",
    "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))",
    ("", "no_space", "decode", *_DIED, *_RAISED),
)
_add(
    "limits_its_files",
    "limit its files to nothing",
    "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))",
    ("", "no_space", "decode", *_DIED, *_RAISED),
)
_add(
    "limits_its_time",
    "limit its time",
    "resource.setrlimit(resource.RLIMIT_CPU, (0, 1))\nwhile True:\n    pass",
    _DIED,
)
_add(
    "limits_its_memory",
    "limit its memory",
    "resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))\nreturn not bytearray(50 << 20)",
    ("", "out_of_memory", *_DIED, *_RAISED),
)
_add(
    "runs_out_of_memory", "allocate a terabyte", "return len(bytearray(1 << 40))", ("out_of_memory", *_RAISED)
)
_add(
    "patches_time",
    "stop its clocks",
    "time.monotonic = lambda: 0.0\ntime.perf_counter = lambda: 0.0\ntime.time = lambda: 0.0",
    ("", *_RAISED),
)
_add(
    "patches_the_codec",
    "break what fedjob answers with",
    "import fedjob.common.codec as codec\ncodec.pack = None\nimport fedjob.node.execution.process as process\nprocess.pack = None",
    ("", *_RAISED, *_DIED),
)
_add("clears_its_modules", "forget every module", "sys.modules.clear()", ("", *_RAISED, *_DIED))
_add("returns_what_cannot_travel", "return an object", 'return {"x": threading.Lock()}', ("encode", *_RAISED))
_add(
    "prints_odd_bytes",
    "print odd bytes",
    'os.write(1, bytes(range(256)) * 10)\nprint("\\x1b[2J\\ud800")',
    ("", *_RAISED),
)
_add("reads_standard_input", "wait at standard input", "return sys.stdin.read(1) or None")
_add("makes_a_zombie", "leave zombies", "for _ in range(50):\n    if os.fork() == 0:\n        os._exit(0)")
_add(
    "uses_processes",
    "use a pool of processes (as a loader of data does)",
    "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool:\n    return None if pool.map(abs, [-1, -2]) == [1, 2] else 'wrong'",
)
