"""The commands `fedjob federation`: keys, signatures, revocation, and the roster as it is."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedjob.common.console import HomeFolder, json_option, print_json, show_rows
from fedjob.common.errors import ConfigError, DecodeError, FedjobError, SpecError
from fedjob.common.files import write_atomic
from fedjob.common.terminal.going_on import still_going_on
from fedjob.common.terminal.times import when

if TYPE_CHECKING:
    from fedjob.coordinator.drafts import Wishes
    from fedjob.coordinator.exchange import Exchange
    from fedjob.coordinator.signing import Proposal, SignerFolder
    from fedjob.identity.statements.pin import Pin
    from fedjob.identity.statements.signed import Signed


_FILE = click.Path(path_type=Path, dir_okay=False)
_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--key", "keys", type=_FILE, multiple=True, help="A key file of the federation; may be repeated."
    ),
    click.option(
        "--federation", type=_FILE, help="The .federation file.  [default: the only one beside the key]"
    ),
    click.option("--hub", help="URL of the hub; the key proves who asks."),
    click.option(
        "--home", type=HomeFolder(), help="Home of a node or researcher, whose way to the hub is used."
    ),
    click.option(
        "--in", "source", type=_FILE, help="File from `federation roster fetch`, or from another signer."
    ),
    click.option(
        "--out", "target", type=_FILE, help="File for the next signer, or for `federation roster publish`."
    ),
    click.option("--tls-ca", type=_FILE, help="Certificate of the hub's own authority."),
    click.option("--proxy", default="", help="Proxy on the way to the hub."),
    click.option(
        "--passphrase-file",
        "passphrases",
        type=_FILE,
        multiple=True,
        help="File with the passphrase, for each --key in turn.",
    ),
    click.option(
        "--days",
        type=click.IntRange(1, 400),
        default=90,
        show_default=True,
        help="Number of days for which the roster is valid.",
    ),
    click.option("--anew", is_flag=True, help="Make a new draft, even where others have signed one."),
    click.option("--yes", is_flag=True, help="Sign without a question."),
)


def _signing(command: Any) -> Any:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group()
def federation() -> None:
    """Say who belongs to a federation: make its keys, sign its roster, revoke a party."""


@federation.command()
@click.argument("name")
@click.option(
    "--keys", "num_keys", type=click.IntRange(1, 16), default=1, show_default=True, help="Number of keys."
)
@click.option(
    "--threshold", type=click.IntRange(1, 16), help="Number of them that have to sign.  [default: all]"
)
@click.option(
    "--contact", default="", help="Whom parties ask for a signature, such as a name and an address."
)
@click.option(
    "--federation", "federation_id", help="Id of a hub that has parties already, see `fedjob hub status`."
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder for the files.  [default: here]",
)
@click.option(
    "--passphrase-file",
    "passphrases",
    type=_FILE,
    multiple=True,
    help="File with the passphrase, for each key in turn.",
)
def create(
    name: str,
    num_keys: int,
    threshold: int | None,
    contact: str,
    federation_id: str | None,
    folder: Path,
    passphrases: tuple[Path, ...],
) -> None:
    """Make the keys of federation NAME, each encrypted with a passphrase; keep them off the network.

    \b
    fedjob federation create heart --contact 'Ann Lee, ann@clinic.example'
    fedjob federation create heart --keys 3 --threshold 2 --folder /media/stick
    """

    from fedjob.identity.statements.federation_keys import FederationKeys
    from fedjob.identity.statements.key_file import FederationKey

    made = [FederationKey.generate() for _ in range(num_keys)]
    public = FederationKeys(
        federation_id or f"fed_{secrets.token_hex(8)}",
        name,
        1,
        tuple(sorted(key.public_hex for key in made)),
        threshold or num_keys,
        contact,
    ).check()
    target = folder / f"{name}.federation"
    paths = [folder / (f"{name}.key" if num_keys == 1 else f"{name}-{n}.key") for n in range(1, num_keys + 1)]
    if there := [path for path in (target, *paths) if path.exists()]:
        raise ConfigError(
            f"{there[0]} is there already and is not overwritten: give another name or --folder"
        )
    words = _passphrases(paths, passphrases, new=True)
    for key, path, passphrase in zip(made, paths, words, strict=True):
        key.store(path, passphrase)
    write_atomic(target, public.dump(), mode=0o666)
    click.echo(
        f"{', '.join(map(str, paths))}: keep them off the network, with a copy elsewhere; without them and their"
    )
    click.echo("passphrases nobody can be admitted or revoked any more")
    click.echo(f"{target}: no secret; the hub needs it once: fedjob hub start --federation {target}")
    click.echo(f"the key to compare: {public.fingerprint}")


@federation.command()
@_signing
@click.option(
    "--readmit", multiple=True, metavar="PARTY", help="Take back a revoked party with the same key."
)
@click.option(
    "--until",
    "until",
    multiple=True,
    metavar="PARTY=YYYY-MM-DD",
    help="Day from which a party does not count any more.",
)
def sign(readmit: tuple[str, ...], until: tuple[str, ...], **options: Any) -> None:
    """Show what is new, changed or gone at the hub, ask, and sign the next roster.

    \b
    fedjob federation sign --key heart.key --hub https://hub.example.org:8844
    fedjob federation sign --in to-sign.json --out signed.json
    """

    from fedjob.coordinator.drafts import Wishes

    ends = dict(_end_of(each) for each in until)
    _sign(Wishes(readmit=frozenset(readmit), until=ends, days=options.pop("days")), **options)


@federation.command()
@click.argument("party", nargs=-1, required=True)
@_signing
def revoke(party: tuple[str, ...], **options: Any) -> None:
    """Sign a roster in which PARTY is revoked; its tasks, sessions and connections end within a minute.

    \b
    fedjob federation revoke clinic-1 --key heart.key --hub https://hub.example.org:8844
    """

    from fedjob.coordinator.drafts import Wishes

    _sign(Wishes(revoke=frozenset(party), days=options.pop("days")), **{**options, "anew": True})


def _sign(
    wishes: Wishes,
    *,
    keys: tuple[Path, ...],
    federation: Path | None,
    hub: str | None,
    home: Path | None,
    source: Path | None,
    target: Path | None,
    tls_ca: Path | None,
    proxy: str,
    passphrases: tuple[Path, ...],
    anew: bool,
    yes: bool,
) -> None:
    from fedjob.coordinator.exchange import FileExchange, ToSign, exchange_of
    from fedjob.coordinator.signing import SignerFolder, add_signatures, propose
    from fedjob.identity.statements.key_file import FederationKey

    if source is not None and (hub or home):
        raise SpecError("expected --in FILE, or --hub URL, or --home FOLDER, found two of them")
    folder = SignerFolder.open(federation, keys[0] if keys else None)
    paths = keys or _keys_beside(folder)
    words = _passphrases(paths, passphrases, new=False)
    opened = [FederationKey.load(path, word) for path, word in zip(paths, words, strict=True)]
    known = folder.pin()
    way: Exchange = (
        FileExchange(source, target)
        if source is not None
        else exchange_of(
            home=home, hub=hub, tls_ca=tls_ca, proxy=proxy, key=opened[0], federation=known.keys.federation
        )
    )
    with still_going_on("asking the hub"):
        found = ToSign.of_plain(way.fetch())
    proposal = propose(known, found, wishes, time.time(), anew=anew)
    _show_proposal(proposal)
    if not yes and not click.confirm("sign this roster?", default=False):
        raise FedjobError("nothing was signed")
    signed = add_signatures(proposal, opened)
    if len(signed.signers(proposal.base.keys.keys)) >= proposal.base.keys.threshold:
        folder.keep(proposal.base.with_roster(signed, time.time()))
    click.echo(_put(way, "roster", signed))


def _show_proposal(proposal: Proposal) -> None:
    from fedjob.identity.statements.roster_statement import RosterStatement

    statement, pin = RosterStatement.of(proposal.signed), proposal.base
    click.echo(f"roster {statement.number} of {pin.keys.name}, valid until {_day(statement.valid_until)}:")
    if proposal.warning:
        click.echo(f"  ODD      {proposal.warning}; ask the hub's owner")
    for line in proposal.lines:
        click.echo(f"  {line}")
    if not proposal.lines:
        click.echo("  nobody is new, changed or gone: it is only valid for longer")
    if count := len(proposal.signed.signers(pin.keys.keys)):
        click.echo(f"  signed by {count} of the {pin.keys.threshold} keys that it takes")


@federation.command()
@click.option(
    "--key",
    "keys",
    type=_FILE,
    multiple=True,
    required=True,
    help="A present key; give as many as have to sign.",
)
@click.option(
    "--keys", "num_keys", type=click.IntRange(1, 16), default=1, show_default=True, help="Number of new keys."
)
@click.option(
    "--threshold",
    type=click.IntRange(1, 16),
    help="Number of the new keys that have to sign.  [default: all]",
)
@click.option(
    "--federation", type=_FILE, help="The .federation file.  [default: the only one beside the key]"
)
@click.option("--hub", required=True, help="URL of the hub.")
@click.option("--tls-ca", type=_FILE, help="Certificate of the hub's own authority.")
@click.option("--proxy", default="", help="Proxy on the way to the hub.")
@click.option(
    "--passphrase-file",
    "passphrases",
    type=_FILE,
    multiple=True,
    help="File with the passphrase, for each key in turn, the new ones last.",
)
def rotate(
    keys: tuple[Path, ...],
    num_keys: int,
    threshold: int | None,
    federation: Path | None,
    hub: str,
    tls_ca: Path | None,
    proxy: str,
    passphrases: tuple[Path, ...],
) -> None:
    """Replace the federation's keys by new ones, signed with the present ones; sign a roster with the new ones then.

    \b
    fedjob federation rotate --key heart.key --hub https://hub.example.org:8844
    """

    from fedjob.coordinator.exchange import exchange_of
    from fedjob.coordinator.signing import SignerFolder, rotated
    from fedjob.identity.statements.key_file import FederationKey

    folder = SignerFolder.open(federation, keys[0])
    known = folder.pin()
    number = known.keys.number + 1
    stem = folder.path.with_suffix("").name
    ends = (
        [f"{stem}.{number}.key"]
        if num_keys == 1
        else [f"{stem}.{number}-{n}.key" for n in range(1, num_keys + 1)]
    )
    paths = [folder.path.with_name(end) for end in ends]
    words = _passphrases([*keys, *paths], passphrases, new=False, num_new=num_keys)
    old = [FederationKey.load(path, word) for path, word in zip(keys, words[: len(keys)], strict=True)]
    new = [FederationKey.generate() for _ in paths]
    after, signed = rotated(known.keys, old, new, threshold or num_keys)
    for key, path, word in zip(new, paths, words[len(keys) :], strict=True):
        key.store(path, word)
    way = exchange_of(
        home=None, hub=hub, tls_ca=tls_ca, proxy=proxy, key=old[0], federation=known.keys.federation
    )
    click.echo(_put(way, "keys", signed))
    folder.keep(replace(known, keys=after))
    write_atomic(folder.path, after.dump(), mode=0o666)
    click.echo(f"{', '.join(map(str, paths))}: the keys from now on; the key to compare: {after.fingerprint}")
    click.echo("next: fedjob federation sign, with them; parties that enrol get them in their invitations")


@federation.command("new-key")
@click.option("--home", type=HomeFolder(), required=True, help="Home of the node or researcher.")
def new_key(home: Path) -> None:
    """Give the party of a home new keys, signed with its present ones, so that the others accept them.

    \b
    fedjob federation new-key --home ~/.fedjob/node
    """

    from fedjob.coordinator.new_keys import give_new_keys
    from fedjob.identity.statements.federation_keys import fingerprint_of

    with still_going_on("asking the hub"):
        party, before, after = give_new_keys(home)
    click.echo(f"{party} has key {fingerprint_of(after)} instead of {fingerprint_of(before)}")
    click.echo(
        "what was granted to the key before is asked for again; a node that runs is started again: fedjob node start"
    )


@federation.group()
def roster() -> None:
    """Show, check, fetch and publish the roster."""


@roster.command("show")
@click.option("--home", type=HomeFolder(), help="Home of a node or researcher.")
@click.option(
    "--federation", type=_FILE, help="The .federation file of a signer.  [default: the only one here]"
)
@json_option
def show(home: Path | None, federation: Path | None, as_json: bool) -> None:
    """Show the newest roster that a home, or a signer, has accepted.

    \b
    fedjob federation roster show --home ~/.fedjob/node
    """

    from fedjob.identity.statements.federation_keys import fingerprint_of

    pin = _pin_of(home, federation)
    rows = [
        {
            "party": name,
            "role": party.role,
            "key": fingerprint_of(party.key_hex),
            "certificate": fingerprint_of(party.certificate) if party.certificate else "",
            "until": _day(party.valid_until) if party.valid_until else "",
            "revoked": party.revoked,
        }
        for name, party in sorted(pin.parties.items())
    ]
    if as_json:
        print_json(
            {
                **pin.keys.to_plain(),
                "fingerprint": pin.keys.fingerprint,
                "roster": pin.number,
                "parties": rows,
            }
        )
        return
    keys = f"{pin.keys.threshold} of {len(pin.keys.keys)} keys"
    click.echo(f"{pin.keys.name} ({pin.keys.federation}), {keys}, key {pin.keys.fingerprint}")
    if pin.roster is None:
        click.echo("no roster is signed yet")
        return
    click.echo(
        f"roster {pin.number} of {when(pin.roster.created)}, valid until {_day(pin.roster.valid_until)}"
    )
    show_rows(rows, False, empty="it has no parties")


@roster.command("verify")
@click.option("--home", type=HomeFolder(), help="Home of a node or researcher; its hub is asked.")
@click.option("--federation", type=_FILE, help="The .federation file.  [default: the only one here]")
@click.option("--in", "source", type=_FILE, help="File from `federation roster fetch` or a signer.")
def verify(home: Path | None, federation: Path | None, source: Path | None) -> None:
    """Check the roster that the hub hands out, or that a file has, against the pinned keys.

    \b
    fedjob federation roster verify --home ~/.fedjob/node
    """

    from fedjob.coordinator.exchange import ToSign, read_file
    from fedjob.identity.membership import load_membership
    from fedjob.identity.pinned_roster import PinnedRoster

    pin = _pin_of(home, federation)
    if source is not None:
        found = ToSign.of_plain(read_file(source))
        signed = found.draft or found.roster
        if signed is None:
            raise DecodeError(f"{source} has no roster")
        pin = pin.with_roster(signed, time.time())
    elif home is not None:
        membership = load_membership(home)
        pinned = PinnedRoster(home, membership, pin.keys)
        with still_going_on("asking the hub"):
            pinned.fetch()
        pin = pinned.pin
    if text := pin.expired(time.time()):
        raise FedjobError(text)
    if pin.roster is None:
        raise FedjobError("no roster is signed yet: run `fedjob federation sign`")
    click.echo(
        f"roster {pin.number} of {pin.keys.name} is signed as it should be, by key {pin.keys.fingerprint}"
    )


@roster.command("fetch")
@click.argument("file", type=_FILE)
@click.option(
    "--home",
    type=HomeFolder(),
    required=True,
    help="Home of a node or researcher, whose way to the hub is used.",
)
def fetch(file: Path, home: Path) -> None:
    """Write what the hub has to be signed into FILE, for a signer without a network.

    \b
    fedjob federation roster fetch to-sign.json --home ~/.fedjob/researcher
    """

    from fedjob.coordinator.exchange import ToSign, exchange_of, write_file

    way = exchange_of(home=home, hub=None, tls_ca=None, proxy="", key=None, federation="")
    with still_going_on("asking the hub"):
        plain = way.fetch()
    ToSign.of_plain(plain)
    write_file(file, plain)
    click.echo(
        f"{file}: carry it to the signer, who runs `fedjob federation sign --in {file.name} --out SIGNED`"
    )


@roster.command("publish")
@click.argument("file", type=_FILE)
@click.option(
    "--home",
    type=HomeFolder(),
    required=True,
    help="Home of a node or researcher, whose way to the hub is used.",
)
def publish(file: Path, home: Path) -> None:
    """Bring the roster that was signed without a network to the hub.

    \b
    fedjob federation roster publish signed.json --home ~/.fedjob/researcher
    """

    from fedjob.coordinator.exchange import ToSign, exchange_of, read_file

    found = ToSign.of_plain(read_file(file))
    if found.draft is None:
        raise ConfigError(
            f"{file} has no roster that was signed: run `fedjob federation sign --in {file} --out SIGNED`"
        )
    way = exchange_of(home=home, hub=None, tls_ca=None, proxy="", key=None, federation="")
    click.echo(_put(way, "roster", found.draft))


def _put(way: Exchange, kind: str, signed: Signed) -> str:
    with still_going_on("asking the hub"):
        return way.put(kind, signed)


def _pin_of(home: Path | None, federation: Path | None) -> Pin:
    from fedjob.coordinator.signing import SignerFolder
    from fedjob.identity.membership import load_membership
    from fedjob.identity.pinned_roster import load_pin
    from fedjob.identity.statements.federation_keys import FederationKeys

    if home is None:
        return SignerFolder.open(federation, None).pin()
    membership = load_membership(home)
    keys = membership.federation_keys if federation is None else FederationKeys.load(federation)
    if keys is None:
        raise ConfigError(
            f"{home} pinned no keys of a federation, its trust is on first use: join with an invitation of a hub that was "
            "started with --federation"
        )
    return load_pin(home, keys)


def _keys_beside(folder: SignerFolder) -> tuple[Path, ...]:
    found = tuple(sorted(folder.path.parent.glob(f"{folder.path.stem}*.key")))
    if len(found) != 1:
        raise SpecError(
            f"expected the key to sign with: give --key FILE; there are {len(found)} beside {folder.path}"
        )
    return found


def _passphrases(paths: Sequence[Path], files: Sequence[Path], *, new: bool, num_new: int = 0) -> list[str]:
    """Return the passphrase of each key: from files, or asked for on the terminal."""
    if files and len(files) not in (1, len(paths)):
        raise SpecError(
            f"expected one --passphrase-file, or {len(paths)}, one for each key, found {len(files)}"
        )
    if files:
        return [
            _first_line(files[0] if len(files) == 1 else file)
            for file, _ in zip([*files] * len(paths), paths, strict=False)
        ]
    fresh = {*paths} if new else {*paths[len(paths) - num_new :]} if num_new else set()
    return [
        click.prompt(
            f"passphrase {'for' if path in fresh else 'of'} {path}",
            hide_input=True,
            confirmation_prompt=path in fresh,
        )
        for path in paths
    ]


def _first_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"expected a passphrase in the first line of {path}: {error}") from error
    return lines[0] if lines else ""


def _end_of(text: str) -> tuple[str, int]:
    party, _, day = text.partition("=")
    try:
        return party, int(time.mktime(time.strptime(day, "%Y-%m-%d")))
    except (ValueError, OverflowError):
        raise SpecError(f"expected --until PARTY=YYYY-MM-DD, found {text[:80]!r}") from None


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at))
