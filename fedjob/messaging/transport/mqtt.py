"""The transport over an MQTT broker, with QoS 1, clean sessions and random client ids.

    fedjob/1/to/<party>/<session>/from/<sender>     every direct message
    fedjob/1/all/from/<sender>                      pings and searches
    fedjob/1/presence/<party>                       retained, last will; a hint only

It does not rely on any guarantee of the broker: `courier.py` repeats what got lost.
A broker may be named by two URLs, such as `mqtts://` and, for a firewall that lets only port 443
through, `wss://` at the hub; the second is tried where nobody answers at the first.

It uses MQTT 5 where the broker has it, because MQTT 5 gives the reason of a refusal; else 3.1.1.
This is the only module that imports paho. Its callbacks run on paho's network thread, and do
nothing but enqueue.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from paho.mqtt.client import (
    MQTT_CLEAN_START_FIRST_ONLY,
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTMessage,
    MQTTMessageInfo,
)
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from fedjob.common.checks import printable
from fedjob.common.errors import BrokerUnreachable, FedjobError, SpecError
from fedjob.common.network.credentials import Credentials
from fedjob.common.network.proxy import Proxy, proxy_for
from fedjob.common.network.tls_trouble import tls_trouble
from fedjob.common.types import Address
from fedjob.identity.membership import BROKER_PATH, CLIENT_ID_SEPARATOR, Membership, check_broker_for
from fedjob.messaging.transport.base import DAEMON, OnConnection, OnFrame, Transport
from fedjob.messaging.transport.echo import ECHO, EchoWatch
from fedjob.messaging.transport.presence import PresenceBoard

ROOT = "fedjob/1"
_PRESENCE = [*ROOT.split("/"), "presence"]
KEEPALIVE_S = 30
LOOK_S = 1.0
RETRY_S = 0.3
PROBE_S = 2.0
MAX_RECONNECT_S = 30
CONNECT_S = 10.0
CONNECT_FIRST_S = 3.0
"""For the first of two URLs: a firewall that drops packets answers nothing at all."""

ANSWER_S = 5.0
"""For a broker's answer, where it has a second URL."""

MAX_PACKET_BYTES = 256 * 1024
MAX_SENTENCE = 500
"""Characters of what a broker says about a refusal."""

MAX_INFLIGHT = 200
MAX_QUEUED = 20_000

_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_NOT_ALLOWED = ("Not authorized", "Bad user name or password", "Bad authentication method", "Banned")


@dataclass(frozen=True, slots=True)
class _ConnectAttempt:
    """The end of one try to connect.

    Args:
        how: `ok`; `refused` by the broker; `closed` by it without a reason; `silent`, no answer in time; or
            `unreachable`, no connection at all.
        why: the reason, where there is one.
        detail: what the broker says of it, in words.
    """

    how: Literal["ok", "refused", "closed", "silent", "unreachable", "tls"]
    why: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to the broker: one of its URLs, taken apart, and the proxy on it."""

    url: str
    scheme: str
    host: str
    port: int
    path: str
    proxy: Proxy | None
    connect_s: float

    @classmethod
    def to(cls, url: str, proxy: str, connect_s: float) -> _Way:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise SpecError(
                f"a broker is named by mqtt://, mqtts://, ws:// or wss:// and a host, not by {url!r}"
            )
        port = parts.port or _PORTS[parts.scheme]
        path = parts.path or "/mqtt"
        return cls(url, parts.scheme, parts.hostname, port, path, proxy_for(url, proxy), connect_s)


class _PartyClient(Client):
    """A client whose thread outlives whatever arrives, and that may take another id.

    paho raises what bytes that are no MQTT cause in its parser (struct.error, UnicodeDecodeError, IndexError), which would
    end its thread for good; here they end the connection, and another is made.
    """

    def rename(self, client_id: str) -> None:
        """Take another id for the next connection, where the broker ended one before its subscriptions stood.

        RabbitMQ keeps a session's messages on one node of its cluster and refuses whoever comes back under the same id while
        that node is down.
        """
        self._client_id = client_id.encode()

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read what has arrived; bytes that can't be read end the connection."""
        try:
            return super().loop_read(max_packets)
        except Exception:  # whatever a line or a broker makes of the bytes
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_PROTOCOL)

    def reconnect(self) -> MQTTErrorCode:
        """Connect; on the client's own thread, whatever the other side makes of a handshake is a failed connection."""
        try:
            return super().reconnect()
        except Exception as error:
            if isinstance(error, OSError) or threading.current_thread() is not self._thread:
                raise
            return MQTTErrorCode.MQTT_ERR_CONN_LOST  # and paho tries again


