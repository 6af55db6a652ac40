"""The watch over a daemon's place in the federation: its connection, its clock, and a second daemon of its name.

Each change is one line in the node's log, and stands in `fedjob node status` for as long as it lasts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from fedjob.common.errors import FedjobError, VersionMismatch
from fedjob.messaging.clock import clock_text, misdated_text
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.transport.presence import ANNOUNCE_EVERY_S, TWIN_FOR_S

CLOCK_EVERY_S = 600.0
"""The hub's time is compared so often, and after every new connection."""

TWIN_TEXT = (
    "another daemon runs under this node's name, such as one on a copy of its home: each takes the other's messages. "
    "Stop one of them (fedjob node stop), and give a copied home an identity of its own (fedjob node init)"
)

log = logging.getLogger(__name__)


class ConnectionWatch:
    """Looks now and then whether the node is connected, alone under its name, and in time.

    Args:
        hub_ahead_s: returns by how many seconds the hub's clock is ahead of this machine's, None where it reports no
            time; None where there is no hub to compare with.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        hub_ahead_s: Callable[[], float | None] | None,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._endpoint = endpoint
        self._hub_ahead_s = hub_ahead_s
        self._wall = wall
        self._was_connected: bool | None = None
        self._lost_at = 0.0
        self._announced = 0.0
        self._twin = False
        self._compared = -CLOCK_EVERY_S
        self._ahead_s: float | None = None
        self._wrong = False
        self._version_trouble = ""
        self._misdated: frozenset[str] = frozenset()

    @property
    def twin(self) -> bool:
        """True if another daemon runs under this node's name."""
        return self._wall() - self._endpoint.twin_seen < TWIN_FOR_S

    def look(self, now: float) -> None:
        """Write what has changed into the log.

        Args:
            now: monotonic seconds.
        """
        self._look_at_connection(now)
        if now - self._announced >= ANNOUNCE_EVERY_S:
            self._announced = now
            self._endpoint.announce()
        if self.twin != self._twin:
            self._twin = not self._twin
            log.log(
                logging.ERROR if self._twin else logging.INFO,
                "%s",
                TWIN_TEXT if self._twin else "alone again",
            )
        misdated = dict(self._endpoint.misdated)
        for sender in misdated.keys() - self._misdated:
            log.warning("%s: %s", sender, misdated_text(misdated[sender]))
        self._misdated = frozenset(misdated)
        if self._hub_ahead_s is not None and now - self._compared >= CLOCK_EVERY_S:
            self._compared = now
            threading.Thread(target=self._compare_clocks, name="clock", daemon=True).start()

    def facts(self) -> dict[str, Any]:
        """Return what `fedjob node status` shows."""
        return {
            "trouble": ""
            if self._endpoint.connected
            else (self._endpoint.trouble or "it has not connected yet"),
            "version_trouble": self._version_trouble,
            "twin": self.twin,
            "clock": clock_text(self._ahead_s),
        }

    def _look_at_connection(self, now: float) -> None:
        connected = self._endpoint.connected
        if connected == self._was_connected:
            return
        if connected:
            away = (
                f" after {now - self._lost_at:.0f} s"
                if self._was_connected is False and self._lost_at
                else ""
            )
            log.info("connected to the broker%s", away)
            self._compared = -CLOCK_EVERY_S
        else:
            self._lost_at = now
            log.warning(
                "not connected: %s; tried again until it answers", self._endpoint.trouble or "no answer yet"
            )
        self._was_connected = connected

    def _compare_clocks(self) -> None:
        assert self._hub_ahead_s is not None
        try:
            ahead_s = self._hub_ahead_s()
        except VersionMismatch as error:  # it was upgraded while this node ran
            if str(error) != self._version_trouble:
                self._version_trouble = str(error)
                log.error("%s", error)
            return
        except FedjobError:  # it is away: that is said elsewhere, and its clock is compared when it is back
            return
        self._version_trouble = ""
        was_wrong, self._ahead_s = self._wrong, ahead_s
        self._wrong = bool(clock_text(ahead_s))
        if self._wrong:
            log.error("%s", clock_text(ahead_s))
        elif was_wrong:
            log.info("this machine's clock is right again")
