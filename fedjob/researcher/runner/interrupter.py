"""The interrupter: a thread that interrupts a job's own thread if that overlooks a kill in its inbox."""

from __future__ import annotations

import ctypes
import signal
import threading
import time

from fedjob.researcher.storage import inbox
from fedjob.researcher.storage.folder import JobFolder

PATIENCE_S = 1.0
"""Time in which the job's own thread may find a kill by itself."""

_LOOK_S = 0.25


class Interrupter:
    """A thread that watches the inbox for the thread that makes it.

    Args:
        folder: of the job that this thread runs.
    """

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder
        self._thread = threading.current_thread()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._watch = threading.Thread(target=self._run, name="fedjob-interrupter", daemon=True)
        self._watch.start()

    def close(self) -> None:
        """Watch no more; no interrupt comes after this."""
        with self._lock:
            self._over.set()

    def _run(self) -> None:
        since: float | None = None
        while not self._over.wait(_LOOK_S):
            if inbox.asked(self._folder) != inbox.KILL:
                since = None
                continue
            since = since or time.monotonic()
            if time.monotonic() - since > PATIENCE_S:
                with self._lock:
                    if not self._over.is_set():
                        self._interrupt()
                since = time.monotonic() + 4.0  # the code that runs may swallow the first one

    def _interrupt(self) -> None:
        ident = self._thread.ident or 0
        if self._thread is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            signal.pthread_kill(ident, signal.SIGINT)  # wakes it from a sleep, too
        else:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(ident), ctypes.py_object(KeyboardInterrupt)
            )
