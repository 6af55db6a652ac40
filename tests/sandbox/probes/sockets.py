"""Probes of sockets of every family."""

from __future__ import annotations

from tests.sandbox.probe import Chapter

SOCKETS = Chapter("sockets")
_add = SOCKETS.add

for _kind in ("SOCK_DGRAM", "SOCK_RAW"):
    for _where, _address in (("unix", 'at["unix_dgram"]'), ("abstract", '"\\0" + at["abstract_dgram"]')):
        _add(
            f"sends_from_a_pair_to_{_where}_{_kind.lower()}",
            f"send from one of a pair of unix sockets ({_kind}) to another one's address ({_where})",
            f"socket.socketpair(socket.AF_UNIX, socket.{_kind})[0].sendto(me.encode(), {_address})",
        )

for _name, _tries, _code in (
    (
        "connects_by_tcp",
        "send to a TCP port of the machine",
        's = socket.create_connection(("127.0.0.1", at["tcp"]), 2)\ns.sendall(me.encode())',
    ),
    (
        "connects_by_tcp6",
        "send to a TCP port by IPv6",
        's = socket.create_connection(("::1", at["tcp6"]), 2)\ns.sendall(me.encode())',
    ),
    (
        "sends_udp",
        "send a UDP packet",
        'socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(me.encode(), ("127.0.0.1", at["udp"]))',
    ),
    (
        "sends_udp6",
        "send a UDP packet by IPv6",
        'socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(me.encode(), ("::1", at["udp6"]))',
    ),
    (
        "sends_udp_by_mapped_address",
        "send a UDP packet by an IPv4 address in IPv6",
        'socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(me.encode(), ("::ffff:127.0.0.1", at["udp"]))',
    ),
    (
        "connects_fast",
        "send data with the first TCP packet",
        's = socket.socket()\ns.sendto(me.encode(), 0x20000000, ("127.0.0.1", at["tcp"]))\ntime.sleep(0.2)',
    ),
    (
        "connects_by_mptcp",
        "send by multipath TCP",
        's = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\ns.connect(("127.0.0.1", at["tcp"]))\ns.sendall(me.encode())',
    ),
    (
        "connects_by_curl",
        "send with a library for HTTP",
        "import urllib.request\nurllib.request.urlopen(f\"http://127.0.0.1:{at['tcp']}/{me}\", timeout=1)",
    ),
    (
        "connects_by_a_shell",
        "send with the shell's own network",
        'subprocess.run(["bash", "-c", f"echo {me} > /dev/tcp/127.0.0.1/{at[\'tcp\']}"], timeout=3)',
    ),
    (
        "connects_to_a_unix_socket",
        "send to a unix socket in the home",
        's = socket.socket(socket.AF_UNIX)\ns.connect(at["unix"])\ns.sendall(me.encode())',
    ),
    (
        "connects_to_a_unix_socket_in_tmp",
        "send to a unix socket in the temporary folder",
        's = socket.socket(socket.AF_UNIX)\ns.connect(at["unix_tmp"])\ns.sendall(me.encode())',
    ),
    (
        "connects_through_proc_root",
        "send to a unix socket through /proc/self/root",
        's = socket.socket(socket.AF_UNIX)\ns.connect("/proc/self/root" + at["unix_tmp"])\ns.sendall(me.encode())',
    ),
    (
        "sends_to_a_unix_socket",
        "send a packet to a unix socket",
        'socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(me.encode(), at["unix_dgram"])',
    ),
    (
        "connects_to_an_abstract_socket",
        "send to an abstract unix socket",
        's = socket.socket(socket.AF_UNIX)\ns.connect("\\0" + at["abstract"])\ns.sendall(me.encode())',
    ),
    (
        "sends_to_an_abstract_socket",
        "send a packet to an abstract unix socket",
        'socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(me.encode(), "\\0" + at["abstract_dgram"])',
    ),
    (
        "connects_after_many_threads",
        "send from a thread",
        't = threading.Thread(target=lambda: socket.create_connection(("127.0.0.1", at["tcp"]), 2).sendall(me.encode()))\nt.start()\nt.join()',
    ),
    (
        "passes_a_file_on",
        "hand a file of its own to a process outside",
        's = socket.socket(socket.AF_UNIX)\ns.connect(at["unix_tmp"])\nsocket.send_fds(s, [me.encode()], [0])',
    ),
    (
        "connects_in_a_new_network",
        "send from a network namespace of its own making",
        'call("unshare", 0x40000000)\ncall("setns", os.open(f"/proc/{at[\'canary\']}/ns/net", os.O_RDONLY), 0)\nsocket.create_connection(("127.0.0.1", at["tcp"]), 2).sendall(me.encode())',
    ),
):
    _add(_name, _tries, _code)

