"""A real squid as the forward proxy of a federation, with a Basic login."""

from __future__ import annotations

import hashlib
import os
import pwd
from pathlib import Path

from tests.parts import missing, program
from tests.processes import Processes

HELPERS = (Path("/usr/lib/squid"), Path("/usr/lib64/squid"), Path("/usr/libexec/squid"))


class Squid:
    """A squid on loopback.

    Attributes:
        login: that it wants, as a URL has it.
    """

    def __init__(self, processes: Processes, folder: Path, port: int) -> None:
        squid = program("squid")
        helper = next(
            (path / "basic_ncsa_auth" for path in HELPERS if (path / "basic_ncsa_auth").exists()), None
        )
        if helper is None:
            missing("squid's program basic_ncsa_auth")
        self.port, self.login = port, "clinic:secret"
        self.log = folder / "access.log"
        folder.mkdir()
        passwords = folder / "passwords"
        digest = hashlib.md5(b"secret", usedforsecurity=False).hexdigest()  # which every version of it knows
        passwords.write_text(f"clinic:{digest}\n")
        user = pwd.getpwuid(os.getuid()).pw_name
        if os.getuid() == 0:  # then it becomes its own user, who has to write here and read on the way
            user = "proxy"
            own = pwd.getpwnam(user)
            for path in (folder, passwords):
                os.chown(path, own.pw_uid, own.pw_gid)
            for path in folder.parents:
                if path.stat().st_uid == 0 and len(path.parts) > 2:
                    path.chmod(path.stat().st_mode | 0o011)
        lines = [
            f"http_port 127.0.0.1:{port}",
            f"auth_param basic program {helper} {passwords}",
            "auth_param basic children 1",
            "acl known proxy_auth REQUIRED",
            "http_access allow known",
            "http_access deny all",
            "cache deny all",
            "cache_mem 8 MB",
            f"access_log stdio:{self.log}",
            f"cache_log {folder / 'cache.log'}",
            f"coredump_dir {folder}",
            f"pid_filename {folder / 'squid.pid'}",
            f"cache_effective_user {user}",
            "shutdown_lifetime 1 seconds",
            "pinger_enable off",
        ]
        (folder / "squid.conf").write_text("\n".join(lines) + "\n")
        processes.start(squid, "-N", "-f", folder / "squid.conf", name="squid")

    def num_tunnels(self) -> int:
        """Return how many tunnels it has carried to their end."""
        if not self.log.exists():
            return 0
        return sum("CONNECT" in line and "/200" in line for line in self.log.read_text().splitlines())
