"""A forward proxy of the tests' own: CONNECT and plain requests, TLS that it inspects or lets through, and faults.

What comes through a tunnel is recognised by its first bytes: MQTT, a WebSocket that carries MQTT, other requests of
HTTP, or bytes that nobody looks into, such as TLS that is not inspected.
"""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from tests.faults.authority import Authority
from tests.faults.http import HttpFaults, HttpMessage, answer, read_head
from tests.faults.mqtt import MqttFaults
from tests.faults.script import Script
from tests.faults.serving import LoopThread, Server, Stream, both, connect, pump

_CONNECT_PACKET = 0x10


class ForwardProxy(Server):
    """A forward proxy.

    Args:
        host: that it listens on.
        authority: looks into TLS, with a certificate for each host that this authority signs.
        trusts: certificate of the authority that the proxy checks inspected servers against.
        login: `user:password` that it wants; empty for none.
    """

    def __init__(
        self,
        thread: LoopThread,
        *,
        authority: Authority | None = None,
        trusts: Path | None = None,
        login: str = "",
        host: str = "127.0.0.1",
    ) -> None:
        self._authority = authority
        self._trusts = trusts
        self._login = login
        self.inspected: list[str] = []
        """First lines of the requests that it read in TLS, and `MQTT` for each connection of a broker's."""
        self.script = Script()
        self.http, self.mqtt = HttpFaults(self.script), MqttFaults(self.script)
        super().__init__(thread, host)

    def become(self, script: Script) -> None:
        """Take on other faults, on connections that stand as well."""
        self.script = self.http.script = self.mqtt.script = script

    async def serve(self, client: Stream) -> None:
        head = await read_head(client.reader)
        if head is None:
            return
        if not self._lets_in(head):
            await client.send(answer("407 Proxy Authentication Required", Proxy_Authenticate="Basic").head)
            return
        method, target, _ = head.first.split(" ", 2)
        if method != "CONNECT":
            parts = urlsplit(target)
            server = await connect(parts.hostname or "", parts.port or 80)
            try:
                await self._requests(head, client, server)
            finally:
                server.close()
            return
        host, _, port = target.rpartition(":")
        host = host.strip("[]")
        try:
            server = await connect(host, int(port), **self._upstream(host))
        except (OSError, TimeoutError) as error:
            await client.send(answer("502 Bad Gateway", str(error).encode()).head)
            return
        try:
            await client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            if self._authority is not None:
                await client.writer.start_tls(self._authority.context_for(host))
            await self._tunnel(client, server)
        finally:
            server.close()

    def _upstream(self, host: str) -> dict[str, object]:
        if self._authority is None:
            return {}
        return {"ssl": ssl.create_default_context(cafile=self._trusts), "server_hostname": host}

    def _lets_in(self, head: HttpMessage) -> bool:
        asked = "Basic " + base64.b64encode(self._login.encode()).decode()
        return not self._login or head.header("proxy-authorization") == asked

    async def _tunnel(self, client: Stream, server: Stream) -> None:
        """Carry what comes through a tunnel, and look into it where it can be read."""
        first = await client.reader.read(1)
        client.reader._buffer[0:0] = first  # type: ignore[attr-defined]  # it is to be read again
        if first == bytes([_CONNECT_PACKET]):
            self._note("MQTT")
            await self.mqtt.carry(client, server, websocket=False)
        elif first in (b"G", b"P", b"H", b"D", b"O"):
            head = await read_head(client.reader)
            if head is not None:
                await self._requests(head, client, server)
        else:
            await both(pump(client, server), pump(server, client))

    async def _requests(self, head: HttpMessage, client: Stream, server: Stream) -> None:
        self._note(head.first)
        if head.header("upgrade").lower() == "websocket":
            await server.send(head.head)
            agreed = await read_head(server.reader)
            if agreed is None:
                return
            await client.send(agreed.head)
            if " 101 " in f"{agreed.first} ":
                await self.mqtt.carry(client, server, websocket=True)
            return
        await self.http.carry(head, client, server)

    def _note(self, line: str) -> None:
        if self._authority is not None:
            self.inspected.append(line)
