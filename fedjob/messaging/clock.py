"""The comparison of this machine's clock with the hub's: messages expire by the clocks of those who send and receive."""

from __future__ import annotations

from fedjob.messaging.frame_checks import CLOCK_TOLERANCE_S

WORTH_SAYING_S = 30.0
"""A difference that no slow answer of a hub explains."""


def clock_text(hub_ahead_s: float | None) -> str:
    """Return what is wrong with this machine's clock, with the number of seconds; empty where nothing is.

    Args:
        hub_ahead_s: seconds by which the hub's clock is ahead of this one; None where that is not known.
    """
    if hub_ahead_s is None or abs(hub_ahead_s) < WORTH_SAYING_S:
        return ""
    way = "slow" if hub_ahead_s > 0 else "fast"
    text = f"this machine's clock is {abs(hub_ahead_s):.0f} s {way}, compared with the hub's"
    if abs(hub_ahead_s) < CLOCK_TOLERANCE_S:
        return f"{text}: set it (NTP); from {CLOCK_TOLERANCE_S:.0f} s on messages are dropped"
    return f"{text}: set it (NTP); its messages, or those that it gets, are dropped as expired or as of the future"


def misdated_text(ahead_s: float) -> str:
    """Return what is to be said of a party whose messages are dated wrongly.

    Args:
        ahead_s: seconds by which they are dated in the future; below 0 in the past.
    """
    way = "in the future" if ahead_s > 0 else "in the past"
    return (
        f"its messages are dated {abs(ahead_s):.0f} s {way} and are dropped: one of the two clocks is wrong"
    )


def hub_ahead_s(hub_time: float, asked: float, answered: float) -> float | None:
    """Return by how many seconds the hub's clock is ahead of this machine's.

    Args:
        hub_time: as the hub reported it, seconds since 1970; 0 where it reports none.
        asked, answered: by this machine's clock, around the question.
    """
    if not hub_time:
        return None
    if asked <= hub_time <= answered:
        return 0.0
    return hub_time - (answered if hub_time > answered else asked)
