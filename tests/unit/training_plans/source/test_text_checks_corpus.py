"""More than a hundred ways to write a plan that does not read as it runs; an owner is shown none of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fedjob.common.errors import PlanError
from fedjob.node.grants.plan_texts import examine_plan

HONEST = '''\
"""A plan for the ward."""

import torch
from fedjob import TorchPlan

LEVEL = "user"  # who may do this


class Ward(TorchPlan):
    def init_model(self, model_args):
        if LEVEL != "admin":
            return torch.nn.Linear(2, 1)
        return None

    def training_step(self, model, batch):
        inputs, targets = batch
        return torch.nn.functional.mse_loss(model(inputs), targets)
'''


def _in_comment(char: str) -> str:
    return HONEST.replace("who may", f"who{char} may")


def _in_string(char: str) -> str:
    return HONEST.replace('"user"', f'"us{char}er"')


def _in_docstring(char: str) -> str:
    return HONEST.replace("for the ward", f"for{char} the ward")


def _in_name(char: str) -> str:
    return HONEST.replace("inputs", f"in{char}puts")


def _in_code(char: str) -> str:
    return HONEST.replace("return None", f"return{char} None")


def _called(name: str) -> str:
    return HONEST.replace("        return None", f"        return {name}()")


TRICKS: dict[str, bytes] = {}


def trick(name: str, text: str | bytes) -> None:
    assert name not in TRICKS, name
    TRICKS[name] = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


_CHARACTERS = {
    "left-to-right mark": "\u200e",
    "right-to-left mark": "\u200f",
    "arabic letter mark": "\u061c",
    "left-to-right embedding": "\u202a",
    "right-to-left embedding": "\u202b",
    "pop directional formatting": "\u202c",
    "left-to-right override": "\u202d",
    "right-to-left override": "\u202e",
    "left-to-right isolate": "\u2066",
    "right-to-left isolate": "\u2067",
    "first strong isolate": "\u2068",
    "pop directional isolate": "\u2069",
    "soft hyphen": "\u00ad",
    "zero width space": "\u200b",
    "zero width non-joiner": "\u200c",
    "zero width joiner": "\u200d",
    "word joiner": "\u2060",
    "invisible times": "\u2062",
    "byte order mark inside": "\ufeff",
    "hangul filler": "\u3164",
    "halfwidth hangul filler": "\uffa0",
    "hangul choseong filler": "\u115f",
    "braille blank": "\u2800",
    "mongolian vowel separator": "\u180e",
    "combining grapheme joiner": "\u034f",
    "khmer inherent vowel": "\u17b4",
    "null notehead": "\U0001d159",
    "variation selector 1": "\ufe00",
    "variation selector 17": "\U000e0100",
    "tag a": "\U000e0061",
    "interlinear annotation": "\ufff9",
    "NUL": "\0",
    "backspace": "\x08",
    "vertical tab": "\x0b",
    "form feed": "\x0c",
    "carriage return": "\r",
    "end of file": "\x1a",
    "escape": "\x1b[8m",
    "delete": "\x7f",
    "next line": "\x85",
    "control sequence": "\x9b",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "no-break space": "\u00a0",
    "em space": "\u2003",
    "ideographic space": "\u3000",
    "private use": "\ue000",
    "unassigned": "\U0003fffd",
    "half a pair": "\ud83d",
}
for _what, _char in _CHARACTERS.items():
    trick(f"{_what} in a comment", _in_comment(_char))
    trick(f"{_what} in a string", _in_string(_char))
for _what in ("right-to-left override", "zero width space", "form feed", "no-break space", "carriage return"):
    trick(f"{_what} in the docstring", _in_docstring(_CHARACTERS[_what]))
    trick(f"{_what} in the code", _in_code(_CHARACTERS[_what]))
for _what in (
    "zero width joiner",
    "zero width non-joiner",
    "hangul filler",
    "variation selector 1",
    "soft hyphen",
):
    trick(f"{_what} in a name", _in_name(_CHARACTERS[_what]))

trick(
    "a comment that ends early",
    HONEST.replace("# who may do this", "# who may \u202e\u2066# do this\u2069\u2066"),
)
trick(
    "a string that seems to end", HONEST.replace('"admin":', '"admin\u202e \u2066# is admin\u2069 \u2066":')
)
trick("an early return behind a comment", HONEST.replace("return None", "'\u2067'''\u2069 ; return evil"))

for _what, _name in {
    "ligature": "\ufb01t",
    "full width": "\uff45val",
    "bold": "\U0001d41e\U0001d42f\U0001d41a\U0001d425",
    "italic": "\U0001d452val",
    "script": "\u212fval",
    "monospace": "\U0001d68e\U0001d69f\U0001d68a\U0001d695",
    "superscript": "eval\u1d43",
    "ordinal": "ev\u00aal",
    "long s": "\u017fet",
    "angstrom sign": "\u212bccess",
    "kelvin sign": "\u212aeep",
    "roman numeral": "\u2170nput",
    "decomposed accent": "e\u0301val",
    "cyrillic a": "ev\u0430l",
    "cyrillic e": "\u0435val",
    "cyrillic all over": "\u0435\u0445\u0435\u0441",
    "cyrillic capital": "\u0421\u0410\u0422",
    "greek omicron": "t\u03bfrch",
    "greek capital alpha": "\u0391dmin",
    "greek capitals all over": "\u0391\u0392\u0395",
    "armenian o": "\u0585pen",
    "cherokee": "\u13a0dmin",
    "dotless i": "\u0131nput",
    "latin alpha": "ev\u0251l",
    "hebrew": "\u05d0",
    "arabic": "x_\u0627",
    "cyrillic word": "\u043c\u043e\u0434\u0435\u043b\u044c",
    "cyrillic word behind an ascii one": "load_\u043c\u043e\u0434\u0435\u043b\u044c",
    "accent": "\u00e9t\u00e9",
    "umlaut": "gr\u00f6\u00dfe",
    "dot below": "l\u1ecdad",
    "overlaid stroke": "l\u00f8ad",
    "small capital": "load_\u1d00",
    "chinese word": "\u8f93\u5165",
    "katakana": "\u30a8",
    "coptic o": "l\u2c9fad",
    "lisu": "load_\ua4ee",
    "deseret": "l\U0001042cad",
    "arabic digit": "load_\u0661",
    "devanagari digit": "load_\u0967",
    "bengali digit": "load_\u09e7",
    "thai digit": "load_\u0e51",
    "nko digit": "load_\u07c1",
    "khmer digit": "load_\u17e1",
    "mathematical digit": "load_\U0001d7cf",
    "greek letter in a word": "\u03bbload",
    "greek word": "\u03bb\u03cc\u03b3\u03bf\u03c2",
    "two greek letters": "\u0394\u03bb",
    "greek letter that is like none of the formulas": "\u03bf",
    "greek nu": "\u03bd",
    "greek rho": "\u03c1_1",
    "micro sign": "\u00b5",
    "middle dot": "load\u00b7x",
    "tie": "load\u203fx",
    "click": "load\u01c0",
    "modifier letter": "load\u02bc",
    "script p": "\u2118",
    "mark": "lo\u0332ad",
    "tibetan digit": "load_\u0f21",
    "runic": "\u16c1",
    "georgian": "\u10ff",
    "glagolitic": "\u2c10",
    "gothic": "\U00010330",
}.items():
    trick(f"a name with {_what}", _called(_name))
trick("a name with ligature in an f-string", HONEST.replace('"user"', 'f"{\ufb01t()}"'))
trick("a name with cyrillic e in an f-string", HONEST.replace('"user"', 'rf"""{\u0435val()}"""'))
for _what, _one, _other in (
    ("alpha beside a", "\u03b1", "a"),
    ("sigma beside o", "x_\u03c3", "x_o"),
    ("omega beside w", "\u03c91", "w1"),
):
    trick(f"names that read alike: {_what}", HONEST + f"{_one} = 1\n{_other} = 2\n")
trick("a name with umlaut in an f-string", HONEST.replace('"user"', 'f"{gr\u00f6\u00dfe}"'))
trick("strings that change places", HONEST.replace('"user"', '"\u05d0", "\u05d1"'))
trick("a comment that takes code along", HONEST.replace('"user"  # who', '"\u05d0"  # \u05d1 who'))

trick("code beyond the edge", HONEST.replace("return None", "return None" + " " * 200 + "; evil()"))
trick("code behind tabs", HONEST.replace("return None", "return None" + "\t" * 20 + "; evil()"))
trick("code in a very long line", HONEST.replace('"user"', '"' + "x" * 1200 + '"; evil()'))
trick("code far below", HONEST + "\n" * 400 + "evil()\n")
trick("code far below blank lines", HONEST + "   \n" * 60 + "evil()\n")
trick("too much to read", HONEST + "# nothing\n" * 30_000)
trick("marks in a pile", _in_comment("\u0300\u0301\u0302\u0303\u0304"))
trick("a mark over a quote", HONEST.replace('"user"', '"\u0338user"'))
trick("a mark over a sign", HONEST.replace("# who", "# LEVEL =\u0338 who"))
trick("a mark over a space", _in_comment(" \u0332"))

trick("utf-8 with a signature", b"\xef\xbb\xbf" + HONEST.encode())
trick("utf-16", HONEST.encode("utf-16"))
trick("utf-16 without a mark", HONEST.encode("utf-16-le"))
trick("utf-32", HONEST.encode("utf-32"))
trick("latin-1", HONEST.replace("ward", "w\xe4rd").encode("latin-1"))
trick("an overlong NUL", HONEST.encode() + b"# \xc0\x80\n")
trick("a surrogate in utf-8", HONEST.encode() + b"# \xed\xa0\x80\n")
trick("beyond unicode", HONEST.encode() + b"# \xf4\x90\x80\x80\n")
trick("a cut sequence", HONEST.encode() + b"# \xe2\x80\n")
for _cookie in ("latin-1", "utf-7", "rot13", "cp1252", "utf-16", "utf-8-sig", "raw_unicode_escape", "idna"):
    trick(f"the cookie {_cookie}", f"# -*- coding: {_cookie} -*-\n{HONEST}")
trick("a cookie in the second line", "#!/usr/bin/python\n# vim: set fileencoding=rot13 :\n" + HONEST)
trick("a cookie with an equals sign", "# coding=utf-7\n" + HONEST)
trick("windows line ends", HONEST.replace("\n", "\r\n"))
trick("old line ends", HONEST.replace("\n", "\r"))
trick("a line end in a comment", HONEST.replace("# who may do this", "# who may\rimport os"))


def test_there_are_more_than_a_hundred_tricks() -> None:
    assert len(TRICKS) > 150
    assert len(set(TRICKS.values())) == len(TRICKS)
    assert HONEST.encode() not in TRICKS.values()
    assert examine_plan(HONEST.encode()) == (HONEST, ())


@pytest.mark.parametrize("name", list(TRICKS))
def test_a_trick_is_refused_before_anything_is_hashed_or_shown(name: str) -> None:
    with pytest.raises(PlanError) as refused:
        examine_plan(TRICKS[name])
    assert str(refused.value).isprintable()  # the message itself hides nothing


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(
            "the ward", "l'Hôpital Saint-Étienne: naïve façade, œuvre, Straße, 漢字, 医院"
        ),
        lambda text: text.replace('"user"', '"שלום עולם"'),
        lambda text: text.replace("who may do this", "кто может: Дом, это комментарий"),
        lambda text: text.replace("inputs", "σ_max").replace("targets", "Δ_y"),
        lambda text: text.replace("inputs", "λ").replace("targets", "β2"),
        lambda text: text.replace('"user"', 'f"die Größe {LEVEL}: {1:>{2}} модель"').replace(
            "LEVEL = f", "LEVEL = 'u'\nTEXT = f"
        ),
        lambda text: text.replace('"user"', '{"größe": 1}["größe"]'),
        lambda text: text.replace("    ", "\t"),
        lambda text: "# coding: utf-8\n" + text,
        lambda text: text + "\n\n\nx = 1" + " " * 20 + "# far, but in sight\n",
        lambda text: text.replace('"user"', 'f"{LEVEL!r} à {1 + 1:>8}"').replace(
            "LEVEL = f", "LEVEL = 'u'\nTEXT = f"
        ),
        lambda text: text.replace('"user"', '"\\u202e\\x00\\N{ZERO WIDTH SPACE}"'),
        lambda text: text.replace("who may", "नमस्ते, ไทยนี้, Tiếng Việt"),
        lambda text: text.replace("who may", "👍 ≤ ≠ → 5 µg/l … “so” – done"),
    ],
)
def test_honest_texts_pass(change: Callable[[str], str]) -> None:
    text = change(HONEST)
    assert text != HONEST
    assert examine_plan(text.encode())[0] == text
