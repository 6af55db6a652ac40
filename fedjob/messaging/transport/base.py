"""The interface of a transport, which carries frames between parties: they may get lost, doubled or late."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from fedjob.common.types import Address

DAEMON = "main"
"""The session of a node daemon; it alone receives frames to everybody, and it alone shows its presence."""

OnFrame = Callable[[str, bytes], None]
OnConnection = Callable[[bool], None]


class Transport(ABC):
    """One party's session on a broker.

    The callbacks run on the network's thread: they enqueue and return.
    """

    address: Address
    trouble: str = ""
    """The reason why there is no connection, in words, where it is known; empty while there is one."""

    @abstractmethod
    def open(self, on_frame: OnFrame, *, timeout_s: float, on_connection: OnConnection | None = None) -> None:
        """Connect and subscribe; return when the broker has confirmed both.

        Args:
            on_frame: called with the sender as the topic names it, and the frame.
            on_connection: called with True after every (re)connection, once the
                subscriptions stand again, and with False when it breaks.

        Raises:
            BrokerUnreachable: there is no connection after `timeout_s`; the message has the reason, such as
                that nothing answered or that the broker refused.
        """

    @abstractmethod
    def send(self, to: Address | None, frame: bytes) -> bool:
        """Send a frame to one address, or to every node where `to` is None, without waiting.

        Returns:
            False if the frame was dropped at once, because there is no connection or
            too many frames are waiting. True does not mean that it will arrive.
        """

    @abstractmethod
    def connected(self) -> bool:
        """Return whether the party is connected and subscribed."""

    @abstractmethod
    def presence(self) -> dict[str, bool]:
        """Return node -> whether it announced that it is connected. This is a hint, which may be out of date."""

    def note_presence(self, party: str) -> None:
        """Count a node as present, which has just answered: a cluster of brokers may have lost its announcement."""
        return

    @property
    def url(self) -> str:
        """The URL by which the broker is reached; empty where there is none."""
        return ""

    @property
    def twin_seen(self) -> float:
        """When another daemon of this party was seen last, seconds since 1970; 0 for never."""
        return 0.0

    def announce(self) -> None:
        """Announce a daemon's presence once more, should its last announcement have been lost."""
        return

    @abstractmethod
    def close(self) -> None:
        """Disconnect; a second call does nothing."""
