"""A link between two network namespaces that the kernel makes slow and lossy: `tc tbf`, and a rule that drops packets.

    this namespace -- bad link (tbf, loss) -- a namespace of its own with a relay -- good link -- this namespace

It takes root, iproute2, and nftables or iptables. netem is not needed, which many kernels lack.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.parts import forbidden, has_program, missing, program
from tests.processes import Processes

RELAY = Path(__file__).with_name("relay.py")
LATENCY = "400ms"


class LossyLink:
    """A link, as a context manager.

    Args:
        rate: in each direction, as tc writes it: `4mbit`, `256kbit`.
        loss: share of the packets that are dropped, in each direction.
        ports: of servers at `near`; each is reached at the same port of `far`, through the link and back.
        number: of the link on this machine, from 1 to 60, so that several can be there.
    """

    def __init__(self, processes: Processes, rate: str, loss: float, number: int = 1) -> None:
        if os.geteuid() != 0:
            missing("root, for network namespaces")
        self._ip, self._tc = program("ip"), program("tc")
        self._processes = processes
        self._rate, self._loss = rate, loss
        self._name = f"fjf{secrets.token_hex(3)}"
        self.far = f"10.77.{number}.2"
        self.near = f"10.77.{number}.5"
        self._bad_here, self._good_there = f"10.77.{number}.1", f"10.77.{number}.6"

    def __enter__(self) -> LossyLink:
        name = self._name
        if subprocess.run([self._ip, "netns", "add", name], capture_output=True, check=False).returncode:
            forbidden("network namespaces")
        try:
            for kind, here, there in (("b", self._bad_here, self.far), ("g", self.near, self._good_there)):
                ours, theirs = f"{name}{kind}0", f"{name}{kind}1"
                self._run(
                    self._ip, "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name
                )
                self._run(self._ip, "addr", "add", f"{here}/30", "dev", ours)
                self._run(self._ip, "link", "set", ours, "up")
                self._inside(self._ip, "addr", "add", f"{there}/30", "dev", theirs)
                self._inside(self._ip, "link", "set", theirs, "up")
            self._inside(self._ip, "link", "set", "lo", "up")
            bad = f"{name}b1"
            slow = ("root", "tbf", "rate", self._rate, "burst", "16kb", "latency", LATENCY)
            self._run(self._tc, "qdisc", "add", "dev", f"{name}b0", *slow)
            self._inside(self._tc, "qdisc", "add", "dev", bad, *slow)
            if self._loss:
                self._lose(bad)
        except BaseException:
            self._remove()
            raise
        return self

    def relay(self, *ports: int) -> None:
        """Lead each port of `far` to the same port of `near`."""
        pairs = [f"{self.far}:{port}={self.near}:{port}" for port in ports]
        words = (self._ip, "netns", "exec", self._name, sys.executable, "-IS", RELAY)
        self._processes.start(*words, *pairs, ready="relaying", name="relay")

    def dropped(self) -> int:
        """Return how many packets the rules have dropped."""
        if has_program("nft"):
            listed = self._inside(program("nft"), "list", "table", "ip", "loss")
            return sum(int(words[words.index("packets") + 1]) for words in _lines_with(listed, "packets"))
        listed = self._inside(program("iptables"), "-L", "-v", "-n", "-x")
        return sum(int(words[0]) for words in _lines_with(listed, "statistic"))

    def _lose(self, device: str) -> None:
        share = round(self._loss * 1000)
        if has_program("nft"):
            nft = program("nft")
            self._inside(nft, "add", "table", "ip", "loss")
            for hook, direction in (("input", "iifname"), ("postrouting", "oifname")):
                chain = f"{{ type filter hook {hook} priority 0; }}"
                self._inside(nft, "add", "chain", "ip", "loss", hook, chain)
                rule = f"{direction} {device} numgen random mod 1000 < {share} counter drop"
                self._inside(nft, "add", "rule", "ip", "loss", hook, *rule.split())
            return
        rule = ["-m", "statistic", "--mode", "random", "--probability", str(self._loss), "-j", "DROP"]
        iptables = program("iptables")
        self._inside(iptables, "-A", "INPUT", "-i", device, *rule)
        self._inside(iptables, "-A", "OUTPUT", "-o", device, *rule)

    def _inside(self, *words: str) -> str:
        return self._run(self._ip, "netns", "exec", self._name, *words)

    def _run(self, *words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout

    def _remove(self) -> None:
        for kind in "bg":
            with suppress(subprocess.CalledProcessError):
                self._run(self._ip, "link", "del", f"{self._name}{kind}0")
        with suppress(subprocess.CalledProcessError):
            self._run(self._ip, "netns", "del", self._name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()


def _lines_with(text: str, word: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if word in line.split()]
