"""The page for a hospital's IT: what a party's machine connects to, and what goes over it."""

from __future__ import annotations

from urllib.parse import urlsplit

from fedjob.common.network.proxy import proxy_for
from fedjob.identity.membership import Membership

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "mqtt": 1883, "mqtts": 8883}


def page_for_it(membership: Membership, day: str) -> str:
    """Return the page, as Markdown that reads as plain text too.

    Args:
        day: of the page, such as 2026-11-29.
    """
    ways = dict.fromkeys((membership.hub_url, membership.broker_at_hub, membership.broker_url))
    rows = [_row(url) for url in ways]
    proxy = proxy_for(membership.hub_url, membership.proxy)
    leaves = _NODE if membership.role == "node" else _RESEARCHER
    return f"""# Network access for fedjob: {membership.role} {membership.party}

Federation {membership.federation}, hub {membership.hub_url}, {day}.

This machine opens the connections below. Nobody connects to it: no incoming port has to be opened.

| to | port (TCP, outgoing) | protocol | for |
|---|---|---|---|
{chr(10).join(rows)}

- Proxy: {"none; connections go out directly" if proxy is None else f"{proxy}, by HTTP CONNECT"}.
- Certificate authority that the hub's certificate is checked against: {membership.tls_ca or "those of the system"}.
- Connections stay open, with a ping every 25 to 30 s; they are opened again after a break, 1 to 30 s later.
- Bandwidth: next to none while no job runs; in each round of a training, about twice the size of the model (a model of
  10 million parameters: 40 MB in, 40 MB out). Any link does; a slow one makes rounds longer.
- Programs: fedjob, as an ordinary user; no administrator's rights are needed.

What leaves this machine:

{chr(10).join(f"- {line}" for line in leaves)}

Agreed (name, date, signature): ______________________________________________
"""


_NODE = (
    "results that the data's owner has granted: model parameters, metrics, statistics; never files of the data themselves",
    "names, tags and column descriptions of the registered datasets, to the researchers of the federation",
    "that this node is there, its version, and how busy it is",
)
_RESEARCHER = (
    "training plans (Python source), settings of jobs, model parameters",
    "the researcher's name and organisation, to the owners of the data",
)


def _row(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme, 443)
    kind, purpose = {
        "http": ("HTTP", "parameters, results, enrolment"),
        "https": ("HTTPS", "parameters, results, enrolment"),
        "ws": ("WebSocket with MQTT", "requests and replies"),
        "wss": ("WebSocket with MQTT, over TLS", "requests and replies"),
        "mqtt": ("MQTT", "requests and replies; may stay closed where the line above is open"),
        "mqtts": ("MQTT over TLS", "requests and replies; may stay closed where the line above is open"),
    }[parts.scheme]
    return f"| {parts.hostname} | {port} | {kind} | {purpose} |"
