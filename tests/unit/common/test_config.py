from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedjob.common.config import load_config, set_config
from fedjob.common.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    approval: str = field(default="on", metadata={"choices": ("on", "off")})
    workers: int = field(default=1, metadata={"at_least": 1})
    warm_s: float = 600.0
    loud: bool = False


def test_without_a_file_everything_is_at_its_default(tmp_path: Path) -> None:
    assert load_config(Settings, tmp_path, environ={}) == Settings()


@pytest.mark.feature("FB-90")
def test_options_win_over_variables_and_variables_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("workers = 2\nwarm_s = 5\nloud = true\n")
    config = load_config(
        Settings, tmp_path, environ={"FEDJOB_WORKERS": "3", "FEDJOB_WARM_S": "7"}, options={"workers": 4}
    )
    assert config == Settings(workers=4, warm_s=7.0, loud=True)


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("worker = 2\n")
    with pytest.raises(ConfigError, match="did you mean 'workers'"):
        load_config(Settings, tmp_path, environ={})


def test_variables_of_other_roles_are_none_of_its_business(tmp_path: Path) -> None:
    assert load_config(Settings, tmp_path, environ={"FEDJOB_HOME": "/x"}) == Settings()


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("workers", "many", "a whole number"),
        ("workers", "0", "1 or more"),
        ("approval", "maybe", "on or off"),
        ("loud", "perhaps", "on or off"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_the_file_stays(
    tmp_path: Path, key: str, text: str, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        set_config(Settings, tmp_path, key, text)
    assert not (tmp_path / "config.toml").exists()


def test_what_was_set_is_loaded_again(tmp_path: Path) -> None:
    set_config(Settings, tmp_path, "approval", "off")
    set_config(Settings, tmp_path, "loud", "on")
    set_config(Settings, tmp_path, "warm_s", "1.5")
    assert load_config(Settings, tmp_path, environ={}) == Settings(approval="off", loud=True, warm_s=1.5)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("workers = = 2\n")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load_config(Settings, tmp_path, environ={})
