"""A transport carries frames between parties and promises nothing: they may get lost, doubled or late."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from fedjob.common.types import Address

DAEMON = "main"
"""The session of a node daemon; it alone hears what is sent to everybody and shows its presence."""

OnFrame = Callable[[str, bytes], None]
OnConnection = Callable[[bool], None]


class Transport(ABC):
    """One party's session on a broker.

    The callbacks run on the network's thread: they enqueue and return.
    """

    address: Address
    trouble: str = ""
    """Why the connection does not stand, in words, where that is known; empty while it does."""

    @abstractmethod
    def open(self, on_frame: OnFrame, *, timeout_s: float, on_connection: OnConnection | None = None) -> None:
        """Connect and subscribe; return when the broker has confirmed both.

        Args:
            on_frame: called with the sender as the topic names it, and the frame.
            on_connection: called with True after every (re)connection, once the
                subscriptions stand again, and with False when it breaks.

        Raises:
            BrokerUnreachable: not connected in `timeout_s`; says whether nobody answered or it was refused.
        """

    @abstractmethod
    def send(self, to: Address | None, frame: bytes) -> bool:
        """Hand over a frame for one address, or for everybody, without waiting.

        Returns:
            False if it was dropped at once because there is no connection or too
            much is waiting; True promises nothing.
        """

    @abstractmethod
    def connected(self) -> bool:
        """Tell whether the connection stands, subscriptions included."""

    @abstractmethod
    def presence(self) -> dict[str, bool]:
        """Return which nodes said that they are there: a hint, it may be stale."""

    @abstractmethod
    def close(self) -> None:
        """Leave; a second call does nothing."""
