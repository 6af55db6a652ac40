"""Probes of persistence: what is left for the next worker, in files and in the worker itself."""

from __future__ import annotations

from tests.sandbox.probe import PAIR, Chapter

PERSISTENCE = Chapter("persistence")


def _add(name: str, tries: str, plant: str, seek: str) -> None:
    PERSISTENCE.add(name, tries, plant, how=PAIR, seek=seek.strip("\n"))


_PLACES = {
    "in_the_working_folder": (
        "a module in the working folder",
        'os.path.join(os.getcwd(), "probe_module_a.py")',
    ),
    "in_the_home": ("a module in the node's home", 'os.path.join(at["home"], "probe_module_b.py")'),
    "first_on_the_path": (
        "a module in the first folder of the import path",
        'os.path.join(sys.path[0] or os.getcwd(), "probe_module_c.py")',
    ),
    "as_a_path_file": (
        "a .pth file among the installed packages",
        'os.path.join(at["site"], "probe_startup.pth")',
    ),
    "as_a_site_module": (
        "a sitecustomize among the installed packages",
        'os.path.join(at["site"], "probe_sitecustomize.py")',
    ),
    "in_the_users_packages": (
        "a module in the user's packages",
        'os.path.join(at["user_home"], ".local", "lib", "probe_usercustomize.py")',
    ),
    "among_fedjobs_modules": (
        "a module inside fedjob",
        'os.path.join(os.path.dirname(fedjob.__file__), "probe_module_d.so")',
    ),
    "in_the_byte_code_cache": (
        "a cached module of fedjob",
        'os.path.join(os.path.dirname(fedjob.__file__), "__pycache__", "probe_module_e.pyc")',
    ),
    "in_the_torch_cache": (
        "a file in torch's cache",
        'os.path.join(at["user_home"], ".cache", "torch", "probe_kernel.so")',
    ),
    "in_the_plots_settings": (
        "settings of matplotlib",
        'os.path.join(at["user_home"], ".config", "matplotlib", "probe_matplotlibrc")',
    ),
    "in_the_compilers_cache": (
        "a file in numba's cache",
        'os.path.join(at["site"], "numpy", "__pycache__", "probe_numba.nbi")',
    ),
    "in_tmp": ("a file in the temporary folder", 'os.path.join("/tmp", "probe_left_in_tmp")'),
    "in_dev_shm": ("a file in /dev/shm", '"/dev/shm/probe_left_in_shm"'),
    "in_var_tmp": ("a file in /var/tmp", '"/var/tmp/probe_left_in_var_tmp"'),
    "as_a_preloaded_library": ("a library to be preloaded", '"/etc/probe.ld.so.preload"'),
    "in_its_scratch": (
        "a file in its scratch, for the next job",
        'os.path.join(os.path.dirname(scratch()), "probe_left_in_scratch")',
    ),
    "beside_its_dataset": (
        "a file beside its dataset",
        'os.path.join(os.path.dirname(at["path"]), "probe_left_beside")',
    ),
    "beside_its_output": (
        "a file beside its output",
        'os.path.join(os.path.dirname(output()), "probe_left_output")',
    ),
}
for _name, (_what, _path) in _PLACES.items():
    _add(
        f"leaves_a_file_{_name}",
        f"leave {_what}",
        f"""
path = {_path}
os.makedirs(os.path.dirname(path), exist_ok=True)
with open(path, "w") as file:
    file.write("# " + me)
""",
        f"""
path = {_path}
found = os.path.exists(path) and open(path).read()
if found:
    os.unlink(path)
return found
""",
    )

