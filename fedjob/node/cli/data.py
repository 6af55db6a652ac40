"""The commands `fedjob node data ...`: the datasets that a node offers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedjob.common.console import json_option, size, table
from fedjob.common.errors import SpecError
from fedjob.common.terminal.going_on import still_going_on
from fedjob.common.types import check_given
from fedjob.node.cli.home import KnownText, home_option, open_database

if TYPE_CHECKING:
    from fedjob.node.config.home import NodeHome
    from fedjob.node.data.assets import RegisteredAsset, TypedAssets
    from fedjob.node.data.datasets import Datasets, RegisteredDataset


MAX_SHOWN_COLUMNS = 20


@click.group()
def data() -> None:
    """Add, list and remove the datasets that this node offers."""


@data.command("add")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path), required=False)
@home_option
@click.option(
    "--asset",
    "assets",
    multiple=True,
    metavar="ASSET=PATH",
    help="A named table or file of the dataset, instead of PATH; repeatable. The first is the one whose rows count.",
)
@click.option("--tags", default="", help="Comma-separated words that researchers search for.")
@click.option(
    "--reader",
    "readers",
    multiple=True,
    metavar="[ASSET=]READER",
    help="Reader of the data, such as csv; by default guessed from the path.",
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="[ASSET.]K=V",
    help="An option of the reader; repeatable.",
)
@click.option(
    "--loading-plan",
    type=click.Path(path_type=Path),
    help="JSON or TOML file with the local names of columns or modalities, see docs/data.md.",
)
@click.option(
    "--mock",
    "mocks",
    multiple=True,
    metavar="[ASSET=]PATH",
    help="Synthetic data of the same form, for trial runs; with assets one of each.",
)
@click.option(
    "--min-rows",
    type=int,
    default=0,
    help="No number about fewer rows leaves the node, alone or as the difference of two; see docs/analytics.md.",
)
@click.option(
    "--max-weight",
    type=int,
    default=0,
    help="Largest weight of this dataset in a mean over nodes, however many examples a plan makes of its rows; 0: no limit.",
)
@click.option("--description", default="", help="Description of the data for researchers.")
@click.option(
    "--contact",
    "contacts",
    multiple=True,
    metavar="'NAME, ROLE, ADDRESS'",
    help="Whom to ask about the data, if not the node's own contact; repeatable.",
)
def data_add(
    name: str,
    path: Path | None,
    home: NodeHome,
    assets: tuple[str, ...],
    tags: str,
    readers: tuple[str, ...],
    options: tuple[str, ...],
    loading_plan: Path | None,
    mocks: tuple[str, ...],
    min_rows: int,
    max_weight: int,
    description: str,
    contacts: tuple[str, ...],
) -> None:
    """Offer the data at PATH as dataset NAME; the files stay where they are.

    PATH is a file, or a folder of images or of tables with the same columns, which are read as one. A dataset of
    several tables or files is given by --asset patients=patients.csv --asset visits=visits.csv instead.

    \b
    fedjob node data add heart heart.csv --tags heart,uci --min-rows 10
    fedjob node data add scans images/ --tags chest --contact 'Ann Lee, data steward, ann@clinic.example'
    fedjob node data add ward --asset patients=patients.csv --asset visits=visits.csv
    """

    from fedjob.node.data.datasets import Datasets, describe_cohort, describe_dataset

    if (path is None) == (not assets):
        raise SpecError("a dataset is PATH, or one or more --asset ASSET=PATH")
    notes: list[str] = []
    lines: list[str] = []
    about: dict[str, Any] = {
        "tags": [tag.strip() for tag in tags.split(",") if tag.strip()],
        "min_rows": min_rows,
        "max_weight": max_weight,
        "description": description,
        "contact": ";".join(contacts),
        "note": notes.append,
    }
    looked_at = path or ", ".join(assets)
    with open_database(home) as database, still_going_on(f"reading {looked_at}") as sign:
        about["warn"] = lambda text: sign.say(f"warning: {text}")
        if path is None:
            if loading_plan is not None:
                raise SpecError("--loading-plan names columns of one table: a dataset of assets has none")
            typed = typed_assets(assets, mocks=mocks, readers=readers, options=options)
            dataset = describe_cohort(name, typed, report=lines.append, **about)
        else:
            from fedjob.data.readers.loading_plan import read_loading_plan

            dataset = describe_dataset(
                name,
                path,
                reader=_only("--reader", readers),
                options=_pairs("--option", options, "KEY=VALUE"),
                loading=None if loading_plan is None else read_loading_plan(loading_plan).to_plain(),
                mock=None if (mock := _only("--mock", mocks)) is None else Path(mock),
                report=lines.append,
                **about,
            )
        Datasets(database).add(dataset)
    _show_reading(dataset, notes, lines, dataset.options)


def typed_assets(
    assets: tuple[str, ...], *, mocks: tuple[str, ...], readers: tuple[str, ...], options: tuple[str, ...]
) -> TypedAssets:
    """Read the options of a command that describe a dataset's assets.

    Raises:
        SpecError: one is not in its form, or names an asset that there is not.
    """

    from fedjob.node.data.assets import TypedAssets

    paths = {asset: Path(path) for asset, path in _pairs("--asset", assets, "ASSET=PATH").items()}
    mocked = {asset: Path(path) for asset, path in _pairs("--mock", mocks, "ASSET=PATH").items()}
    for_all = [reader for reader in readers if "=" not in reader]
    by_asset = dict.fromkeys(paths, _only("--reader", tuple(for_all)) or "")
    own = _pairs("--reader", tuple(reader for reader in readers if "=" in reader), "ASSET=READER")
    shared: dict[str, str] = {}
    of_one: dict[str, dict[str, str]] = {}
    for key, setting in _pairs("--option", options, "[ASSET.]KEY=VALUE").items():
        asset, dot, option = key.rpartition(".")
        if dot:
            of_one.setdefault(asset, {})[option] = setting
        else:
            shared[key] = setting
    for what, named in (("--mock", mocked), ("--reader", own), ("--option", of_one)):
        if unknown := [asset for asset in named if asset not in paths]:
            raise SpecError(f"{what} {unknown[0]}...: there is no such asset; there are {', '.join(paths)}")
    return TypedAssets(
        paths=paths,
        mocks=mocked,
        readers={**by_asset, **own},
        options={asset: {**shared, **of_one.get(asset, {})} for asset in paths},
    )


def _pairs(what: str, given: tuple[str, ...], form: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        key, equals, setting = text.partition("=")
        if not equals or not key or not (setting or what == "--option"):
            raise SpecError(f"{what} takes {form}, not {text!r}")
        if key in pairs:
            raise SpecError(f"{what} {key}=... is there twice: {pairs[key]!r} and {setting!r}")
        pairs[key] = setting
    return pairs


def _only(what: str, given: tuple[str, ...]) -> str | None:
    if len(given) > 1:
        raise SpecError(f"{what} is there {len(given)} times, for one dataset: {', '.join(given)}")
    return given[0] if given else None


def _show_reading(
    dataset: RegisteredDataset, notes: list[str], counted: list[str], options: Mapping[str, str]
) -> None:
    """Print what was registered and how it was read, so that the owner sees a mistake before researchers do."""

    from fedjob.data.leftovers import leftovers_of

    click.echo(
        f"dataset {dataset.name}: {dataset.num_rows} rows, {len(dataset.columns)} columns, {size(dataset.size_bytes)}, "
        f"read as {dataset.reader}"
        + (
            f": what is said here of the whole is of its first asset, {dataset.assets[0].name}"
            if dataset.assets
            else ""
        )
    )
    for asset in dataset.assets:
        click.echo(f"asset {_asset_line(asset)}")
    path = Path(dataset.path)
    if path.is_dir() and (left := leftovers_of(path)):
        click.echo(f"note: hidden and system files are not read: {', '.join(left)}", err=True)
    if dataset.columns:
        shown = [f"{column['name']} {column['type']}" for column in dataset.columns[:MAX_SHOWN_COLUMNS]]
        more = ", ..." if len(dataset.columns) > len(shown) else ""
        click.echo(f"columns: {', '.join(shown)}{more}")
    for line in counted:
        click.echo(line)
    for sentence in notes:
        click.echo(f"note: {sentence}", err=True)
    names = [str(column["name"]) for column in dataset.columns]
    if (
        dataset.reader == "csv"
        and not options.keys() & {"header", "names"}
        and 2 * sum(map(_is_number, names)) > len(names)
    ):
        click.echo(
            f"note: the first row was read as the names of the columns ({', '.join(names[:4])}, ...): if it is "
            f"data, `fedjob node data remove {dataset.name}` and add it again with --option header=no",
            err=True,
        )


def _asset_line(asset: RegisteredAsset) -> str:
    mock = f", mock {asset.mock}" if asset.mock else ""
    return (
        f"{asset.name}: {asset.num_rows} rows, {len(asset.columns)} columns, {size(asset.size_bytes)}, "
        f"read as {asset.reader} from {asset.path}{mock}"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@data.command("list")
@home_option
@json_option
def data_list(home: NodeHome, as_json: bool) -> None:
    """List the datasets, as their data are now.

    \b
    fedjob node data list
    """

    from fedjob.node.data.datasets import Datasets

    with open_database(home) as database:
        _refresh(Datasets(database))
        found = Datasets(database).all()
    if as_json:
        click.echo(json.dumps([_plain(dataset) for dataset in found], indent=2))
        return
    table(
        ("name", "tags", "reader", "rows", "columns", "size", "min rows", "mock", "path"),
        [
            (
                d.name,
                ",".join(d.tags),
                d.reader,
                str(d.num_rows),
                str(len(d.columns)),
                size(d.size_bytes),
                str(d.min_rows),
                "yes" if d.mock else "no",
                ", ".join(f"{asset}={path}" if asset else path for asset, path in d.parts().items()),
            )
            for d in found
        ],
        empty="no datasets yet: fedjob node data add NAME PATH",
    )


@data.command("show")
@click.argument("name", type=KnownText("dataset"))
@home_option
@json_option
def data_show(name: str, home: NodeHome, as_json: bool) -> None:
    """Show a dataset, its columns and their types.

    \b
    fedjob node data show heart
    """

    from fedjob.node.data.datasets import Datasets

    with open_database(home) as database:
        _refresh(Datasets(database), name)
        dataset = Datasets(database).get(name)
    if as_json:
        click.echo(json.dumps(_plain(dataset), indent=2))
        return
    for key in (
        "name",
        "description",
        "path",
        "mock",
        "reader",
        "num_rows",
        "min_rows",
        "max_weight",
    ):
        click.echo(f"{key:<13}{getattr(dataset, key) or '-'}")
    click.echo(f"{'contacts':<13}{'; '.join(map(str, dataset.contacts)) or '-'}")
    click.echo(f"{'size':<13}{size(dataset.size_bytes)}")
    click.echo(f"{'tags':<13}{', '.join(dataset.tags) or '-'}")
    click.echo(f"{'options':<13}{', '.join(f'{k}={v}' for k, v in dataset.options.items()) or '-'}")
    for part, names in dataset.loading.items():
        for name, here in names.items():
            click.echo(f"{part:<13}{name} = {here if isinstance(here, str) else ', '.join(here)}")
    for asset in dataset.assets:
        click.echo(f"{'asset':<13}{_asset_line(asset)}")
    if dataset.assets:
        rows = [(a.name, str(c["name"]), str(c["type"])) for a in dataset.assets for c in a.columns]
        table(("asset", "column", "type"), rows, empty="no columns")
        return
    table(("column", "type"), [(str(c["name"]), str(c["type"])) for c in dataset.columns], empty="no columns")


@data.command("refresh")
@click.argument("name", required=False, type=KnownText("dataset"))
@home_option
def data_refresh(name: str | None, home: NodeHome) -> None:
    """Look at the data of NAME, or of all datasets, and update the description of those that have changed.

    `data list`, `data show` and the node do so by themselves.

    \b
    fedjob node data refresh
    fedjob node data refresh heart
    """

    from fedjob.node.data.datasets import Datasets
    from fedjob.node.data.redescription import describe_changed

    with open_database(home) as database, still_going_on("looking at the data"):
        found = describe_changed(Datasets(database), "" if name is None else check_given(name, "a dataset"))
    for one in found:
        click.echo(str(one))
    if not found:
        click.echo("nothing has changed")
    if any(one.problem for one in found):
        raise SpecError("not every dataset could be described")


def _refresh(datasets: Datasets, name: str = "") -> None:
    """Describe what has changed anew, and say so beside the output."""

    from fedjob.node.data.redescription import describe_changed

    for one in describe_changed(datasets, name):
        click.echo(f"note: {one}", err=True)


@data.command("set")
@click.argument("name", type=KnownText("dataset"))
@home_option
@click.option("--tags", help="Comma-separated words that researchers search for; empty for none.")
@click.option("--min-rows", type=int, help="See `data add`.")
@click.option("--max-weight", type=int, help="See `data add`.")
@click.option("--description", help="Description of the data for researchers.")
@click.option(
    "--contact",
    "contacts",
    multiple=True,
    metavar="'NAME, ROLE, ADDRESS'",
    help="Whom to ask about the data; repeatable.",
)
def data_set(
    name: str,
    home: NodeHome,
    tags: str | None,
    min_rows: int | None,
    max_weight: int | None,
    description: str | None,
    contacts: tuple[str, ...],
) -> None:
    """Change tags, limits, description and contacts of dataset NAME; grants for its data stay as they are.

    \b
    fedjob node data set heart --min-rows 20 --description 'Heart disease, 2019 to 2024'
    """

    from fedjob.node.owner.datasets import reword_dataset

    with open_database(home) as database:
        click.echo(
            reword_dataset(
                database,
                name,
                tags=tags,
                min_rows=min_rows,
                max_weight=max_weight,
                description=description,
                contact=";".join(contacts) if contacts else None,
            )
        )


@data.command("remove")
@click.argument("name", type=KnownText("dataset"))
@home_option
def data_remove(name: str, home: NodeHome) -> None:
    """Stop offering a dataset; the files stay where they are.

    \b
    fedjob node data remove heart
    """

    from fedjob.node.data.datasets import Datasets

    with open_database(home) as database:
        Datasets(database).remove(name)
    click.echo(f"dataset {name} is no longer offered")


def _plain(dataset: Any) -> dict[str, Any]:
    plain = asdict(dataset)
    plain["columns"] = [dict(column) for column in dataset.columns]
    return plain
