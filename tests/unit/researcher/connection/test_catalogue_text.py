"""The catalogue as it is printed: what nodes wrote steers no terminal."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fedjob.common.terminal.times import when_of_text
from fedjob.researcher.connection.catalogue import DatasetHandle, DatasetUsed, Listing, NodeInfo, Offered

CONTROLS = ("\x1b[2J", "\x1b]0;title\x07", "\x9b8m", "\r", "\x00", "\u202e", "\u2028", "\x7f")


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_nothing_that_a_node_wrote_reaches_a_terminal_as_it_is(control: str) -> None:
    handle = DatasetHandle(
        node="ward",
        name=f"he{control}art",
        tags=(f"a{control}b",),
        reader=f"c{control}v",
        description=control,
    )
    offered = Offered([handle], {f"w{control}ard": f"sil{control}ent"})
    node = NodeInfo(id=f"w{control}ard", online=False, silence=f"a{control}way")
    shown = [
        *(str(handle), repr(handle), repr(offered), repr(node), repr(Listing([node], ("id", "silence")))),
        *(
            str(DatasetUsed(node="ward", name=f"he{control}art")),
            repr(Listing([handle], ("name", "description"))),
        ),
    ]
    for text in shown:
        assert all(char.isprintable() or char == "\n" for char in text), ascii(text)
        assert control not in text


@dataclass(frozen=True)
class Row:
    """A row of a listing."""

    id: str
    note: str = ""
    submitted: str = ""


def test_a_listing_leaves_out_columns_without_any_content() -> None:
    listing = Listing([Row("a"), Row("b")], ("id", "note", "submitted"))
    assert repr(listing).split() == ["id", "a", "b"]
    assert ">note</th>" not in listing._repr_html_()
    noted = Listing([Row("a"), Row("b", note="late")], ("id", "note", "submitted"))
    assert repr(noted).splitlines()[0].split() == ["id", "note"]
    assert ">late</td>" in noted._repr_html_()


def test_a_listing_has_times_as_people_read_them() -> None:
    listing = Listing([Row("a", submitted="2026-11-30T14:36:37.677106Z")], ("id", "submitted"))
    assert when_of_text("2026-11-30T14:36:37.677106Z") in repr(listing)
    assert "677106" not in repr(listing)
