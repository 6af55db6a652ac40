"""The limits of a hub on sizes, times, numbers and rates."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fedjob.common.config import load_config
from fedjob.repository.parts import MAX_OBJECT_BYTES


def _limit(default: float, at_least: float = 0) -> Any:
    return field(default=default, metadata={"at_least": at_least})


@dataclass(frozen=True, slots=True)
class HubLimits:
    """The limits of one hub, each a setting of that name in `config.toml` of its home.

    A rate is a number per second, beside a number at once: what a party or an address saved up while it was quiet. What a
    member does too fast is slowed, by up to `patience_s` for a request, and refused with status 429 beyond that; what a
    stranger does too fast is refused.

    Args:
        object_bytes: largest size of one object.
        header_bytes: largest size of a request's line and headers together.
        num_connections: for HTTP at the same time; of more, one that waits or belongs to a stranger is closed, first of the
            address that has most, and where there is none the new one is answered with status 503.
        address_connections: for HTTP from one address at the same time; of more, one of that address is closed.
        num_sessions: of the broker, at the same time.
        party_sessions: of the broker, of one party at the same time.
        num_logins: connections to the broker whose login has not come yet; of more, the oldest is closed, first of the
            address that has most.
        address_logins: such connections from one address.
        login_s: seconds for a login to the broker to come.
        num_uploads: in progress at the same time.
        party_uploads: in progress at the same time, of one party.
        party_requests: of one party that are being answered at the same time; more wait for their turn.
        idle_s: seconds without progress after which a request is cut off.
        min_body_bytes: that must arrive of a body within `idle_s`, unless it ends.
        reserve_bytes: of the disk that uploads leave free.
        party_bytes: that one party may have stored, with what is on its way.
        party_disk_share: of the disk, that one party's objects may take; 0 to 1.
        party_objects: that one party may have stored.
        party_watches: jobs that one researcher may show to others.
        num_parties: that may enrol.
        ttl_s: seconds after the last upload for a job until the job counts as ended.
        invitation_s: seconds for which an invitation is valid.
        certificate_s: seconds for which the certificate of a party is valid; it is renewed after two thirds of them.
        requests_per_s, requests_at_once: of HTTP, of one party.
        patience_s: longest time that a request which came too early is kept waiting.
        stranger_requests_per_s, stranger_requests_at_once: without a party's token, from one address.
        refusals_per_s, refusals_at_once: wrong tokens, invitations and passwords, from one address.
        logins_per_s, logins_at_once: to the broker, of one party.
        messages_per_s, messages_at_once: to the broker, of one party.
        message_bytes_per_s, message_bytes_at_once: the same, in bytes.
        addressee_bytes_per_s, addressee_bytes_at_once: the same, of one party to one other: what waits for an addressee is what
            others' messages to it wait behind.
        broadcasts_per_s, broadcasts_at_once: messages that go to all nodes or researchers, and subscriptions, of one party.
        session_subscriptions: that one session may make.
        broker_memory_bytes: that Mosquitto may take.
    """

    object_bytes: int = _limit(MAX_OBJECT_BYTES, 1)
    header_bytes: int = _limit(256 << 10, 1024)
    num_connections: int = _limit(2048, 1)
    address_connections: int = _limit(1024, 1)
    num_sessions: int = _limit(8192, 1)
    party_sessions: int = _limit(32, 1)
    num_logins: int = _limit(512, 1)
    address_logins: int = _limit(256, 1)
    login_s: float = _limit(15.0, 0.1)
    num_uploads: int = _limit(256, 1)
    party_uploads: int = _limit(16, 1)
    party_requests: int = _limit(64, 1)
    idle_s: float = _limit(30.0, 0.1)
    min_body_bytes: int = _limit(16 << 10, 1)
    reserve_bytes: int = _limit(256 << 20)
    party_bytes: int = _limit(1 << 40)
    party_disk_share: float = _limit(0.5)
    party_objects: int = _limit(200_000)
    party_watches: int = _limit(1000)
    num_parties: int = _limit(10_000)
    ttl_s: float = _limit(30 * 86400.0)
    invitation_s: float = _limit(14 * 86400.0)
    certificate_s: float = _limit(30 * 86400.0, 60)
    requests_per_s: float = _limit(500.0, 0.01)
    requests_at_once: float = _limit(5000.0, 1)
    patience_s: float = _limit(2.0)
    stranger_requests_per_s: float = _limit(100.0, 0.01)
    stranger_requests_at_once: float = _limit(2000.0, 1)
    refusals_per_s: float = _limit(5.0, 0.01)
    refusals_at_once: float = _limit(100.0, 1)
    logins_per_s: float = _limit(2.0, 0.01)
    logins_at_once: float = _limit(60.0, 1)
    messages_per_s: float = _limit(500.0, 0.01)
    messages_at_once: float = _limit(5000.0, 1)
    message_bytes_per_s: float = _limit(16.0 * (1 << 20), 1)
    message_bytes_at_once: float = _limit(32.0 * (1 << 20), 1)
    addressee_bytes_per_s: float = _limit(4.0 * (1 << 20), 1)
    addressee_bytes_at_once: float = _limit(8.0 * (1 << 20), 1)
    broadcasts_per_s: float = _limit(5.0, 0.01)
    broadcasts_at_once: float = _limit(100.0, 1)
    session_subscriptions: int = _limit(64, 4)
    broker_memory_bytes: int = _limit(2 << 30, 16 << 20)

    @classmethod
    def load(cls, home: Path) -> HubLimits:
        """Return the limits that a hub's home sets in its `config.toml`, and the defaults for the others.

        Raises:
            ConfigError: the file names a limit that there is none of, or a value does not fit.
        """
        return load_config(cls, home)

    def changed(self) -> dict[str, Any]:
        """Return the limits that are not the defaults."""
        defaults = HubLimits()
        return {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if getattr(self, one.name) != getattr(defaults, one.name)
        }