_STATE = {
    "a_patched_function": (
        "a patched function",
        "import statistics\nstatistics.mean = lambda values: me",
        "import statistics\nreturn statistics.mean([1, 1]) == me",
    ),
    "a_patched_library": (
        "a patched function of torch",
        "import torch\ntorch.probe = me",
        'import torch\nreturn getattr(torch, "probe", None)',
    ),
    "a_patched_workbench": (
        "a patched class of fedjob",
        "from fedjob.execution.workbench import Workbench\nWorkbench.probe = me",
        'from fedjob.execution.workbench import Workbench\nreturn getattr(Workbench, "probe", None)',
    ),
    "a_patched_reader": (
        "a patched reader of data",
        "import numpy\nnumpy.probe = me",
        'import numpy\nreturn getattr(numpy, "probe", None)',
    ),
    "a_builtin": (
        "a builtin name",
        "import builtins\nbuiltins.probe_builtin = me",
        'import builtins\nreturn getattr(builtins, "probe_builtin", None)',
    ),
    "a_module": (
        "a module that is not there",
        'import types\nsys.modules["probe_not_there"] = types.ModuleType("probe_not_there")',
        'return "probe_not_there" in sys.modules',
    ),
    "an_importer": (
        "an importer of its own",
        "class Probe:\n    @staticmethod\n    def find_spec(name, path=None, target=None):\n        return None\nsys.meta_path.insert(0, Probe)",
        'return [f for f in sys.meta_path if getattr(f, "__name__", "") == "Probe"]',
    ),
    "an_import_path": (
        "a folder on the import path",
        'sys.path.insert(0, "/probe/path")',
        'return "/probe/path" in sys.path',
    ),
    "an_exit_function": (
        "a function that runs at exit",
        'import atexit\natexit.register(lambda: open(os.path.join(at["watched"], me), "w").write(me))\nsys.probe_atexit = me',
        'return getattr(sys, "probe_atexit", None)',
    ),
    "an_audit_hook": (
        "an audit hook",
        "sys.addaudithook(lambda name, args: None)\nsys.probe_hook = me",
        'return getattr(sys, "probe_hook", None)',
    ),
    "a_trace_function": (
        "a trace function",
        "threading.settrace(lambda *a: None)",
        "return threading.gettrace() is not None",
    ),
    "a_thread": (
        "a running thread",
        'threading.Thread(target=time.sleep, args=(60,), name="probe-thread", daemon=True).start()',
        'return [t.name for t in threading.enumerate() if t.name == "probe-thread"]',
    ),
    "a_child": (
        "a running child",
        'run_away("probe-child-of-plant", 20)',
        """
found = []
for name in os.listdir("/proc"):
    try:
        found += [name] if open(f"/proc/{name}/comm").read().startswith("probe-child-of") else []
    except OSError:
        continue
return found
""",
    ),
    "a_variable": (
        "an environment variable",
        'os.environ["LD_PRELOAD_PROBE"] = me\nos.environ["LD_PRELOAD"] = "/nowhere/probe.so"',
        'return os.environ.get("LD_PRELOAD_PROBE") or "probe.so" in os.environ.get("LD_PRELOAD", "")',
    ),
    "a_signal_handler": (
        "a signal handler",
        "signal.signal(signal.SIGUSR1, lambda *a: None)",
        "return signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, signal.SIG_IGN, None)",
    ),
    "a_mask": (
        "a file mask",
        "os.umask(0o017)",
        "mask = os.umask(0o077)\nos.umask(mask)\nreturn mask == 0o017",
    ),
    "a_folder": ("a working folder", 'os.chdir("/usr")', 'return os.getcwd() == "/usr"'),
    "a_limit": (
        "a soft limit",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (333, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))",
        "return resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 333",
    ),
    "its_data": (
        "rows of its data in memory",
        'sys.probe_rows = open(at["path"], "rb").read(100)',
        'return getattr(sys, "probe_rows", None)',
    ),
    "a_type_registry": (
        "a reader in fedjob's registry",
        "from fedjob.protocols import PROTOCOLS\nPROTOCOLS.probe = me",
        'from fedjob.protocols import PROTOCOLS\nreturn getattr(PROTOCOLS, "probe", None)',
    ),
    "a_line_cache": (
        "lines of a source that is not there",
        'import linecache\nlinecache.cache["probe"] = (1, None, ["probe"], "probe")',
        'import linecache\nreturn "probe" in linecache.cache',
    ),
}
for _name, (_what, _plant, _seek) in _STATE.items():
    _add(f"leaves_{_name}", f"leave {_what} in the worker", _plant, _seek)
