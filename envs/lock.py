"""The lock files of `envs/locks`: each package of an install with its version and the sha256 of its files.

    python envs/lock.py        or:  make lock

What is installed is decided by `setup.cfg` (which packages, from which version on) and `envs/constraints.txt` (exactly
which version); uv asks the package index for all that these need in turn, and for the hashes of every file of those
versions. Kept are the files that fit Linux (x86_64 and aarch64) and CPython 3.11 to 3.14, wheels before sources.
A version that `constraints.txt` does not have yet is added to it: to update one package take its line out, to update
all of them empty the file.

The index offers torch built for CUDA alone; what only that needs stands in `envs/locks/cuda.txt`. A build for the CPU
lies in a folder that `PIP_FIND_LINKS` names: its wheels there, such as `torch-2.13.0+cpu-...whl` for torch 2.13.0, are
hashed and stand in `envs/locks/cpu.txt`, beside those of the same version that another machine's folder had.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "envs" / "constraints.txt"
LOCKS = ROOT / "envs" / "locks"
CPU = LOCKS / "cpu.txt"
BUILD = "build"
"""The lock file of what builds a wheel of fedjob, as pyproject.toml names it."""
INSTALLS = (
    *(BUILD, "hub", "node", "training", "researcher", "demo"),
    *("imaging", "metrics", "oidc", "s3", "sql"),
    "dev",
)
"""The lock files beside `cpu.txt` and `cuda.txt`: those but the first are extras of `setup.cfg`."""
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
LOCK_WITHIN_S = 300.0
_ONLY_FOR_CUDA = ("nvidia-", "cuda-", "triton")
_HEADER = """\
# Made by `make lock`: do not edit. Each file that may be installed for {what}, by its sha256.
#   pip install --require-hashes --no-deps --requirement envs/locks/{name}.txt
"""


@dataclass(frozen=True, slots=True)
class Locked:
    """A package in a lock file.

    Args:
        name: in the index's normal form.
        marker: for which Pythons and machines; empty for all.
        hashes: sha256 of each file that may be installed.
    """

    name: str
    version: str
    marker: str = ""
    hashes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        marker = f" ; {self.marker}" if self.marker else ""
        return " \\\n    ".join(
            [f"{self.name}=={self.version}{marker}", *(f"--hash=sha256:{each}" for each in self.hashes)]
        )


def read_lock(text: str) -> list[Locked]:
    """Return the packages of a lock file."""
    found = []
    for entry in re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines():
        pin, *hashes = re.split(r"\s+--hash=sha256:", entry.strip())
        name, _, rest = pin.partition("==")
        version, _, marker = rest.partition(";")
        found.append(Locked(name.strip(), version.strip(), marker.strip(), tuple(hashes)))
    return found


def read_pins(text: str) -> dict[str, str]:
    """Return the version of each package of a constraints file, by its normal name."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {
        canonicalize_name(name): version
        for name, _, version in (line.partition("==") for line in lines if line)
    }


def packages_of(lock: Mapping[str, Any]) -> list[Locked]:
    """Return the packages of a lock in the format of PEP 751 that fit what fedjob runs on.

    Raises:
        ValueError: a package has no file that fits.
    """
    found = []
    for package in lock["packages"]:
        name, version, marker = package["name"], package["version"], package.get("marker", "")
        if marker and not _fits_somewhere(marker):
            continue
        wheels = [wheel for wheel in package.get("wheels", ()) if fits(_file_of(wheel))]
        files = wheels or ([package["sdist"]] if "sdist" in package else [])
        hashes = {file["hashes"]["sha256"] for file in files}
        if not hashes:
            raise ValueError(
                f"{name} {version} has no file for Linux and CPython {PYTHONS[0]} to {PYTHONS[-1]}"
            )
        found.append(Locked(name, version, marker, tuple(sorted(hashes))))
    return found


def fits(file: str) -> bool:
    """Return whether a wheel can be installed on a system that fedjob runs on."""
    try:
        tags = parse_wheel_filename(file)[3]
    except InvalidWheelFilename:
        return False
    versions = [each.replace(".", "") for each in PYTHONS]
    pure = {"py3", *(f"py{each}" for each in versions)}
    own = {f"cp{each}" for each in versions}
    return any(
        (
            (tag.interpreter in pure and tag.abi == "none")
            or (tag.interpreter in own and tag.abi in (tag.interpreter, "none"))
            or (tag.abi == "abi3" and tag.interpreter.startswith("cp3"))
        )
        and (
            tag.platform == "any"
            or (
                tag.platform.startswith(("manylinux", "musllinux", "linux"))
                and tag.platform.endswith(MACHINES)
            )
        )
        for tag in tags
    )


