"""The HTTP API of a RabbitMQ, by which the hub ends the connections of parties that are no members any more.

RabbitMQ asks for the rights of a session when it begins and when it turns to another topic, and then remembers the answer for as
long as the session lasts.
"""

from __future__ import annotations

import http.client
import logging
from base64 import b64encode
from collections.abc import Sequence
from urllib.parse import quote, urlsplit

from fedjob.common.errors import BrokerUnreachable
from fedjob.hub.storage.parties import Member

PATIENCE_S = 10.0
_GONE = (200, 204, 404)
_log = logging.getLogger("fedjob.hub")


class RabbitManagement:
    """The connections at one RabbitMQ, or at a cluster.

    Args:
        url: of the API, without `/api`.
        user, password: of the hub.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url.rstrip("/")
        self._login = b64encode(f"{user}:{password}".encode()).decode()
        self._hashes: dict[str, str] = {}
        self._ended: set[tuple[str, str]] = set()
        self._why = ""

    def end_revoked(self, members: Sequence[Member]) -> None:
        """End the connections of revoked parties, and of those that have another password than at the last call.

        Raises:
            BrokerUnreachable: the API can't be reached or refuses; the next call tries again.
        """
        for member in members:
            before = self._hashes.get(member.party, member.broker_hash)
            is_due = member.revoked or before != member.broker_hash
            if is_due and (member.party, member.broker_hash) not in self._ended:
                self._end(member.party)
                self._ended.add((member.party, member.broker_hash))
            self._hashes[member.party] = member.broker_hash

    def _end(self, party: str) -> None:
        try:
            status = self._delete(f"/api/connections/username/{quote(party, safe='')}")
            why = "" if status in _GONE else f"it answers {status} to the end of the connections of {party}"
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
        trouble = f"the HTTP API of the broker at {self._url} ends no connections of revoked parties ({why}): the hub tries again"
        if why and why != self._why:
            _log.warning("%s", trouble)
        self._why = why
        if why:
            raise BrokerUnreachable(trouble)

    def _delete(self, path: str) -> int:
        parts = urlsplit(self._url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=PATIENCE_S)
        headers = {"Authorization": f"Basic {self._login}", "X-Reason": "revoked, or enrolled anew"}
        try:
            connection.request("DELETE", f"{parts.path}{path}", headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()
