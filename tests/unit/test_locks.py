"""The lock files: what they hold fits setup.cfg, the constraints and what is installed here; and how they are made."""

from __future__ import annotations

import configparser
import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envs.lock import (
    BUILD,
    CONSTRAINTS,
    CPU,
    INSTALLS,
    LOCKS,
    Locked,
    builds_for_the_cpu,
    fits,
    packages_of,
    read_lock,
    read_pins,
    with_pins,
)

ROOT = Path(__file__).parents[2]
MOST_RUNTIME_DEPENDENCIES = 6
HEAVY = {"torch", "numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "matplotlib", "safetensors"}
EXTRAS = [install for install in INSTALLS if install != BUILD]


def lock(name: str) -> dict[str, list[Locked]]:
    """Return the packages of a lock file; one may stand there once for each of several Pythons."""
    found: dict[str, list[Locked]] = {}
    for package in read_lock((LOCKS / f"{name}.txt").read_text(encoding="utf-8")):
        found.setdefault(package.name, []).append(package)
    return found


def needs(extra: str = "") -> list[Requirement]:
    """Return what setup.cfg asks for in the base and in an extra, with the extras of fedjob that it names."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["install_requires"].split()
    if extra:
        for line in config["options.extras_require"][extra].split():
            requirement = Requirement(line)
            if requirement.name == "fedjob":
                lines += [str(need) for each in requirement.extras for need in needs(each)]
            else:
                lines.append(line)
    return [Requirement(line) for line in dict.fromkeys(lines)]


def test_the_base_has_six_dependencies_and_no_library_for_training() -> None:
    names = {canonicalize_name(need.name) for need in needs()}
    assert len(names) <= MOST_RUNTIME_DEPENDENCIES
    assert not names & HEAVY


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_lock_has_a_version_that_fits_of_everything_that_its_extra_needs(extra: str) -> None:
    locked = lock(extra)
    for need in needs(extra):
        found = locked.get(canonicalize_name(need.name), [])
        assert found, f"{need.name} is not in envs/locks/{extra}.txt: run `make lock`"
        assert all(package.version in need.specifier for package in found), need


@pytest.mark.parametrize("name", [*INSTALLS, "cuda", "cpu"])
def test_every_locked_package_has_hashes_and_the_version_of_the_constraints(name: str) -> None:
    pins = read_pins(CONSTRAINTS.read_text(encoding="utf-8"))
    for packages in lock(name).values():
        for package in packages:
            assert package.version.removesuffix("+cpu") == pins[package.name], "run `make lock`"
            assert package.hashes
            assert all(len(each) == 64 and set(each) <= set("0123456789abcdef") for each in package.hashes)


@pytest.mark.parametrize("name", ["hub", "node"])
def test_a_hub_and_a_node_that_lists_its_data_need_no_library_for_training(name: str) -> None:
    assert not set(lock(name)) & HEAVY


def test_what_is_installed_here_is_what_is_locked() -> None:
    wrong = []
    for name, packages in lock("dev").items():
        here = [each for each in packages if not each.marker or Marker(each.marker).evaluate()]
        found = importlib.metadata.version(name).partition("+")[0] if here else ""
        wrong += [f"{name}: {found}, not {each.version}" for each in here if each.version != found]
    assert wrong == []


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("six-1.17.0-py2.py3-none-any.whl", True),
        ("numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", True),
        ("numpy-2.4.6-cp314-cp314-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl", True),
        ("cryptography-50.0.2-cp39-abi3-musllinux_1_2_x86_64.whl", True),
        ("ruff-0.17.6-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("backrefs-8.3.1-py311-none-any.whl", True),
        ("backrefs-8.3.1-py310-none-any.whl", False),
        ("numpy-2.4.6-cp311-cp311-win_amd64.whl", False),
        ("numpy-2.4.6-cp311-cp311-macosx_14_0_arm64.whl", False),
        ("numpy-2.4.6-cp314-cp314t-manylinux_2_27_x86_64.whl", False),
        ("numpy-2.4.6-cp310-cp310-manylinux_2_27_x86_64.whl", False),
        ("numpy-2.4.6-pp311-pypy311_pp73-manylinux_2_27_x86_64.whl", False),
        ("numpy-2.4.6-cp311-cp311-manylinux_2_31_riscv64.whl", False),
        ("no wheel.zip", False),
    ],
)
def test_a_wheel_is_locked_if_it_fits_a_system_that_fedjob_runs_on(file: str, expected: bool) -> None:
    assert fits(file) is expected


def package(name: str, *files: str, **more: Any) -> dict[str, Any]:
    wheels = [{"url": f"x/{file}", "hashes": {"sha256": f"{n:064d}"}} for n, file in enumerate(files, 1)]
    return {"name": name, "version": "1", "wheels": wheels, **more}


def test_wheels_come_before_sources_and_what_no_system_wants_is_left_out() -> None:
    sdist = {"hashes": {"sha256": "f" * 64}}
    found = packages_of(
        {
            "packages": [
                package("a", "a-1-py3-none-any.whl", "a-1-cp311-cp311-win32.whl", sdist=sdist),
                package("b", "b-1-cp311-cp311-win32.whl", sdist=sdist),
                package("c", "c-1-py3-none-any.whl", marker="sys_platform == 'win32'"),
                package("d", "d-1-py3-none-any.whl", marker="python_full_version >= '3.12'"),
            ]
        }
    )
    assert found == [
        Locked("a", "1", "", (f"{1:064d}",)),
        Locked("b", "1", "", ("f" * 64,)),
        Locked("d", "1", "python_full_version >= '3.12'", (f"{1:064d}",)),
    ]
    assert read_lock("# c\n" + "".join(f"{each}\n" for each in found)) == found
    with pytest.raises(ValueError, match="c 1 has no file for Linux"):
        packages_of({"packages": [package("c", "c-1-cp311-cp311-win32.whl")]})


def test_a_build_for_the_cpu_is_hashed_and_kept_where_its_folder_is_not_there(tmp_path: Path) -> None:
    locked = [Locked("torch", "2.13.0")]
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").write_bytes(b"one")
    (tmp_path / "torch-2.12.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").write_bytes(b"older")
    found = builds_for_the_cpu([], locked, [tmp_path])
    assert found == [Locked("torch", "2.13.0+cpu", "", (hashlib.sha256(b"one").hexdigest(),))]
    (tmp_path / "torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl").write_bytes(b"two")
    both = builds_for_the_cpu(found, locked, [tmp_path])
    assert set(both[0].hashes) == {hashlib.sha256(each).hexdigest() for each in (b"one", b"two")}
    assert builds_for_the_cpu(both, locked, []) == both
    assert builds_for_the_cpu(both, [Locked("torch", "2.14.0")], []) == []
    assert CPU.exists()


def test_the_constraints_get_what_they_lack_and_no_other_version_of_what_they_have() -> None:
    given = "# first\nPyYAML==6\nb==1\n"
    assert with_pins(given, [Locked("a", "3"), Locked("pyyaml", "6")]) == "# first\na==3\nb==1\nPyYAML==6\n"
    with pytest.raises(ValueError, match=r"b: 1 in constraints.txt, 2 found"):
        with_pins(given, [Locked("b", "2")])
