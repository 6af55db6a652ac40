"""A reading aid for owners: where a plan imports, writes, connects or starts something.

It points; it proves nothing. What it does not point at may still do harm, and what
it points at may be right.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import unified_diff
from importlib.util import find_spec

from fedjob.common.checks import printable
from fedjob.common.errors import PlanError
from fedjob.training_plans.source.plan_source import syntax_tree

CHECK_WITHIN_S = 60.0

LONG_GAP_CHARS = 8
"""Blanks inside a line from which on each is drawn."""

LONG_INDENT_CHARS = 40
LONG_LINE_CHARS = 200

_GAP = re.compile(rf"(?<=\S)[ \t]{{{LONG_GAP_CHARS},}}(?=\S)")
_TALKS = frozenset(
    [
        "aiohttp",
        "boto3",
        "fsspec",
        "ftplib",
        "gcsfs",
        "grpc",
        "http",
        "httpx",
        "huggingface_hub",
        "imaplib",
        "mlflow",
        "nntplib",
        "paho",
        "paramiko",
        "poplib",
        "requests",
        "s3fs",
        "smtplib",
        "socket",
        "socketserver",
        "ssl",
        "telnetlib",
        "urllib",
        "urllib3",
        "wandb",
        "webbrowser",
        "websocket",
        "websockets",
        "xmlrpc",
        "zmq",
    ]
)
_OF_MODULES = {
    "asyncio": "can talk to other machines and start programs",
    "atexit": "runs something at the worker's end",
    "base64": "unpacks what the text does not show",
    "binascii": "unpacks what the text does not show",
    "builtins": "reaches the functions that run and open things, by another way",
    "cffi": "calls machine code, past everything that this list sees",
    "code": "runs text as code",
    "codecs": "unpacks what the text does not show, or reads files",
    "codeop": "runs text as code",
    "concurrent": "starts threads or processes",
    "ctypes": "calls machine code, past everything that this list sees",
    "dill": "loads objects that run code",
    "faulthandler": "reads the memory of the process",
    "fcntl": "acts on open files and devices",
    "gc": "reaches every object of the process",
    "glob": "lists files",
    "importlib": "imports what is chosen at run time",
    "inspect": "reads the code and the variables of its callers",
    "io": "reads or writes files",
    "joblib": "loads objects that run code, or starts processes",
    "lzma": "unpacks what the text does not show",
    "marshal": "loads code",
    "mmap": "reads or writes memory and files",
    "multiprocessing": "starts processes",
    "operator": "picks attributes and calls by their names",
    "os": "reaches files, programs and the environment",
    "pathlib": "reads or writes files",
    "pickle": "loads objects that run code",
    "pkgutil": "imports what is chosen at run time",
    "platform": "reads what machine this is",
    "posix": "reaches files, programs and the environment",
    "pty": "starts programs",
    "pwd": "reads the users of the machine",
    "resource": "changes the limits of the process",
    "runpy": "runs files as code",
    "sched": "runs something later",
    "select": "waits for connections",
    "selectors": "waits for connections",
    "shelve": "loads objects that run code",
    "shutil": "copies or deletes files",
    "signal": "acts on processes, or runs something later",
    "site": "imports what is chosen at run time",
    "sqlite3": "reads or writes files",
    "subprocess": "starts programs",
    "sys": "reaches all modules and frames of the process",
    "tempfile": "writes files",
    "threading": "starts threads, which go on by themselves",
    "tarfile": "reads or writes files",
    "types": "makes code and functions",
    "weakref": "runs something when an object ends",
    "zipfile": "reads or writes files",
    "zlib": "unpacks what the text does not show",
    "zipimport": "imports what is chosen at run time",
    "_thread": "starts threads, which go on by themselves",
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILE_CALLS = _words(
    """open fdopen open_code write_text write_bytes read_text read_bytes unlink rename save savez savez_compressed
    savetxt tofile fromfile memmap loadtxt genfromtxt open_memmap symlink_to hardlink_to mkdir rmdir touch iterdir
    rglob scandir listdir from_file save_file load_file extractall imread imsave imwrite savefig"""
)
_LOADERS = _words(
    """load loads Unpickler read_pickle to_pickle find_class load_library load_module exec_module
    load_state_dict_from_url"""
)
_RUNS = _words(
    """exec eval compile execfile run_path run_module runsource breakpoint system popen Popen check_output check_call
    spawn fork forkpty posix_spawn startfile execv execve"""
)
_LATER = _words(
    """Thread Timer Process Pool ThreadPoolExecutor ProcessPoolExecutor start_new_thread create_task run_in_executor
    register_at_fork finalize settrace setprofile addaudithook register_hook register_forward_hook
    register_forward_pre_hook register_full_backward_hook"""
)
_HIDES = _words(
    """getattr setattr delattr hasattr globals locals vars dir __import__ import_module attrgetter methodcaller
    getattr_static resolve_name find_spec reload"""
)
_TABLES = _words(
    """read_csv read_table read_json read_html read_xml read_parquet read_feather read_hdf read_excel read_orc
    read_sql read_sql_query read_sql_table read_fwf read_stata read_sas read_spss read_clipboard to_csv to_json
    to_parquet to_sql to_excel to_feather to_hdf to_html to_xml to_stata to_clipboard urlopen urlretrieve DataSource
    HDFStore ExcelFile File FileHandler SocketHandler HTTPHandler SMTPHandler create_engine load_dataset
    from_pretrained snapshot_download hf_hub_download download download_url"""
)
_REACHES = _words(
    """modules _getframe _current_frames meta_path path_hooks path_importer_cache environ environb putenv f_globals
    f_locals f_back f_builtins gi_frame cr_frame tb_frame co_code func_globals get_objects get_referrers libc CDLL
    PyDLL pythonapi"""
)
_THROUGH = _words(
    """ctypes ctypeslib _C cpp_extension compat f2py distributed os sys builtins subprocess _os _sys importlib socket
    pickle"""
)
_HARMLESS = _words("__init__ __name__ __len__ __doc__ __version__ __call__ __getitem__ __iter__")
_NAMES = _RUNS | _HIDES | {"open", "__builtins__", "__loader__", "__spec__"}
_HANDED_ON = _RUNS | _LATER | {"attrgetter", "methodcaller", "import_module", "fromfile", "read_pickle"}
_UNSEEN = _words(
    """__del__ __reduce__ __reduce_ex__ __getattr__ __getattribute__ __setattr__ __init_subclass__ __set_name__
    __class_getitem__ __instancecheck__ __missing__"""
)
_DRAWS_CODE = re.compile(r"\{[^{}]*(\.|\[)_")


@dataclass(frozen=True, slots=True)
class Remark:
    """A line worth a look.

    Args:
        kind: `import` or `risk`.
    """

    line: int
    kind: str
    text: str


def remarks(text: str) -> list[Remark]:
    """Return what to look at in a plan, by line: what this module finds, and bandit."""
    found = {*own_remarks(text), *_risks(text)}
    return sorted(found, key=lambda remark: (remark.line, remark.kind, remark.text))


def own_remarks(text: str) -> list[Remark]:
    """Return what this module finds in a plan, by line."""
    found = list(_of_lines(text))
    try:
        tree = syntax_tree(text)
    except (SyntaxError, ValueError):
        found.append(Remark(1, "risk", "the text can't be read as Python"))
    else:
        found += [*_imports(tree), *_of_code(tree)]
    return sorted(set(found), key=lambda remark: (remark.line, remark.kind, remark.text))


def visible(line: str) -> str:
    """Return a line of code with tabs, long gaps and whatever does not print drawn as signs."""
    text = "".join(c if c.isprintable() or c == "\t" else f"<U+{ord(c):04X}>" for c in line)
    text = text.replace("\t", "\u2192       ")
    code = text.lstrip(" ")
    indent = len(text) - len(code)
    drawn = re.sub(f" {{{LONG_GAP_CHARS},}}", lambda gap: "\u00b7" * len(gap.group()), code)
    return (" " if indent < LONG_INDENT_CHARS else "\u00b7") * indent + drawn


def numbered(text: str, found: Iterable[Remark]) -> list[str]:
    """Return the text with line numbers, each remark under its line."""
    lines = text.split("\n")[: -1 if text.endswith("\n") else None]
    under: dict[int, list[Remark]] = {}
    for remark in found:
        under.setdefault(remark.line, []).append(remark)
    width = len(str(len(lines)))
    shown = []
    for number, line in enumerate(lines, start=1):
        shown.append(f"{number:>{width}}  {visible(line)}")
        shown += [f"{'':>{width}}  ^ {remark.kind}: {remark.text}" for remark in under.get(number, ())]
    return shown


def differs_only_in_form(one: str, other: str) -> bool:
    """Tell whether two texts mean the same: only comments, blank space or line ends differ.

    A docstring is part of the meaning: a plan can read its own. So is the module that a line stands in.
    """
    from fedjob.training_plans.source.sections import meaning

    try:
        return one != other and meaning(one) == meaning(other)
    except (SyntaxError, ValueError, RecursionError, PlanError):
        return False


def difference(old: str, new: str) -> list[str]:
    """Return the lines that differ, as a unified diff without its head."""
    return list(unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=1))[2:]


def can_look_for_risks() -> bool:
    """True if bandit is installed."""
    return find_spec("bandit") is not None


def _of_lines(text: str) -> Iterator[Remark]:
    """Point at what a screen may put out of sight, and at letters that may look like others."""
    for number, line in enumerate(text.split("\n"), start=1):
        for gap in _GAP.findall(line):
            if not line.split(gap, 1)[1].startswith("#"):
                yield Remark(number, "risk", f"{len(gap)} blanks in one piece: code stands behind them")
        if len(line) - len(line.lstrip()) >= LONG_INDENT_CHARS and line.strip():
            yield Remark(number, "risk", "begins far to the right")
        if len(line) > LONG_LINE_CHARS:
            yield Remark(number, "risk", f"a line of {len(line)} characters: read it to its end")
        if odd := sorted({c for c in line if not c.isascii() and c.isalpha() and not _is_latin(c)}):
            named = ", ".join(f"{c} U+{ord(c):04X}" for c in odd[:5])
            yield Remark(number, "risk", f"letters that may look like others: {named}")


def _is_latin(char: str) -> bool:
    return unicodedata.name(char, "").startswith("LATIN ") and ord(char) < 0x250


def _imports(tree: ast.AST) -> Iterator[Remark]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = ", ".join(alias.name for alias in node.names)
            yield Remark(node.lineno, "import", names)
            for alias in node.names:
                yield from _of_module(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            names = ", ".join(alias.name for alias in node.names)
            yield Remark(node.lineno, "import", f"{node.module}: {names}")
            yield from _of_module(node.lineno, node.module or "")
            for alias in node.names:
                yield from _of_name(node.lineno, alias.name)
                if alias.name in _THROUGH:
                    yield Remark(
                        node.lineno, "risk", f"{alias.name}: a module that is reached through another one"
                    )
                if alias.name == "*":
                    yield Remark(node.lineno, "risk", "brings names in that the text does not show")


def _of_module(line: int, module: str) -> Iterator[Remark]:
    first = module.partition(".")[0]
    if first not in _OF_MODULES and set(module.split(".")[1:]) & (_THROUGH | {"hub", "multiprocessing"}):
        yield Remark(line, "risk", f"{module}: a module that does more than compute")
    if first in _TALKS:
        yield Remark(line, "risk", f"{module}: can talk to other machines")
    elif first in _OF_MODULES and module != "os.path":
        yield Remark(line, "risk", f"{module}: {_OF_MODULES[first]}")


def _of_code(tree: ast.AST) -> Iterator[Remark]:
    """Point at what bandit lets pass: files, effects by other names, names that are made at run time."""
    imported = _imported(tree)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _of_call(node)
        elif isinstance(node, ast.Attribute):
            yield from _of_attribute(node, passed=id(node) not in called)
        elif isinstance(node, ast.Name) and id(node) not in called and isinstance(node.ctx, ast.Load):
            yield from _of_name(node.lineno, node.id)
        elif isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete)):
            yield from _of_change(node, imported)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _of_text(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _of_definition(node)
        elif isinstance(node, ast.ClassDef) and node.keywords:
            yield Remark(
                node.lineno,
                "risk",
                f"class {node.name} is made by {ast.unparse(node.keywords[0].value)[:60]}",
            )
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            yield Remark(node.lineno, "risk", f"changes {', '.join(node.names)} outside of the function")


def _imported(tree: ast.AST) -> set[str]:
    """Return the names that stand for something from elsewhere, those included that were assigned from one."""
    nodes = list(ast.walk(tree))
    found = {
        (alias.asname or alias.name).partition(".")[0]
        for node in nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    for node in nodes:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, (ast.Name, ast.Attribute)):
            continue
        if _root(node.value) in found:
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def _root(node: ast.AST) -> str:
    """Return the name that an expression begins with: `np` of `np.random.seed`; empty for none."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _of_call(node: ast.Call) -> Iterator[Remark]:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    line, is_method = node.lineno, isinstance(node.func, ast.Attribute)
    if any(word.arg == "download" for word in node.keywords) or name.startswith("fetch_"):
        yield Remark(line, "risk", f"{name}(...): fetches something from elsewhere?")
    if is_method and (name == "compile" or (name == "eval" and not node.args)):
        return  # of a pattern, or of a model that is not to train
    if is_method and name in ("load", "loads") and _root(node.func) == "json":
        return
    if name in _FILE_CALLS:
        yield Remark(line, "risk", f"{name}(...): reads or writes a file?")
    elif name in _TABLES:
        yield Remark(line, "risk", f"{name}(...): reads or writes a file, or an address elsewhere?")
    elif name in _LOADERS:
        yield Remark(line, "risk", f"{name}(...): may load objects that run code")
    elif name in _RUNS:
        yield Remark(line, "risk", f"{name}(...): runs text or programs?")
    elif name in _LATER:
        yield Remark(line, "risk", f"{name}(...): something runs beside the plan, or later")
    elif name in _HIDES and not _is_plain_lookup(name, node):
        yield Remark(line, "risk", f"{name}(...): chooses at run time what is used")
    elif name == "type" and len(node.args) > 1:
        yield Remark(line, "risk", "type(...): makes a class at run time")
    elif not name:
        yield Remark(line, "risk", "calls what an expression chooses")