class MqttTransport(Transport):
    """A party's session on an MQTT broker.

    Args:
        url: `mqtt://`, `mqtts://`, `ws://` or `wss://`.
        other_url: of the same broker, tried where nobody answers at `url`; empty for none.
        user, password: of the party, from its enrolment.
        tls_ca: PEM file of the authority that signed the broker's certificate;
            None for the authorities that the system trusts.
        proxy: the home's setting: a proxy's URL, `none`, or empty for what the environment says.
        credentials: that the party shows besides its password, over TLS only.
        version: 5 or 4 (3.1.1); None tries both.
    """

    def __init__(
        self,
        url: str,
        address: Address,
        user: str = "",
        password: str = "",
        *,
        other_url: str = "",
        tls_ca: str | Path | None = None,
        proxy: str = "",
        credentials: Credentials | None = None,
        version: Literal[4, 5] | None = None,
    ) -> None:
        self.address = address
        urls = [url, other_url] if other_url not in ("", url) else [url]
        self._ways = [
            _Way.to(each, proxy, CONNECT_S if each == urls[-1] else CONNECT_FIRST_S) for each in urls
        ]
        self._way = self._ways[0]
        self._user, self._password = user, password
        self._tls_ca = tls_ca
        self._credentials = credentials
        self._version = version
        self._client: Client | None = None
        self._on_frame: OnFrame | None = None
        self._on_connection: OnConnection | None = None
        self._connected = False
        self._answered = False  # by the broker, to the login of the present connection
        self._opening = False
        self._probing = False
        self._presence = PresenceBoard()
        self._subscription: int | None = None
        self._ended = threading.Event()
        self._attempt = _ConnectAttempt("silent")
        self._echoes = EchoWatch()
        self._closed = threading.Event()

    @property
    def url(self) -> str:
        """The URL by which the broker is reached, or was tried last."""
        return self._way.url

    # --- the interface of a transport ---------------------------------------------------

    def open(self, on_frame: OnFrame, *, timeout_s: float, on_connection: OnConnection | None = None) -> None:
        self._on_frame, self._on_connection = on_frame, on_connection
        deadline = time.monotonic() + timeout_s
        version = self._version
        failed: dict[str, str] = {}
        while True:
            left_s = max(0.1, deadline - time.monotonic())
            if version is None:
                attempt = self._try(5, min(PROBE_S, left_s), probe=True)
                if attempt.how not in ("unreachable", "tls"):
                    # A refusal because the probe gave no user name also shows that the broker knows version 5.
                    version = 5 if attempt.how == "ok" or attempt.why in _NOT_ALLOWED else 4
                    continue
            else:
                attempt = self._try(version, left_s if len(self._ways) == 1 else min(ANSWER_S, left_s))
                if attempt.how == "ok":
                    threading.Thread(target=self._watch, name="fedjob-echo", daemon=True).start()
                    return
            if self.url not in failed or attempt.how != "silent":
                # a last try with no time left must not hide the reason
                failed[self.url] = _explain(attempt, self._way, self._user, self.address.party, timeout_s)
            if time.monotonic() + RETRY_S >= deadline:
                raise BrokerUnreachable("; ".join(failed[way.url] for way in self._ways if way.url in failed))
            if attempt.how in ("unreachable", "silent", "tls", "closed") and len(self._ways) > 1:
                self._way = self._ways[(self._ways.index(self._way) + 1) % len(self._ways)]
                version = self._version
            time.sleep(RETRY_S)  # after a refusal too: a broker may learn of a new party a moment later

    def send(self, to: Address | None, frame: bytes) -> bool:
        client = self._client
        if client is None or not self._connected:
            return (
                False  # paho would keep it and send it late; the courier decides what is still worth sending
            )
        sender = self.address.party
        topic = f"{ROOT}/all/from/{sender}" if to is None else f"{ROOT}/to/{to}/from/{sender}"
        return client.publish(topic, frame, qos=1).rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def connected(self) -> bool:
        return self._connected

    def presence(self) -> dict[str, bool]:
        return self._presence.parties()

    def note_presence(self, party: str) -> None:
        self._presence.note(party)

    @property
    def twin_seen(self) -> float:
        return self._presence.twin_seen

    def announce(self) -> None:
        client = self._client
        if client is not None and self._connected and self.address.session == DAEMON:
            self._publish_presence(client, present=True)

    def close(self) -> None:
        self._closed.set()
        client, self._client = self._client, None
        if client is None:
            return
        if self._connected and self.address.session == DAEMON:
            gone = self._publish_presence(client, present=False)
            with contextlib.suppress(RuntimeError, ValueError):  # only a hint
                gone.wait_for_publish(1.0)
        self._connected = False
        self._on_frame = self._on_connection = None
        client.disconnect()
        client.loop_stop()

    # --- connecting ---------------------------------------------------------------------

    def _try(self, version: Literal[4, 5], timeout_s: float, *, probe: bool = False) -> _ConnectAttempt:
        """Connect once and subscribe; a probe only finds out whether the broker knows this version of MQTT.

        A probe has no user name, no last will and no properties: the broker amqtt misreads a packet of
        version 5 that has them, and waits for the rest of it until its own deadline.
        """
        self._ended.clear()
        self._attempt = _ConnectAttempt("silent")
        self._opening = True
        try:
            client = self._client = self._make_client(version, min(self._way.connect_s, timeout_s), probe)
            self._probing = probe
            client.connect(
                self._way.host,
                self._way.port,
                keepalive=KEEPALIVE_S,
                # at every connection: paho by itself asks for the session before at the second, and the hub keeps none
                clean_start=True if version == 5 else MQTT_CLEAN_START_FIRST_ONLY,
                properties=_connect_properties() if version == 5 and not probe else None,
            )
        except ssl.SSLError as error:
            self._client = None
            return _ConnectAttempt("tls", tls_trouble(self.url, error, self._tls_ca, self._way.proxy))
        except (OSError, ValueError) as error:
            self._client = None
            return _ConnectAttempt("unreachable", str(error))
        client.loop_start()
        self._ended.wait(timeout_s)
        attempt = self._attempt
        self._opening = False
        if attempt.how != "ok" or probe:
            self._client = None
            client.disconnect()
            client.loop_stop()
        return attempt

    def _make_client(self, version: Literal[4, 5], timeout_s: float, probe: bool) -> Client:
        client = _PartyClient(
            CallbackAPIVersion.VERSION2,
            client_id=_new_id(self._user),  # of this connection alone
            clean_session=None if version == 5 else True,
            protocol=MQTTProtocolVersion.MQTTv5 if version == 5 else MQTTProtocolVersion.MQTTv311,
            transport="websockets" if self._way.scheme in ("ws", "wss") else "tcp",
        )
        if self._user and not probe:
            client.username_pw_set(self._user, self._password)
        if self._way.proxy is not None:
            client.proxy_set(**self._way.proxy.tunnel)
        if self._way.scheme in ("ws", "wss"):
            client.ws_set_options(path=self._way.path, headers=self._headers)
        if self._way.scheme in ("mqtts", "wss"):
            context = _tls_context(self._tls_ca)
            client.tls_set_context(context)
            client.on_pre_connect = lambda *_: self._load_certificate(context)
        if self.address.session == DAEMON and not probe:
            will = self._presence.announcement(present=False)
            client.will_set(self._presence_topic(self.address.party), will, qos=1, retain=True)
        client.connect_timeout = timeout_s
        client.reconnect_delay_set(1, MAX_RECONNECT_S)
        client.max_inflight_messages_set(MAX_INFLIGHT)
        client.max_queued_messages_set(MAX_QUEUED)
        client.on_socket_open = _without_delay
        client.on_connect = self._connect_answered
        client.on_connect_fail = self._connect_failed
        client.on_subscribe = self._subscribed
        client.on_disconnect = self._disconnected
        client.on_message = self._message
        return client

    def _load_certificate(self, context: ssl.SSLContext) -> None:
        """Use the certificate as it is now for the next connection: it is renewed while this runs."""
        try:
            files = None if self._credentials is None else self._credentials.certificate()
            if files is not None:
                context.load_cert_chain(*files)
        except FedjobError as error:
            if self._opening:
                raise
            # On paho's thread: without a certificate the hub refuses, and paho tries again.
            self.trouble = str(error)

    def _headers(self, headers: dict[str, str]) -> dict[str, str]:
        """Return the headers of a WebSocket's handshake, with a signature of it."""
        if self._credentials is None or self._way.scheme != "wss":
            return headers
        try:
            headers |= self._credentials.headers("GET", BROKER_PATH)
        except FedjobError as error:
            if self._opening:
                raise
            self.trouble = str(error)  # on paho's thread, as above
        return headers

    # --- on a thread of its own ---------------------------------------------------------

    def _watch(self) -> None:
        """Send an echo when it is due, and break a connection off that carries none."""
        while not self._closed.wait(LOOK_S):
            client, now = self._client, time.monotonic()
            if client is None or not self._connected:
                continue
            if self._echoes.is_deaf(now):
                self._echoes.lost()
                _break_off(client)
            elif self._echoes.take_due(now):
                self.send(self.address, ECHO)

    # --- on the network's thread --------------------------------------------------------

    def _connect_answered(
        self, client: Client, userdata: Any, flags: ConnectFlags, code: ReasonCode, properties: Any
    ) -> None:
        self._answered = True
        if code.is_failure:
            detail = _sentence_of(properties)
            if not self._probing:
                self.trouble = f"the broker refuses: {detail or code.getName()}"
                if self._credentials is not None:
                    self._credentials.refused()
            self._end(client, _ConnectAttempt("refused", code.getName(), detail))
            return
        if self._probing:
            self._end(client, _ConnectAttempt("ok"))
            return
        topics = [(f"{ROOT}/to/{self.address}/from/+", 1)]
        if self.address.session == DAEMON:
            topics.append((f"{ROOT}/all/from/+", 1))
            self._publish_presence(client, present=True)
            topics.append((self._presence_topic(self.address.party), 1))
        else:
            topics.append((self._presence_topic("+"), 1))
        self._subscription = client.subscribe(topics)[1]

    def _subscribed(
        self, client: Client, userdata: Any, mid: int, codes: list[ReasonCode], properties: Any
    ) -> None:
        if mid != self._subscription:
            return
        if codes and codes[0].is_failure:
            self.trouble = f"the broker refuses the subscription: {codes[0].getName()}"
            self._end(client, _ConnectAttempt("refused", codes[0].getName()))
            return
        self._echoes.connected(time.monotonic())
        self._connected = True
        self.trouble = ""
        self._attempt = _ConnectAttempt("ok")
        self._ended.set()
        if self._on_connection is not None:
            self._on_connection(True)

    def _disconnected(
        self, client: Client, userdata: Any, flags: DisconnectFlags, code: ReasonCode, properties: Any
    ) -> None:
        was, self._connected = self._connected, False
        self._echoes.lost()
        if was:
            self.trouble = (
                f"the connection to {self.url} broke: {code.getName()}{_and(_sentence_of(properties))}"
            )
            if self._on_connection is not None:
                self._on_connection(False)
        elif isinstance(client, _PartyClient):
            client.rename(_new_id(self._user))
            if not (self._answered or self._opening):
                self.trouble = _unanswered(self.url, "a login")
        self._answered = False
        self._end(client, _ConnectAttempt("closed", code.getName()))

    def _connect_failed(self, client: Client, userdata: Any) -> None:
        self.trouble = f"no MQTT broker answers at {self.url}"

    def _end(self, client: Client, attempt: _ConnectAttempt) -> None:
        """End the try to connect that `open` waits for; paho repeats later connections by itself."""
        if self._opening and not self._ended.is_set():
            self._attempt = attempt
            self._ended.set()
            client.disconnect()  # or paho would try again by itself

    def _message(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        try:
            levels = message.topic.split("/")
        except UnicodeDecodeError:  # spoiled on the way: what it was comes again
            return
        if levels[:-1] == _PRESENCE:
            self._take_presence(client, levels[-1], cast(bytes, message.payload))
            return
        if message.payload == ECHO and levels[-1] == self.address.party:
            self._echoes.came_back(time.monotonic())
            return
        on_frame = self._on_frame
        if on_frame is not None:
            on_frame(levels[-1], cast(bytes, message.payload))

    def _take_presence(self, client: Client, party: str, payload: bytes) -> None:
        self._presence.take(party, payload)
        closing = self._client is None  # this process has just said itself that it leaves
        own = self.address.session == DAEMON and party == self.address.party and not closing
        if own and self._presence.take_own(payload):
            self._publish_presence(client, present=True)

    def _publish_presence(self, client: Client, *, present: bool) -> MQTTMessageInfo:
        payload = self._presence.announcement(present=present)
        return client.publish(self._presence_topic(self.address.party), payload, qos=1, retain=True)

    @staticmethod
    def _presence_topic(party: str) -> str:
        return f"{ROOT}/presence/{party}"


def transport_of(membership: Membership, address: Address, broker_url: str = "") -> MqttTransport:
    """Return a party's transport over the broker of its federation.

    Args:
        broker_url: the only one to try, where the user gave one; empty for those that the hub has.

    Raises:
        NotPermitted: the hub has TLS, and the broker has none.
    """
    return MqttTransport(
        check_broker_for(membership.hub_url, broker_url or membership.broker_url),
        address,
        membership.party,
        membership.broker_password,
        other_url="" if broker_url else membership.broker_at_hub,
        tls_ca=membership.tls_ca or None,
        proxy=membership.proxy,
        credentials=membership.credentials,
    )


def _explain(attempt: _ConnectAttempt, way: _Way, user: str, party: str, timeout_s: float) -> str:
    """Return a sentence about a try to connect that failed."""
    if attempt.how == "refused" and attempt.detail:
        return f"the broker at {way.url} refuses {user}: {attempt.detail}"
    if attempt.how == "refused" and attempt.why in _NOT_ALLOWED:
        who = user or "a client without a user name"
        return (
            f"the broker at {way.url} refuses {who} ({attempt.why}): "
            f"enrol again, or ask whoever runs the hub whether {party} was revoked"
        )
    if attempt.how == "tls":
        return f"the broker at {attempt.why}"
    if attempt.how in ("refused", "closed"):
        why = attempt.why or "it closed the connection"
        return (
            f"the broker at {way.url} does not take this client ({why}): is it an MQTT broker? One before several brokers "
            "closes where it finds none that answers (docs/rabbitmq.md)"
        )
    if attempt.how == "unreachable" and way.proxy is not None:
        proxy = way.proxy
        return (
            f"no MQTT broker is reached at {way.url} through the proxy {proxy} ({proxy.source}): {attempt.why}; "
            "ask whoever runs the proxy to allow it"
        )
    if attempt.how == "unreachable":
        return (
            f"no MQTT broker answers at {way.url} ({attempt.why}): "
            f"is the hub running, and may this machine connect to it?"
        )
    return _unanswered(way.url, f"in {timeout_s:g} s")


def _unanswered(url: str, how_long: str) -> str:
    """Return a sentence about a broker that takes connections and does nothing else."""
    return (
        f"the broker at {url} did not answer {how_long}: is it an MQTT broker, and has it disk and memory left? "
        "RabbitMQ takes connections and answers nobody while it has not (docs/rabbitmq.md)"
    )


def _tls_context(tls_ca: Path | str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls_ca is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(tls_ca)
    return context


def _sentence_of(properties: Any) -> str:
    """Return what a broker says about a refusal; empty where it says nothing."""
    return printable(str(getattr(properties, "ReasonString", "")))[:MAX_SENTENCE]


def _new_id(user: str) -> str:
    return f"{user or 'fedjob'}{CLIENT_ID_SEPARATOR}{secrets.token_hex(8)}"


def _and(sentence: str) -> str:
    return f" ({sentence})" if sentence else ""


def _connect_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.MaximumPacketSize = MAX_PACKET_BYTES
    return properties


def _without_delay(client: Client, userdata: Any, sock: Any) -> None:
    """Set TCP_NODELAY: without it a small request and its reply take 88 ms instead of 0.6."""
    # The option is set on a copy of the descriptor, which works for plain, TLS and websocket wrappers alike.
    with socket.socket(fileno=os.dup(sock.fileno())) as copy:
        copy.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _break_off(client: Client) -> None:
    """End a connection from this side, so that paho makes another."""
    sock = client.socket()
    if sock is not None:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)
