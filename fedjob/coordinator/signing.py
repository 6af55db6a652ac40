"""The signing of a roster: what is known on the signer's side, what the hub has, and the signature over both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedjob.common.errors import ConfigError, DecodeError
from fedjob.common.files import write_atomic
from fedjob.coordinator.drafts import Wishes, next_roster
from fedjob.coordinator.exchange import ToSign
from fedjob.identity.pinned_roster import dump_pin, load_pin_file
from fedjob.identity.statements.federation_keys import FederationKeys
from fedjob.identity.statements.key_file import FederationKey
from fedjob.identity.statements.pin import Pin, RosterRefused
from fedjob.identity.statements.roster_statement import RosterStatement, changes
from fedjob.identity.statements.signed import Signed


@dataclass(frozen=True, slots=True)
class SignerFolder:
    """The folder of a signer: the public `.federation` file, and beside it the newest roster that was signed here.

    Args:
        path: of the `.federation` file.
        keys: what it says.
    """

    path: Path
    keys: FederationKeys

    @classmethod
    def open(cls, path: Path | None, beside: Path | None) -> SignerFolder:
        """Find the `.federation` file: the given one, or the only one beside a key or in this folder.

        Raises:
            ConfigError: there is none, or more than one.
        """
        if path is None:
            folder = Path() if beside is None else beside.parent
            found = sorted(folder.glob("*.federation"))
            if len(found) != 1:
                raise ConfigError(
                    f"expected one .federation file in {folder.absolute()}, found {len(found)}: give --federation FILE"
                )
            path = found[0]
        return cls(path, FederationKeys.load(path))

    @property
    def kept(self) -> Path:
        """The file of the newest roster that was signed here."""
        return self.path.with_suffix(".roster")

    def pin(self) -> Pin:
        """Return the trust of this signer."""
        return load_pin_file(self.kept, self.keys)

    def keep(self, pin: Pin) -> None:
        """Note the newest roster, so that no older one is taken for it."""
        write_atomic(self.kept, dump_pin(pin))


@dataclass(frozen=True, slots=True)
class Proposal:
    """A roster to be signed.

    Args:
        base: what is known before it.
        signed: the statement, with the signatures of others where there are any.
        warning: what is odd about the hub's answer; empty for nothing.
    """

    base: Pin
    signed: Signed
    warning: str = ""

    @property
    def lines(self) -> list[str]:
        """The changes in words."""
        after = RosterStatement.of(self.signed)
        own = {
            name
            for name, party in self.base.parties.items()
            if name in after.by_name and after.by_name[name].key_hex == party.key_hex
        }
        return changes(self.base.roster, after, by_themselves=own)


def propose(known: Pin, found: ToSign, wishes: Wishes, now: float, *, anew: bool) -> Proposal:
    """Return what there is to sign: the draft that others signed, or a new one.

    Args:
        known: the trust on the signer's side, which a hub can't take back.
        anew: make a new one, even where there is a draft.

    Raises:
        RosterRefused: the hub has a roster that is not signed as it should be.
        DecodeError: the draft is not the next roster.
    """
    if found.keys.federation != known.keys.federation:
        raise RosterRefused(
            "foreign",
            f"the hub is of federation {found.keys.federation}, these keys sign {known.keys.federation}",
        )
    base, warning = known, ""
    if found.roster is not None:
        try:
            base = known.with_roster(found.roster, min(now, RosterStatement.of(found.roster).valid_until - 1))
        except RosterRefused as error:
            if error.cause != "older":
                raise
            warning = f"the hub has roster {RosterStatement.of(found.roster).number} only, roster {known.number} was signed"
    elif known.number:
        warning = f"the hub has no roster, roster {known.number} was signed"
    base = base.with_successions(found.successions)
    draft = found.draft
    if draft is not None and not anew and draft.signers(base.keys.keys):
        statement = RosterStatement.of(draft)
        if statement.number > base.number and statement.federation == base.keys.federation:
            if statement.number != base.number + 1 or statement.valid_until <= now:
                raise DecodeError(
                    f"the draft of roster {statement.number} does not follow roster {base.number}: give --anew"
                )
            return Proposal(base, draft, warning)
    statement = next_roster(base, found.parties, wishes, now)
    return Proposal(base, statement.statement(), warning)


def add_signatures(proposal: Proposal, keys: list[FederationKey]) -> Signed:
    """Return the proposal's statement with the signatures of these keys.

    Raises:
        ConfigError: a key is none of the federation's.
    """
    signed = proposal.signed
    for key in keys:
        if key.public_hex not in proposal.base.keys.keys:
            raise ConfigError(
                f"key {key.public_hex[:16]}... is none of those that sign for {proposal.base.keys.name}: give another --key"
            )
        signed = signed.signed_by(key.public_hex, key.sign)
    return signed


def rotated(
    keys: FederationKeys, old: list[FederationKey], new: list[FederationKey], threshold: int
) -> tuple[FederationKeys, Signed]:
    """Return other keys for a federation, and the statement that puts them in the place of the ones before.

    Raises:
        DecodeError: too few of the old keys are given.
    """
    after = FederationKeys(
        keys.federation,
        keys.name,
        keys.number + 1,
        tuple(sorted(key.public_hex for key in new)),
        threshold,
        keys.contact,
    ).check()
    signed = after.statement()
    for key in [*old, *new]:
        signed = signed.signed_by(key.public_hex, key.sign)
    keys.followed_by(signed)
    return after, signed
