"""The small value types that all parts of fedjob share: refs, addresses, names of parties and jobs."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fedjob.common.checks import shown
from fedjob.common.errors import SpecError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PARTY = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_ADDRESS = re.compile(r"@|/|(\d[ ()-]*){5}")
_JOB_ID = re.compile(r"job_[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

MIN_PREFIX_CHARS = 4
"""A shorter beginning is a typing error, or an empty variable of a shell, rather than a choice."""

MAX_SIZE_BYTES = 1 << 53
"""Of one object of a repository, as far as anybody counts."""

MAX_FRAME_BYTES = 64 * 1024
"""Of one message on its way, signature and envelope included."""

ENDLESS = 2**31 - 1
"""The number of rounds of a job that runs until it is ended."""


@dataclass(frozen=True, slots=True)
class Ref:
    """The name of immutable bytes in the repository.

    Args:
        sha256: 64 hex digits, of the bytes themselves or, where `parts` is
            set, of the manifest that names the parts.
        size_bytes: of the whole content, never of the manifest.
        parts: whether the content is larger than one object and is stored in parts.
        cipher: sha256 of the encrypted bytes, by which the repository knows them; empty for bytes that are stored as
            they are.
        key: that opens them, 64 hex digits; whoever has the ref can read them. Neither is part of what the bytes are,
            so that refs with and without are equal.
    """

    sha256: str
    size_bytes: int
    parts: bool = False
    cipher: str = field(default="", compare=False)
    key: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise SpecError(f"a ref is named by 64 lower-case hex digits, not by {self.sha256[:80]!r}")
        if (self.cipher or self.key) and not (_SHA256.fullmatch(self.cipher) and _SHA256.fullmatch(self.key)):
            raise SpecError(
                "the ref of an encrypted object has its name and its key, 64 lower-case hex digits each"
            )
        if not 0 <= self.size_bytes <= MAX_SIZE_BYTES:
            raise SpecError(f"a ref has a size of 0 to {MAX_SIZE_BYTES} bytes, not {self.size_bytes}")

    @property
    def stored_as(self) -> str:
        """The name by which the repository knows the object."""
        return self.cipher or self.sha256

    @property
    def keyless(self) -> Ref:
        """The same content without what opens it: for what is kept."""
        return Ref(self.sha256, self.size_bytes, self.parts)


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """The address of a direct message: a party, and one of its sessions.

    A node daemon's session is `main`; researchers use random ones.
    """

    party: str
    session: str = "main"

    def __str__(self) -> str:
        return f"{self.party}/{self.session}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """Somebody to ask about a node or a dataset; at least one of the three is not empty.

    Args:
        name: of a person or an office.
        role: what they are to the data: data steward, privacy office.
        address: where they are reached: mail, telephone, web.
    """

    name: str = ""
    role: str = ""
    address: str = ""

    def __str__(self) -> str:
        if not self.name:
            return self.address + (f" ({self.role})" if self.role and self.address else self.role)
        about = ", ".join(part for part in (self.role, self.address) if part)
        return f"{self.name} ({about})" if about else self.name


def read_contacts(text: str) -> tuple[Contact, ...]:
    """Read contacts that were typed: `NAME, ROLE, ADDRESS`, several with semicolons between them.

    Of fewer words than three the last is the address if it looks like one.

    Raises:
        SpecError: more than three parts.
    """
    contacts = []
    for one in filter(None, map(str.strip, text.split(";"))):
        parts = [part.strip() for part in one.split(",")]
        if len(parts) > 3:
            raise SpecError(
                f"a contact is NAME, ROLE, ADDRESS, with a semicolon before the next one; found {one[:80]!r}"
            )
        if len(parts) < 3 and _ADDRESS.search(parts[-1]):
            parts = [*parts[:-1], *[""] * (3 - len(parts)), parts[-1]]
        name, role, address = [*parts, "", ""][:3]
        if name or role or address:
            contacts.append(Contact(name=name, role=role, address=address))
    return tuple(contacts)


def contacts_text(contacts: Iterable[Contact]) -> str:
    """Return whom to ask, in words; empty for nobody."""
    return " or ".join(map(str, contacts))


def contacts_from_plain(plain: Any) -> tuple[Contact, ...]:
    """Return contacts from a peer's list of `{name, role, address}`; what is none is left out."""
    found = [one for one in plain if isinstance(one, dict)] if isinstance(plain, list) else []
    texts = [{part: str(one.get(part) or "") for part in Contact.__slots__} for one in found]
    return tuple(Contact(**one) for one in texts if any(one.values()))


def rounds_text(rounds: int) -> str:
    """Return a job's number of rounds, in words."""
    return "no end" if rounds == ENDLESS else str(rounds)


def check_party(name: str) -> str:
    """Return `name` if it may name a party.

    Raises:
        SpecError: it may not; the message describes valid names.
    """
    if not isinstance(name, str) or not _PARTY.fullmatch(name):
        raise SpecError(
            f"a party is named by 1 to 63 of a-z, 0-9, '-' and '_', beginning with a letter or digit; "
            f"found {shown(name)}"
        )
    return name


def seat(party: str, dataset: str) -> str:
    """Return the name of one of a node's datasets where several take part in a job: `hospital.ehr`."""
    return f"{party}.{dataset}"


def party_of(node: str) -> str:
    """Return the party of a node's name in a job: `hospital` for both `hospital` and `hospital.ehr`."""
    return node.partition(".")[0]


def new_job_id() -> str:
    """Return a fresh job id, `job_` and a random UUID."""
    return f"job_{uuid.uuid4()}"


def check_job_id(job_id: str) -> str:
    """Return `job_id` if it has the form of one.

    Raises:
        SpecError: it has another form.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise SpecError(f"a job id reads job_<uuid4>; found {job_id[:80]!r}")
    return job_id


def check_prefix(text: str, found: str, *, start: str = "") -> None:
    """Refuse the beginning of an id that is too short to have been meant, although it begins one only.

    Args:
        found: the only id that begins so.
        start: with which all ids begin; it does not count as a part of what was typed.

    Raises:
        SpecError: fewer than `MIN_PREFIX_CHARS` characters were typed.
    """
    if len(text.removeprefix(start)) < MIN_PREFIX_CHARS:
        enough = found[: len(start) + MIN_PREFIX_CHARS]
        raise SpecError(
            f"expected at least {MIN_PREFIX_CHARS} characters of an id, found {text[:80]!r}: type {enough} "
            f"if you mean {found}"
        )


def check_given(text: str, what: str) -> str:
    """Return a name or an id that was typed.

    Raises:
        SpecError: it is empty or blank: nothing is chosen by it.
    """
    if not text.strip():
        raise SpecError(f"expected {what}, found {text[:80]!r}: is a variable of the shell empty?")
    return text
