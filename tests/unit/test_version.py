"""Which versions of fedjob work together."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from fedjob._version import __version__, series_of


@pytest.mark.parametrize(
    ("version", "series"),
    [
        ("0.1.0", "0.1"),
        ("0.1.7rc1", "0.1"),
        ("0.12", "0.12"),
        ("1.0.0", "1"),
        ("1.4.2", "1"),
        ("12.0", "12"),
        ("", ""),
    ],
)
def test_before_1_0_the_second_number_makes_the_series_and_from_then_on_the_first(
    version: str, series: str
) -> None:
    assert series_of(version) == series


def test_the_version_is_that_of_the_package() -> None:
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
    assert config["metadata"]["version"] == __version__