def _is_plain_lookup(name: str, node: ast.Call) -> bool:
    """Tell whether a call names a constant, ordinary attribute: `getattr(x, "shape", None)`."""
    wanted = node.args[1] if len(node.args) > 1 else None
    if name not in ("getattr", "hasattr") or not isinstance(wanted, ast.Constant):
        return False
    text = wanted.value
    return isinstance(text, str) and not text.startswith("_") and text not in _NAMES | _FILE_CALLS | _REACHES


def _of_attribute(node: ast.Attribute, *, passed: bool) -> Iterator[Remark]:
    name, line = node.attr, node.lineno
    if name in ("environ", "environb", "putenv"):
        yield Remark(line, "risk", "reads or changes the environment")
    elif name == "modules" and not passed:
        return  # of a model
    elif name in _REACHES or (name.startswith("__") and name.endswith("__") and name not in _HARMLESS):
        yield Remark(line, "risk", f"{name}: reaches into the interpreter")
    elif passed and name in _HANDED_ON:
        yield Remark(line, "risk", f"{name}: is used under another name, or handed on")
    elif name in _THROUGH:
        yield Remark(line, "risk", f"{name}: a module that is reached through another one")


def _of_name(line: int, name: str) -> Iterator[Remark]:
    if name in _NAMES:
        yield Remark(line, "risk", f"{name}: is used under another name, or handed on")
    elif name in _LATER:
        yield Remark(line, "risk", f"{name}: something runs beside the plan, or later")
    elif name in _REACHES | {"fromfile", "memmap", "system", "popen"}:
        yield Remark(line, "risk", f"{name}: reaches beyond the plan")