_add(
    "joins_the_machines_network",
    "enter the network namespace of another process",
    """
for pid in (at["daemon"], at["server"], os.getppid(), 1):
    try:
        if os.stat(f"/proc/{pid}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino:
            call("setns", os.open(f"/proc/{pid}/ns/net", os.O_RDONLY), 0x40000000)
        socket.create_connection(("127.0.0.1", at["tcp"]), 2).sendall(me.encode())
        return pid
    except OSError:
        continue
""",
)
_add(
    "uses_inherited_sockets",
    "use a socket that was left open",
    """
for number in os.listdir("/proc/self/fd"):
    try:
        s = socket.socket(fileno=os.dup(int(number)))
        if s.family in (socket.AF_INET, socket.AF_INET6) or s.type == socket.SOCK_SEQPACKET:
            return (s.family, s.type)
    except OSError:
        continue
""",
)
_add(
    "lists_interfaces_by_netlink",
    "list the machine's network devices by netlink",
    """
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
s.settimeout(2)
s.send(struct.pack("IHHIIBxHiII", 32, 18, 0x301, 1, 0, 0, 0, 0, 0, 0))
names = re.findall(rb"\\x03\\x00([a-z][a-z0-9]+)\\x00", s.recv(65536))
return [n for n in names if n != b"lo"]
""",
)
_add(
    "listens_to_kernel_events",
    "receive the kernel's device events",
    """
s = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15)
s.bind((0, 1))
return os.stat("/proc/self/ns/net").st_ino and "bound"
""",
)
_add(
    "writes_to_the_audit",
    "write to the kernel's audit",
    """
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)
s.settimeout(1)
s.send(struct.pack("IHHII", 16, 1000, 5, 1, 0))
return s.recv(100)
""",
)
for _family, _number, _type in (
    ("packet", 17, "SOCK_RAW"), ("packet_datagram", 17, "SOCK_DGRAM"), ("raw_icmp", 2, "SOCK_RAW"), ("vsock", 40, "SOCK_STREAM"),
    ("kernel_crypto", 38, "SOCK_SEQPACKET"), ("bluetooth", 31, "SOCK_RAW"), ("can", 29, "SOCK_RAW"), ("tipc", 30, "SOCK_RDM"),
    ("ipsec_keys", 15, "SOCK_RAW"), ("xdp", 44, "SOCK_RAW"), ("rds", 21, "SOCK_SEQPACKET"), ("nfc", 39, "SOCK_RAW"),
    ("ieee802154", 36, "SOCK_RAW"), ("qrtr", 42, "SOCK_DGRAM"), ("smc", 43, "SOCK_STREAM"), ("x25", 9, "SOCK_SEQPACKET"),
    ("appletalk", 5, "SOCK_DGRAM"), ("ax25", 3, "SOCK_DGRAM"), ("ppp", 24, "SOCK_DGRAM"), ("kcm", 41, "SOCK_DGRAM"),
):  # fmt: skip
    _protocol = {"raw_icmp": 1, "ipsec_keys": 2}.get(_family, 0)
    _add(
        f"opens_a_{_family}_socket",
        f"open a socket of the family {_family}",
        f"""
s = socket.socket({_number}, socket.{_type}, {_protocol})
return s.fileno()
""",
    )
_add(
    "looks_at_raw_packets",
    "capture packets of the machine",
    """
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("lo", 0))
s.settimeout(1)
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(me.encode(), ("127.0.0.1", at["udp"]))
return me.encode() in s.recv(2000)
""",
)
_add(
    "resolves_names",
    "ask a name server",
    """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("127.0.0.1", at["udp"]))
s.send(me.encode())
""",
)
