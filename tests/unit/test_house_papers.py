"""What stands beside the code agrees with it: versions, dependencies, links."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(ROOT.glob("fedjob/**/*.py"))

IMPORTED_AS = {
    "mlflow-skinny": "mlflow",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry",
    "opentelemetry-sdk": "opentelemetry",
    "paho-mqtt": "paho",
    "pillow": "PIL",
    "PySocks": "socks",
    "scikit-learn": "sklearn",
    "PyJWT": "jwt",
    "prometheus-client": "prometheus_client",
    "SQLAlchemy": "sqlalchemy",
    "Jinja2": "jinja2",
}
EXTRAS = (
    "hub",
    "node",
    "training",
    "researcher",
    "metrics",
    "tensorboard",
    "mlflow",
    "tracing",
    "wandb",
    "imaging",
    "sql",
    "oidc",
    "s3",
    "page",
    "ray",
)


def settings() -> configparser.ConfigParser:
    read = configparser.ConfigParser()
    read.read(ROOT / "setup.cfg", encoding="utf-8")
    return read


def requirements(*extras: str) -> set[str]:
    """Return the import names of what is always installed and what these extras add."""
    read = settings()
    texts = [read["options"]["install_requires"], *(read["options.extras_require"][e] for e in extras)]
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    names = {re.split(r"[<>=!~\[; ]", line)[0] for line in lines}
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


def imports(path: Path) -> Iterator[str]:
    """Yield every absolute module name that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_the_changelog_opens_with_the_version_of_the_package() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (\S+)", text, re.MULTILINE)
    assert next(h for h in headings if h != "Unreleased") == settings()["metadata"]["version"]


def test_every_dependency_is_used() -> None:
    """Imported, or named to the package that imports it (pyarrow to pandas, httptools to uvicorn)."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    listed = requirements(*EXTRAS)
    assert {name for name in listed if not re.search(rf"\b{name}(\b|_)", code)} == set()


def test_every_import_is_of_a_dependency() -> None:
    of_requests = {"urllib3", "socks"}  # requests[socks] is made of them, and hands their objects out
    of_jinja2 = {"markupsafe"}  # the texts that it hands out
    allowed = requirements(*EXTRAS) | set(sys.stdlib_module_names) | of_requests | of_jinja2
    used = {(name.split(".")[0], path.parent.name) for path in SOURCES for name in imports(path)}
    assert {(name, where) for name, where in used if name not in allowed | {"fedjob"}} == {
        ("pytest", "testing")  # the public suites for third parties' parts run under pytest
    }


LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part == "build" for part in page.relative_to(ROOT).parts)
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_has_a_dead_link(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    dead = []
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            dead.append(target)
    assert dead == []


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+?) *#*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_target_of_the_makefile_is_explained_by_it() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE)) - {"help"}
    assert {name for name in targets if f"make {name}" not in text} == set()


def test_every_target_of_the_makefile_runs_whatever_files_lie_beside_it() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", text, re.MULTILINE)
    phony = [name for names in re.findall(r"^\.PHONY:(.*)", text, re.MULTILINE) for name in names.split()]
    assert sorted(phony) == sorted(targets)


def test_no_file_names_a_folder_that_only_one_machine_has() -> None:
    telling = re.compile(r"(?<![\w.])/(?:root|work|home/\w+)/\w|index-url")
    kinds = {".py", ".md", ".ipynb", ".txt", ".sh", ".yml", ".service", ".conf", ""}
    folders = ("fedjob", "docs", "notebooks", "benchmarks", "envs", "tests", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
    files += [ROOT / "Makefile", ROOT / "setup.cfg", ROOT / "pyproject.toml", *ROOT.glob("*.md")]
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted(files)
        if path.is_file() and path != Path(__file__) and "__pycache__" not in path.parts
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if telling.search(line)
    ]
    assert found == []
