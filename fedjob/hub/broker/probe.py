"""Probes of a broker by one hand-written MQTT 3.1.1 CONNECT: whether it accepts a user, and whether it answers at all."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import struct
from contextlib import suppress

from fedjob.hub.broker.local_socket import LocalSocket

_DISCONNECT = b"\xe0\x00"
_CONNACK = 0x20


async def lets_in(broker: LocalSocket, user: str, password: str, *, timeout_s: float = 2.0) -> bool:
    """Return whether the broker accepts that user; False where it does not answer in time."""
    writer = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await broker.connect()
            writer.write(login_packet(user, password))
            answer = await reader.readexactly(4)
            writer.write(_DISCONNECT)
            await writer.drain()
            return answer[0] == _CONNACK and answer[3] == 0
    except (OSError, EOFError, TimeoutError):
        return False
    finally:
        if writer is not None:
            writer.close()
            with suppress(Exception):
                await asyncio.wait_for(writer.wait_closed(), 1)


def answers_login(host: str, port: int, *, tls: bool, timeout_s: float = 5.0) -> bool:
    """Return whether a broker answers a login that nobody has, or asks for a certificate.

    RabbitMQ reads nothing from anybody while its disk or its memory is short, and takes connections all the same; what leads
    to several of them, all of which are so, ends the connection.

    Raises:
        OSError: it can't be reached.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing secret is sent
    shaken = False  # what ends a connection after the handshake misses a certificate, as TLS 1.3 has it
    with socket.create_connection((host, port), timeout=timeout_s) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) if tls else plain as stream:
                shaken = tls
                stream.sendall(login_packet("nobody", secrets.token_hex(16)))
                return bool(stream.recv(1)) or shaken
        except ssl.SSLError as error:  # in TLS 1.2 also that a certificate is missing
            speaks_no_tls = getattr(error, "reason", "") == "WRONG_VERSION_NUMBER"
            return shaken or not (speaks_no_tls or isinstance(error, ssl.SSLEOFError))
        except ConnectionError:
            return shaken
        except TimeoutError:
            return False


def login_packet(user: str, password: str) -> bytes:
    """Return a CONNECT packet of MQTT 3.1.1."""
    flags = 0x80 | 0x40 | 0x02  # user name, password, clean session
    body = _text("MQTT") + bytes([4, flags]) + struct.pack("!H", 30)
    body += _text(f"probe{secrets.token_hex(6)}") + _text(user) + _text(password)
    length, head = len(body), b"\x10"
    while True:
        length, digit = divmod(length, 128)
        head += bytes([digit | (0x80 if length else 0)])
        if not length:
            return head + body


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("!H", len(encoded)) + encoded
