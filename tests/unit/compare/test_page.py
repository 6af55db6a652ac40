"""The page that `make compare` writes: ratios of pairs, failures as such, and what a peer does better."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest

from benchmarks.compare.__main__ import arguments, chosen, not_yet, turns
from benchmarks.compare.environments import torch_pin
from benchmarks.compare.machine import Machine, processor
from benchmarks.compare.measured import Used, Watched, at, found, last_words, others_share, total_s
from benchmarks.compare.page import page, seconds, section
from benchmarks.compare.work import FEDJOB, PEERS, WORKS, Compared, Form, Pair, Run, Work, orders

ROOT = Path(__file__).parents[3]
MACHINE = Machine("a processor", 2, 24.0, "Linux 6.1", "3.11.7", "0123456789ab", "2026-01-02")
SMALL, LARGE, SIMULATION, _, QUANTIZATION = WORKS
OWN = Run(seconds=(0.1, 0.1, 0.2), first_s=4.0, cpu_s=0.2, memory_mb=900.0, outcome=9.135)
SLOW = Run(seconds=(1.0, 0.9, 1.1), first_s=2.0, cpu_s=0.5, memory_mb=1200.0, outcome=9.135)
FAILED = Run(error="Traceback | of <something>")


def compared(*pairs: Pair) -> Compared:
    return Compared(SMALL, {"flower": list(pairs)})


def runs_of(work: Work, *peers: Run) -> list[Pair]:
    return [Pair(peer, OWN, form) for form in work.forms for peer in peers]


def test_a_ratio_is_that_of_the_medians_of_one_pair() -> None:
    assert Pair(SLOW, OWN).ratio == pytest.approx(10.0)


def test_the_ratio_of_a_work_is_the_middle_of_its_pairs_with_their_range() -> None:
    pairs = [Pair(dataclasses.replace(SLOW, seconds=(each,)), OWN) for each in (0.8, 1.0, 1.3)]
    text = section(compared(*pairs))
    assert "| Flower 1.42.0 | **10.00** (8.00 to 13.00) | **0.50** (0.50 to 0.50) | " in text
    assert "| 3 of 3 |" in text


def test_a_peer_that_is_faster_is_shown_as_faster_and_named_as_better() -> None:
    text = section(compared(Pair(dataclasses.replace(SLOW, seconds=(0.05,)), OWN)))
    assert "| Flower 1.42.0 | **0.50** |" in text
    assert "Flower 1.42.0 needs less for a round (50 ms, fedjob 100 ms)" in text


def test_what_a_slower_peer_does_better_is_on_the_page() -> None:
    text = section(compared(Pair(SLOW, OWN)))
    assert "needs less for until the first round" not in text
    assert (
        "Flower 1.42.0 needs less for the start, until the first round has ended (2.00 s, fedjob 4.00 s)"
        in text
    )
    assert "memory" not in text.rpartition("What a peer does better")[2]


def test_figures_that_hardly_differ_are_not_called_better() -> None:
    near = dataclasses.replace(OWN, seconds=(0.098,))
    text = section(compared(Pair(near, OWN)))
    assert "What a peer does better: nothing of what is measured here." in text


def test_a_run_that_failed_is_shown_as_failed_and_makes_no_ratio() -> None:
    text = section(compared(Pair(SLOW, OWN), Pair(FAILED, OWN)))
    assert "(1 of 2 runs failed: Traceback / of (something))" in text
    assert "| 1 of 2 |" in text


def test_a_peer_all_of_whose_runs_failed_has_a_row_and_no_pair() -> None:
    text = section(compared(Pair(FAILED, OWN)))
    assert "| Flower 1.42.0 | no figures, 1 of 1 runs failed: Traceback / of (something) | | | | |" in text
    assert "| Flower 1.42.0 | no pair | | | | 0 of 1 |" in text
    assert "What a peer does better can't be said" in text


def test_a_run_of_fedjob_that_failed_makes_no_ratio_either() -> None:
    text = section(compared(Pair(SLOW, FAILED)))
    assert "| fedjob | no figures, 1 of 1 runs failed" in text
    assert "no pair" in text


def test_a_peer_that_could_not_be_installed_is_named() -> None:
    text = section(Compared(SMALL, {}, {"nvflare": "it could not be installed: no route"}))
    assert "| NVFlare 2.9.0 | not measured: it could not be installed: no route |" in text


@pytest.mark.parametrize(("others", "disturbed"), [(0.09, False), (0.11, True)])
def test_figures_of_a_busy_machine_say_so(others: float, disturbed: bool) -> None:
    text = section(compared(Pair(SLOW, dataclasses.replace(OWN, others=others))))
    assert ("Other work was running" in text) == disturbed
    assert f"{100 * others:.0f} % in the worst" in text


def test_what_the_run_itself_computes_is_no_other_work() -> None:
    watched = Watched.__new__(Watched)
    watched.history = [(100.0, 0.0), (110.0, 15.0)]
    cores = os.cpu_count() or 1
    assert others_share(15.0, watched, 10.0) == 0.0
    assert others_share(15.0 + 2.5 * cores, watched, 10.0) == pytest.approx(0.25)
    assert others_share(10.0, watched, 10.0) == 0.0


@pytest.mark.parametrize("waited_s", [0.0, 7.0])
def test_what_processes_that_have_ended_have_used_is_no_other_work(waited_s: float) -> None:
    used = {1: Used(0, 1.0, 0.0), 2: Used(1, 2.0, waited_s), 3: Used(2, 4.0, 0.0), 4: Used(3, 3.0, 0.0)}
    assert total_s(used, {1, 2, 3, 4}) == pytest.approx(10.0 + waited_s)
    assert total_s(used, {1, 2}) == pytest.approx(10.0)  # whether 2 has waited for 3 or lets it be forgotten
    used[2] = Used(1, 2.0, 9.0)
    assert total_s(used, {1, 2}) == pytest.approx(12.0)  # it had a child besides that was never seen
    assert total_s(used, {1, 4}) == pytest.approx(15.0)


def test_the_page_has_the_date_the_commit_and_the_machine() -> None:
    text = page([compared(Pair(SLOW, OWN))], MACHINE)
    for each in ("2026-01-02", "revision 0123456789ab", "a processor, 2 cores, 24 GB of memory, Linux 6.1"):
        assert each in text


def test_every_table_of_the_page_has_rows_of_one_length() -> None:
    every = [
        Compared(work, {name: runs_of(work, SLOW, FAILED) for name in work.peers}, {"pfl": "no"})
        for work in WORKS
    ]
    every += [not_yet(work, PEERS) for work in WORKS]
    every += [Compared(work, {name: runs_of(work, FAILED) for name in work.peers}) for work in WORKS]
    for block in re.findall(r"(?:^\|.*\n)+", page(every, MACHINE), re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_the_settings_of_every_framework_on_the_page_are_told() -> None:
    text = page([Compared(SIMULATION, {"pfl": [Pair(SLOW, OWN)]})], MACHINE)
    assert "- pfl 0.6.0: " in text
    assert "- fedjob: " in text
    assert "- NVFlare" not in text


@pytest.mark.parametrize(("value", "shown"), [(0.0851, "85 ms"), (1.234, "1.23 s"), (12.34, "12.3 s")])
def test_seconds_are_shown_as_one_reads_them(value: float, shown: str) -> None:
    assert seconds(value) == shown


def test_each_peer_is_run_beside_fedjob_and_who_begins_changes() -> None:
    flower, nvflare, *_ = PEERS
    assert list(turns([flower, nvflare], 2)) == [
        (flower, True), (nvflare, True), (flower, False), (nvflare, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("only", "works", "peers"),
    [
        (
            [],
            ["small", "large", "simulation", "megabyte", "quantization"],
            ["flower", "nvflare", "pfl", "pfl-threads", "torch"],
        ),
        (["nvflare"], ["small", "large", "quantization"], ["nvflare"]),
        (["quantization", "flower"], [], []),
        (["flower"], ["small", "large", "simulation", "megabyte"], ["flower"]),
        (["pfl"], ["simulation", "megabyte"], ["pfl"]),
        (["torch"], ["simulation", "megabyte"], ["torch"]),
        (["simulation"], ["simulation"], ["flower", "pfl", "pfl-threads", "torch"]),
        (["small", "nvflare"], ["small"], ["nvflare"]),
        (["small", "pfl"], [], []),
    ],
)
def test_what_is_named_is_run(only: list[str], works: list[str], peers: list[str]) -> None:
    found_works, found_peers = chosen(only)
    assert ([each.name for each in found_works], [each.name for each in found_peers]) == (works, peers)


def test_all_frameworks_get_the_same_orders_but_for_the_number_of_rounds_and_processes() -> None:
    for work in WORKS:
        own = orders(work, FEDJOB, Form(), data="images", cores=2)
        for peer in PEERS:
            given = orders(work, peer, Form(), data="images", cores=2)
            apart = {"rounds": own["rounds"], "workers": own["workers"]}
            assert given | apart == own
            assert peer.processes or given["workers"] == 2


def test_each_framework_is_given_the_form_of_parameters_by_its_own_name() -> None:
    form = Form("Int8()", "blockwise8")
    assert orders(QUANTIZATION, FEDJOB, form, data="", cores=2)["form"] == "Int8()"
    assert orders(QUANTIZATION, PEERS[1], form, data="", cores=2)["form"] == "blockwise8"


def over_lines(down_mb: float, form: Form, round_s: float = 1.0) -> Pair:
    """Return a pair in which the peer moves 1 MB more from a node than to it, and fedjob half of both."""
    peer = dataclasses.replace(SLOW, seconds=(round_s,), down_mb=down_mb, up_mb=down_mb + 1)
    return Pair(peer, dataclasses.replace(OWN, down_mb=down_mb / 2, up_mb=down_mb / 2), form)


def test_bytes_over_slow_lines_are_shown_beside_those_without_compression() -> None:
    forms = [Form(), Form("Int8()", "blockwise8")]
    work = dataclasses.replace(QUANTIZATION, forms=tuple(forms))
    pairs = [over_lines(3.5, forms[0]), over_lines(0.5, forms[1])]
    text = section(Compared(work, {"nvflare": pairs}))
    assert re.search(r"\| NVFlare 2.9.0, plain \| .* \| 3.50 MB, 4.50 MB \| 100 % \|", text)
    assert re.search(r"\| NVFlare 2.9.0, blockwise8 \| .* \| 0.50 MB, 1.50 MB \| 25 % \|", text)
    assert re.search(r"\| fedjob, Int8\(\) \| .* \| 0.25 MB, 0.25 MB \| 14 % \|", text)
    assert re.search(
        r"\| NVFlare 2.9.0, blockwise8, beside Int8\(\) \| .* \| \*\*4.00\*\* \| 1 of 1 \|", text
    )


def test_runs_of_fedjob_beside_two_forms_of_a_peer_are_one_row() -> None:
    forms = [Form("Int8()", "blockwise8"), Form("Int8()", "adaquant")]
    work = dataclasses.replace(QUANTIZATION, forms=tuple(forms))
    pairs = [over_lines(0.5, form) for form in forms]
    text = section(Compared(work, {"nvflare": pairs}))
    assert text.count("| fedjob, Int8()") == 1
    assert "n=6) |" in text
    assert "| not known |" in text  # no run without compression to take a share of


def test_a_peer_that_moves_fewer_bytes_is_named_as_better_there() -> None:
    pair = over_lines(0.5, Form("Int8()", "adaquant"))
    turned = Pair(dataclasses.replace(pair.own, seconds=(3.0,)), dataclasses.replace(pair.peer), pair.form)
    text = section(Compared(QUANTIZATION, {"nvflare": [turned]}))
    assert "NVFlare 2.9.0, adaquant needs less for " in text
    assert " and for bytes of a node and round (0.50 MB, fedjob, Int8(), 2.00 MB)" in text


def test_a_work_whose_turn_had_not_come_is_on_the_page_as_such() -> None:
    text = page([compared(Pair(SLOW, OWN)), not_yet(LARGE, PEERS)], MACHINE)
    assert "| NVFlare 2.9.0 | not measured: its turn had not come |" in text
    assert "0 runs failed" not in text


def test_every_script_of_a_peer_exists_and_every_version_is_fixed() -> None:
    for peer in (FEDJOB, *PEERS):
        assert (ROOT / "benchmarks" / "compare" / "peers" / peer.script).is_file()
        assert all(re.fullmatch(r"[\w\[\]-]+==[\d.]+", package) for package in peer.packages)
        assert all(package.rpartition("==")[2] in peer.title for package in peer.packages[:1])


def test_peers_get_the_torch_that_this_checkout_locks() -> None:
    lock = (ROOT / "envs" / "locks" / "cpu.txt").read_text(encoding="utf-8")
    assert torch_pin(lock) in lock
    assert torch_pin(lock).startswith("torch==")
    assert torch_pin(lock).endswith("+cpu")


def test_a_lock_without_torch_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="make lock"):
        torch_pin("numpy==2.0\n")


def test_the_processor_is_read_from_the_system_s_table() -> None:
    assert (
        processor("processor : 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name : Other\n") == "Some CPU @ 2 GHz"
    )


def test_processor_time_between_two_looks_is_on_the_line_between_them() -> None:
    history = [(10.0, 1.0), (12.0, 3.0), (13.0, 3.0)]
    assert [at(history, when) for when in (9.0, 10.0, 11.0, 12.5, 20.0)] == [1.0, 1.0, 2.0, 3.0, 3.0]
    assert at([], 1.0) == 0.0


def test_a_run_s_figures_are_its_rounds_without_the_first() -> None:
    watched = Watched.__new__(Watched)
    watched.history, watched.most_mb = [(100.0, 0.0), (110.0, 20.0)], 50.0
    run = found(100.0, 'a line\n{"ends": [104.0, 105.0, 107.0], "outcome": 2.5}\n', watched)
    assert run == Run(seconds=(1.0, 2.0), first_s=4.0, cpu_s=3.0, memory_mb=50.0, outcome=2.5)


def test_the_bytes_that_lines_carried_are_a_run_s_in_megabytes() -> None:
    watched = Watched.__new__(Watched)
    watched.history, watched.most_mb = [], 0.0
    run = found(0.0, '{"ends": [1, 2], "outcome": 0.9, "moved": {"down": 2e6, "up": 1500000}}', watched)
    assert (run.down_mb, run.up_mb, run.error) == (2.0, 1.5, "")


@pytest.mark.parametrize(
    "output",
    [
        "",
        "no JSON",
        '{"ends": [1.0, 2.0]}',
        '{"ends": "x", "outcome": 1}',
        '{"ends": [1.0], "outcome": 1}',
        '{"ends": [1.0, 2.0], "outcome": 1, "moved": {"down": 1}}',
    ],
)
def test_an_output_without_figures_is_a_failed_run(output: str) -> None:
    watched = Watched.__new__(Watched)
    watched.history, watched.most_mb = [], 0.0
    assert found(0.0, output, watched).error


def test_the_last_words_of_an_output_are_one_line() -> None:
    assert last_words("one\n\n  two\nthree\nfour\n") == "two / three / four"
    assert len(last_words("x" * 1000)) == 300


def test_what_is_typed_is_read() -> None:
    read = arguments(
        [
            "--only",
            "small",
            "--only",
            "flower",
            "--rounds",
            "10",
            "--pairs",
            "3",
            "--patience",
            "2",
            "--minutes",
            "5",
            "--no-page",
        ]
    )
    assert (read.only, read.rounds, read.pairs) == (["small", "flower"], 10, 3)
    assert (read.patience, read.minutes, read.no_page) == (2.0, 5.0, True)


@pytest.mark.parametrize(
    "typed",
    [
        "--only tensorflow",
        "--rounds 1",
        "--rounds x",
        "--pairs 0",
        "--patience 0",
        "--minutes nan",
        "--minutes inf",
    ],
)
def test_what_can_not_be_measured_is_refused(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(typed.split())
    assert "make compare: error: argument" in capsys.readouterr().err


def test_a_peer_in_another_setting_shares_the_environment_and_has_its_own_processes() -> None:
    by_name = {peer.name: peer for peer in PEERS}
    one = by_name["pfl-threads"]
    assert (one.place, one.packages) == (by_name["pfl"].place, by_name["pfl"].packages)
    found = orders(SIMULATION, one, Form(), data="x", cores=2)
    assert (found["workers"], found["threads"]) == (1, 2)
    assert orders(SIMULATION, by_name["pfl"], Form(), data="x", cores=2)["workers"] == 2
