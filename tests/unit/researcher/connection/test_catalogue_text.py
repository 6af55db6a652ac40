"""The catalogue as it is printed: what nodes wrote steers no terminal."""

from __future__ import annotations

import pytest

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