def _fits_somewhere(marker: str) -> bool:
    return any(
        Marker(marker).evaluate(
            {
                "python_version": python,
                "python_full_version": f"{python}.0",
                "platform_machine": machine,
                "sys_platform": "linux",
                "platform_system": "Linux",
                "os_name": "posix",
                "implementation_name": "cpython",
                "platform_python_implementation": "CPython",
            }
        )
        for python in PYTHONS
        for machine in MACHINES
    )


def _file_of(wheel: Mapping[str, Any]) -> str:
    return str(wheel.get("name") or wheel["url"].rpartition("/")[2]).replace("%2B", "+")


def resolve(install: str) -> dict[str, Any]:
    """Ask the package index, through uv, what an install needs.

    Raises:
        subprocess.CalledProcessError: nothing fits; uv has said why.
    """
    words = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--python-version",
        PYTHONS[0],
    ]
    words += ["--constraint", str(CONSTRAINTS), "--format", "pylock.toml", "--no-header"]
    words += ["-"] if install == BUILD else ["--extra", install, str(ROOT / "setup.cfg")]
    environment = dict(os.environ)
    for pip, uv in (("PIP_CERT", "SSL_CERT_FILE"), ("PIP_INDEX_URL", "UV_DEFAULT_INDEX")):
        if environment.get(pip):
            environment.setdefault(uv, environment[pip])
    built_with = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"][
        "requires"
    ]
    ended = subprocess.run(
        words,
        input="\n".join(built_with),
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=LOCK_WITHIN_S,
        cwd=ROOT,
    )
    return tomllib.loads(ended.stdout)


def builds_for_the_cpu(
    known: Iterable[Locked], locked: Iterable[Locked], folders: Iterable[Path]
) -> list[Locked]:
    """Return the packages of `cpu.txt`: of versions that are locked, those known already and those in these folders."""
    versions = {f"{package.name}=={package.version}+cpu" for package in locked}
    found = {f"{each.name}=={each.version}": set(each.hashes) for each in known}
    for folder in folders:
        for path in sorted(folder.glob("*+cpu-*.whl")):
            name, version, _, _ = parse_wheel_filename(path.name)
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            found.setdefault(f"{name}=={version}", set()).add(sha256)
    return [
        Locked(*pin.split("=="), hashes=tuple(sorted(hashes)))
        for pin, hashes in found.items()
        if pin in versions
    ]


def with_pins(constraints: str, locked: Iterable[Locked]) -> str:
    """Return a constraints file with the versions that it lacks, in alphabetical order.

    Raises:
        ValueError: it has another version of a package.
    """
    pins = read_pins(constraints)
    comments = [line for line in constraints.splitlines() if line.startswith("#")]
    lines = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    for package in locked:
        if package.name not in pins:
            pins[package.name] = package.version
            lines.append(f"{package.name}=={package.version}")
        elif pins[package.name] != package.version:
            raise ValueError(
                f"{package.name}: {pins[package.name]} in constraints.txt, {package.version} found"
            )
    return "\n".join([*comments, *sorted(lines, key=str.lower)]) + "\n"


def main() -> None:
    """Make every lock file anew."""
    named = [Path(word) for word in os.environ.get("PIP_FIND_LINKS", "").split() if Path(word).is_dir()]
    found = {
        name: packages_of(resolve(name)) for name in reversed(INSTALLS)
    }  # the largest decides the versions
    everything = {package.name: package for packages in found.values() for package in packages}
    known = read_lock(CPU.read_text(encoding="utf-8")) if CPU.exists() else []
    _write("cpu", "torch built for the CPU alone", builds_for_the_cpu(known, everything.values(), named))
    constraints = with_pins(CONSTRAINTS.read_text(encoding="utf-8"), everything.values())
    CONSTRAINTS.write_text(constraints, encoding="utf-8")
    cuda = {name: package for name, package in everything.items() if name.startswith(_ONLY_FOR_CUDA)}
    for name, packages in found.items():
        _write(
            name,
            "a build of fedjob" if name == BUILD else f"fedjob[{name}]",
            [package for package in packages if package.name not in cuda],
        )
    _write("cuda", "torch built for CUDA, beside what stands in the others", cuda.values())


def _write(name: str, what: str, packages: Iterable[Locked]) -> None:
    entries = sorted(packages, key=lambda package: package.name)
    text = _HEADER.format(what=what, name=name) + "".join(f"{entry}\n" for entry in entries)
    (LOCKS / f"{name}.txt").write_text(text, encoding="utf-8")
    print(
        f"envs/locks/{name}.txt: {len(entries)} packages, {sum(len(each.hashes) for each in entries)} files"
    )


if __name__ == "__main__":
    try:
        main()
    except (ValueError, subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        sys.exit(f"envs/lock.py: {error}")
