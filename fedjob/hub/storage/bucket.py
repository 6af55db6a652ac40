"""A bucket of an S3-compatible store, in which a hub keeps its objects.

The hub knows who may read what; the store knows the hub alone. What a party is given is a URL, signed by the hub,
with which it reads one object for some minutes. Objects are stored once under their hash and never changed.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from fedjob.common.errors import ConfigError, MissingPackage, ObjectMissing, RepositoryUnreachable, SpecError
from fedjob.common.http_client import check_http_url

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEME = "s3://"
DEFAULT_REGION = "us-east-1"


class StoreRefuses(RepositoryUnreachable):
    """The store does not take the hub's login, or has not its bucket: its operator has to act."""


LINK_S = 60.0
"""A URL that a party is given is good for so long."""

REQUEST_S, CONNECT_S, RETRY_S = 60.0, 5.0, 15.0
NUM_RETRIES = 3
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9_./-]{0,512}")
_REFUSED = re.compile(r"status code: 40[13]\b")
_EXAMPLE = "s3://BUCKET/PREFIX?endpoint=https://s3.example.org&region=eu-west-1"


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """The place of a hub's objects in a store; it holds no secret.

    Args:
        endpoint: URL of the store; empty for that of AWS.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = DEFAULT_REGION

    @classmethod
    def parse(cls, url: str) -> BucketAddress:
        """Read `s3://bucket/prefix?endpoint=...&region=...`.

        Raises:
            SpecError: it is none; a login in it is refused and not repeated.
        """
        parts = urlsplit(url)
        if "@" in url:
            raise SpecError(
                "--storage: a login does not belong into a URL, where others could read it: give it in the environment "
                f"({CREDENTIALS[0]}, {CREDENTIALS[1]}) or with --storage-credentials FILE"
            )
        try:
            options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        except ValueError:
            raise SpecError(f"--storage: expected {_EXAMPLE}") from None
        if odd := options.keys() - {"endpoint", "region"}:
            raise SpecError(f"--storage: expected {_EXAMPLE}, found the option {sorted(odd)[0][:40]!r}")
        prefix = parts.path.strip("/")
        fits = _BUCKET.fullmatch(parts.netloc) and _PREFIX.fullmatch(prefix) and not parts.fragment
        if parts.scheme != "s3" or not fits or ".." in prefix.split("/"):
            raise SpecError(
                f"--storage: expected {_EXAMPLE}, found the bucket {parts.netloc[:80]!r}, prefix {prefix[:80]!r}"
            )
        endpoint = options.get("endpoint", "")
        return cls(
            parts.netloc,
            prefix,
            check_http_url(endpoint) if endpoint else "",
            options.get("region") or DEFAULT_REGION,
        )

    def __str__(self) -> str:
        options = [f"endpoint={self.endpoint}"] if self.endpoint else []
        options += [f"region={self.region}"] if self.region != DEFAULT_REGION else []
        return f"{SCHEME}{self.bucket}/{self.prefix}{'?' if options else ''}{'&'.join(options)}"


@dataclass(frozen=True, slots=True)
class BucketLogin:
    """The login of the hub at the store; never shown."""

    key: str = field(repr=False)
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)

    @classmethod
    def load(cls, path: Path | None) -> BucketLogin:
        """Read a login from a file of lines `NAME=VALUE`, or from the environment.

        Args:
            path: with the names of `CREDENTIALS`, readable by nobody else; None for the environment.

        Raises:
            ConfigError: there is none, or others may read the file.
        """
        found = dict(os.environ)
        if path is not None:
            try:
                mode = path.stat().st_mode & 0o777
                lines = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"--storage-credentials: can't read {path}: {error}") from error
            if mode & 0o077:
                raise ConfigError(f"others may read {path} (mode {mode:o}): run `chmod 600 {path}`")
            pairs = (
                line.split("=", 1) for line in lines if "=" in line and not line.lstrip().startswith("#")
            )
            found = {name.strip().upper(): value.strip() for name, value in pairs}
        key, secret, token = (found.get(name, "") for name in CREDENTIALS)
        if not key or not secret:
            where = "the environment" if path is None else str(path)
            raise ConfigError(
                f"expected {CREDENTIALS[0]} and {CREDENTIALS[1]} in {where}, for the store that --storage names: give "
                "them there, or with --storage-credentials FILE"
            )
        return cls(key, secret, token)


class Bucket:
    """The objects of a hub in a bucket; usable from several threads.

    Raises:
        MissingPackage: the extra `s3` is not installed.
    """

    def __init__(self, address: BucketAddress, login: BucketLogin) -> None:
        try:
            from obstore.store import S3Store
        except ImportError as error:
            raise MissingPackage("--storage s3://... needs the extra s3: pip install 'fedjob[s3]'") from error
        self.address = address
        options: dict[str, Any] = {"endpoint": address.endpoint} if address.endpoint else {}
        if login.token:
            options["session_token"] = login.token
        self._store: S3Store = S3Store(
            address.bucket,
            prefix=address.prefix or None,
            region=address.region,
            access_key_id=login.key,
            secret_access_key=login.secret,
            virtual_hosted_style_request=False,
            client_options={
                "allow_http": address.endpoint.startswith("http://"),
                "timeout": timedelta(seconds=REQUEST_S),
                "connect_timeout": timedelta(seconds=CONNECT_S),
            },
            retry_config={"max_retries": NUM_RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)},
            **options,
        )

    def check(self) -> None:
        """List, write, read and remove a small object.

        Raises:
            ConfigError: the store refuses the login or has no such bucket; the message says which.
            RepositoryUnreachable: it does not answer.
        """
        import obstore

        name = f"probe/{secrets.token_hex(8)}"
        try:
            with self._errors():
                next(
                    iter(obstore.list(self._store, "probe/")), None
                )  # only this names a bucket that is missing
                obstore.put(self._store, name, b"fedjob", use_multipart=False)
                obstore.get(self._store, name).bytes()
                obstore.delete(self._store, name)
        except StoreRefuses as error:
            raise ConfigError(str(error)) from None

    def put(self, sha256: str, path: Path) -> None:
        """Store a file under its hash."""
        import obstore

        with self._errors():
            obstore.put(self._store, _name(sha256), path)

    def read(self, sha256: str, start: int, end: int) -> bytes:
        """Return some bytes of an object.

        Raises:
            ObjectMissing: the store does not have it.
        """
        import obstore

        with self._errors():
            return bytes(obstore.get_range(self._store, _name(sha256), start=start, end=end))

    def size(self, sha256: str) -> int | None:
        """Return the size of an object in bytes; None where the store does not have it."""
        import obstore

        try:
            with self._errors():
                return int(obstore.head(self._store, _name(sha256))["size"])
        except ObjectMissing:
            return None

    def remove(self, hashes: Iterable[str]) -> None:
        """Remove objects; missing ones are no error."""
        import obstore

        names = [_name(sha256) for sha256 in hashes]
        try:
            with self._errors():
                if names:
                    obstore.delete(self._store, names)
        except ObjectMissing:
            return

    def link(self, sha256: str) -> str:
        """Return a URL under which whoever has it can read one object for `LINK_S` seconds, and nothing else."""
        import obstore

        with self._errors():
            return str(obstore.sign(self._store, "GET", _name(sha256), timedelta(seconds=LINK_S)))

    def listed(self) -> Iterator[tuple[str, int, float]]:
        """Yield hash, size and time (seconds since 1970) of every object that lies there."""
        import obstore

        with self._errors():
            for batch in obstore.list(self._store, "objects/"):
                for found in batch:
                    yield (
                        found["path"].rpartition("/")[2],
                        int(found["size"]),
                        found["last_modified"].timestamp(),
                    )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from obstore import exceptions

        try:
            yield
        except (exceptions.BaseError, FileNotFoundError) as error:
            if "NoSuchBucket" in str(error):
                raise StoreRefuses(
                    f"the store at {self._where} has no bucket {self.address.bucket!r}: make it there, or name another"
                ) from None
            if isinstance(
                error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
            ) or _REFUSED.search(str(error)):
                raise StoreRefuses(
                    f"the store at {self._where} refuses the hub ({_code(error)}): check the login "
                    f"({CREDENTIALS[0]}, or --storage-credentials) and its rights on the bucket {self.address.bucket!r}"
                ) from None
            if isinstance(error, (exceptions.NotFoundError, FileNotFoundError)):
                raise ObjectMissing("the store has lost this object: put it again") from None
            raise RepositoryUnreachable(
                f"the store at {self._where} does not answer: is it running, and may the hub connect to it?"
            ) from None

    @property
    def _where(self) -> str:
        return self.address.endpoint or f"AWS, region {self.address.region}"


def _name(sha256: str) -> str:
    return f"objects/{sha256[:2]}/{sha256}"


def _code(error: Exception) -> str:
    """Return the store's own word for a refusal; its other words may hold the login."""
    found = re.search(r"<Code>(\w{1,60})</Code>", str(error))
    return found[1] if found else "not permitted"
