"""The dossier of a job: what it says, and that no edit of it goes unnoticed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fedjob import FedAvg, Job
from fedjob.common.errors import ConfigError, DecodeError
from fedjob.identity.keys import SealKey
from fedjob.researcher.dossier.page import JSON_CLOSES, JSON_OPENS
from fedjob.researcher.dossier.signed_file import open_dossier, signed_file
from tests.data import TRAINING, make_points
from tests.plans import Tiny

NAME = "Hearts </script><script>alert(1)</script>"
EDITS = 10_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dossier")


@pytest.fixture(scope="module")
def job(home: Path) -> Job:
    clinics = {f"clinic-{k}": str(make_points(home / f"{k}.npz", 60, k)) for k in range(3)}
    made = Job(
        FedAvg(),
        training_plan=Tiny,
        data=clinics,
        nodes="local",
        home=home / "home",
        rounds=3,
        seed=1,
        training_args=TRAINING,
        name=NAME,
        keep=True,
    )
    made.run(progress=False)
    return made


@pytest.fixture(scope="module")
def file(job: Job, home: Path) -> Path:
    return job.dossier(home / "dossier.html")


def test_a_dossier_says_what_was_asked_computed_and_not_checked(job: Job, file: Path, home: Path) -> None:
    found = open_dossier(file.read_bytes())
    assert found.problems == ()
    assert found.key == SealKey.public_of(home / "home")
    content = found.content
    assert content["job"]["id"] == job.id
    assert (content["job"]["rounds_done"], content["job"]["state"]) == (3, "completed")
    assert content["plan"]["text"] == (job.folder / "plan.py").read_text(encoding="utf-8")
    assert [entry["round"] for entry in content["rounds"]] == [1, 2, 3]
    assert all(len(entry["inputs"]) == 3 for entry in content["rounds"])
    assert [check["verdict"] for check in content["verification"]] == ["equal"] * 3
    sizes = sum((job.folder / "result" / each["file"]).stat().st_size for each in content["result"])
    assert sizes == sum(each["bytes"] for each in content["result"]) > 0
    assert {
        each["node"]: (each["answers"], each["tensor_bytes"] > 0) for each in content["left_the_nodes"]
    } == {f"clinic-{k}": (3, True) for k in range(3)}
    assert any("this machine alone" in sentence for sentence in content["not_checked"])


def test_a_page_shows_a_hostile_name_as_text_and_asks_no_host(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert text.count("<script") == 1  # the data for machines, which no browser runs
    assert "default-src 'none'" in text
    assert "http://" not in text
    assert "https://" not in text


def edited(data: bytes, draw: random.Random) -> bytes:
    """Return a file with one change: of a bit, a byte, a piece cut out, doubled, put in, or moved."""
    at = draw.randrange(len(data))
    to = min(len(data), at + draw.randrange(1, 40))
    kind = draw.randrange(7)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + bytes([(data[at] + draw.randrange(1, 256)) % 256]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + data[to:]
    if kind == 3:
        return data[:to] + data[at:]
    if kind == 4:
        return data[:at] + draw.choice([b" ", b"\n", b"0", b"<!-- -->", b"\x00"]) + data[at:]
    if kind == 5:
        return data[:at]
    return data + draw.choice([b" ", b"\n", b"\x00", data[-40:]])


def test_each_of_ten_thousand_edits_is_found(file: Path) -> None:
    data, draw = file.read_bytes(), random.Random(1)
    unseen = 0
    for _ in range(EDITS):
        changed = edited(data, draw)
        if changed == data:
            continue
        try:
            open_dossier(changed)
        except DecodeError:
            continue
        unseen += 1
    assert unseen == 0


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("rounds", 1, "inputs", 0, 2), 99.0, "does not follow from the one before"),
        (("rounds", 1, "previous_hash"), "0" * 64, "does not follow from the one before"),
        (("plan", "text"), "import os\n", "does not have the sha256 that it names"),
        (("verification", 0, "verdict"), "different", "other bytes"),
        (("audit_heads",), [], ""),
    ],
)
def test_a_researcher_who_signs_something_wrong_is_caught_at_what_contradicts_itself(
    file: Path, home: Path, path: tuple[str | int, ...], value: object, expected: str
) -> None:
    key = SealKey(home / "home")
    content = json.loads(json.dumps(open_dossier(file.read_bytes()).content))
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    found = open_dossier(signed_file(content, key.public_key_hex, key.sign))
    assert expected in " ".join(found.problems)
    assert bool(found.problems) is bool(expected)


def test_a_page_that_says_something_else_than_its_data_is_found(file: Path, home: Path) -> None:
    key = SealKey(home / "home")
    page = file.read_bytes().rsplit(b"<!-- fedjob", 1)[0].replace(b">completed</td>", b">failed</td>")
    signature = key.sign(b"fedjob dossier 1\n" + page).hex()
    data = page + f"<!-- fedjob dossier 1 {key.public_key_hex} {signature} -->\n".encode()
    assert open_dossier(data).problems == ("the page says something else than the data for machines in it",)


@pytest.mark.parametrize("content", [{}, {"format": 1}, {"format": 1, "made": {}, "plan": 3}, {"format": 2}])
def test_data_of_another_form_are_refused(home: Path, content: dict[str, object]) -> None:
    key = SealKey(home / "home")
    page = ('<script type="application/json" id="dossier">' + json.dumps(content) + "</script>").encode()
    signature = key.sign(b"fedjob dossier 1\n" + page).hex()
    data = page + f"<!-- fedjob dossier 1 {key.public_key_hex} {signature} -->\n".encode()
    with pytest.raises(DecodeError, match=r"format|lacks"):
        open_dossier(data)


def nested(depth: int) -> object:
    found: object = "x"
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize("made", ["", "9.9"])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("job", "model_args"), nested(900)),
        (("job", "training_args"), nested(400)),
        (("job",), {}),
        (("job", "id"), 3),
        (("job", "researcher_key"), None),
        (("rounds",), [[]]),
        (("plan", "texts_per_node"), []),
        (("verification",), {"round": 1}),
        (("audit_heads",), [3]),
        (("made", "time"), 1e300),
        (("made", "fedjob"), ["9.9"]),
    ],
)
def test_whatever_a_liar_signs_is_refused_in_one_line_or_said_to_be_unchecked(
    file: Path, home: Path, made: str, path: tuple[str, ...], value: object
) -> None:
    key = SealKey(home / "home")
    content = json.loads(json.dumps(open_dossier(file.read_bytes()).content))
    if made:
        content["made"]["fedjob"] = made  # which no page of this fedjob is compared with
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    page = (JSON_OPENS + json.dumps(content).replace("<", "\\u003c") + JSON_CLOSES).encode()
    signature = key.sign(b"fedjob dossier 1\n" + page).hex()
    data = page + f"<!-- fedjob dossier 1 {key.public_key_hex} {signature} -->\n".encode()
    try:
        found = open_dossier(data)
    except DecodeError:
        return
    assert found.problems or "its page was not compared" in found.notes[0]
    assert type(found.content["job"]["id"]) is type(found.content["job"]["researcher"]) is str


def test_a_dossier_is_written_and_checked_by_commands(job: Job, home: Path) -> None:
    def types(*args: object, expect: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "fedjob", *map(str, args)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == expect, done.stderr
        return (
            done.stdout if "--json" in args else done.stdout + done.stderr
        )  # a slow machine's stderr has more

    path = home / "by_command.html"
    assert "fedjob dossier verify by_command.html" in types(
        "job", "dossier", job.id, "--home", home / "home", "-o", path
    )
    key = SealKey.public_of(home / "home")
    assert f"signed by {key}" in types("dossier", "verify", path, "--signer", key[:16])
    assert f"not by {'0' * 64}" in types("dossier", "verify", path, "--signer", "0" * 64, expect=1)
    path.write_bytes(path.read_bytes().replace(b"completed", b"succeeded"))
    assert "it was changed" in types("dossier", "verify", path, expect=1)
    assert json.loads(types("dossier", "verify", path, "--json", expect=1))["valid"] is False
    with pytest.raises(ConfigError, match="exists already"):
        job.dossier(path)