def _of_change(
    node: ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete, imported: set[str]
) -> Iterator[Remark]:
    """Point at assignments that change a module or class that is not the plan's own."""
    targets = node.targets if isinstance(node, (ast.Assign, ast.Delete)) else [node.target]
    for target in (one for each in targets for one in ast.walk(each)):
        if isinstance(target, ast.Name) and target.id in _NAMES and not isinstance(target.ctx, ast.Load):
            yield Remark(node.lineno, "risk", f"{target.id} gets another meaning")
        if not isinstance(target, (ast.Attribute, ast.Subscript)) or isinstance(target.ctx, ast.Load):
            continue
        name = _root(target)
        if name in imported or name[:1].isupper() or name in ("cls", "type"):
            yield Remark(node.lineno, "risk", f"changes {name or 'a class'}, which other code uses too")


def _of_text(node: ast.Constant) -> Iterator[Remark]:
    text = str(node.value)
    if re.match(r"(?i)(https?|ftps?|s3|gs|gcs|hf|file|ssh|wss?|mqtts?|tcp|jdbc)://", text.strip()):
        yield Remark(node.lineno, "risk", f"an address: {printable(text)[:60]}")
    elif re.fullmatch(r"(/[\w.@-]+)+/?|~/.*|\.\./.*", text.strip()) and "\n" not in text:
        yield Remark(node.lineno, "risk", f"a path outside of the data: {printable(text)[:60]}")
    elif _DRAWS_CODE.search(text):
        yield Remark(node.lineno, "risk", "a text with a pattern that reaches into what it is filled with")
    elif re.fullmatch(r"__(?!main__)\w+__", text) or text in _RUNS | _HIDES:
        yield Remark(node.lineno, "risk", f"{text!r} as a text: a name that is chosen at run time?")


def _of_definition(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Remark]:
    if node.name in _UNSEEN:
        yield Remark(node.lineno, "risk", f"{node.name}: runs where the text calls nothing")
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = getattr(called, "attr", getattr(called, "id", ""))
        if name in _RUNS | {"register"}:
            yield Remark(
                decorator.lineno, "risk", f"@{name}: the function is handed to something that runs it"
            )


def _risks(text: str) -> Iterator[Remark]:
    """Ask bandit, in a process of its own: it reads the text from its input, and runs nothing of it."""
    if not can_look_for_risks():
        return
    command = [sys.executable, "-m", "bandit", "-q", "-f", "json", "--exit-zero", "--ignore-nosec", "-"]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=CHECK_WITHIN_S)
        results = json.loads(done.stdout)["results"]
    except (subprocess.TimeoutExpired, OSError, ValueError, KeyError):
        yield Remark(1, "risk", "bandit could not read this plan: read it with more care")
        return
    for result in results:
        if result["issue_severity"] == "LOW" and result["test_id"] == "B101":
            continue  # an assert
        where = f"{result['test_id']} {result['test_name']}, {result['issue_severity'].lower()}"
        yield Remark(
            int(result["line_number"]), "risk", f"{result['issue_text'].split(chr(10))[0]} ({where})"
        )
