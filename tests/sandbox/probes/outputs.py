"""Probes of outputs: what a worker leaves for its daemon, and what it says on their link."""

from __future__ import annotations

from tests.sandbox.probe import ALONE, Chapter

OUTPUTS = Chapter("outputs")

REFUSED = (
    "", "exception", "decode", "encode", "object_too_large", "worker_died", "no_space", "error", "repository", "timeout", "min_rows",
)  # fmt: skip
"""What a task with an odd output may end with: a reason, or success where only what is odd was left out."""

_KEPT = """
folder = os.path.join(output(), "kept")
os.makedirs(folder, exist_ok=True)
path = os.path.join(folder, me)
"""
_FORGE = """
order, link = here()
path = os.path.join(order.output_path, "params.safetensors")
def forge(**more):
    from fedjob.common.codec import pack
    plain = {"key": order.key, "ok": True, "value": None, "num_examples": 20, "weight": 20.0, **more}
    try:
        with open(os.path.join(order.output_path, "result.mpk"), "wb") as file:
            file.write(pack(plain))
    except OSError:
        pass
    link.send(["result", plain])
    time.sleep(3)
"""


def _add(name: str, tries: str, code: str, **more: object) -> None:
    given = {"how": ALONE, "ends": REFUSED, "limit_s": 6.0, **more}
    OUTPUTS.add(name, tries, code, **given)


for _name, _tries, _code in (
    ("keeps_a_link_to_the_key", "keep a link to the node's key for the owner", 'os.symlink(at["key"], path)'),
    (
        "keeps_a_hard_link_to_the_key",
        "keep a hard link to the node's key",
        'os.link(at["key"], path)\nreturn "linked"',
    ),
    (
        "keeps_a_hard_link_to_its_data",
        "keep a hard link to its dataset",
        'os.link(at["path"], path)\nreturn "linked"',
    ),
    ("keeps_a_fifo", "keep a fifo, at which a reader waits for ever", "os.mkfifo(path)"),
    ("keeps_a_socket", "keep a socket", "socket.socket(socket.AF_UNIX).bind(path[-100:])"),
    ("keeps_a_device", "keep a device file", "os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))"),
    ("keeps_a_hole_of_a_terabyte", "keep a sparse file of 1 TB", 'open(path, "wb").truncate(1 << 40)'),
    (
        "keeps_a_setuid_program",
        "keep a program that runs as the node's user",
        'shutil.copy("/bin/sh", path)\nos.chmod(path, 0o6755)',
    ),
    (
        "keeps_folders_in_folders",
        "keep folders 200 deep",
        'for number in range(200):\n    os.mkdir("d" if number else path) if number else os.mkdir(path)\n    os.chdir("d" if number else path)',
    ),
    (
        "keeps_many_files",
        "keep 20,000 files",
        'for number in range(20000):\n    open(f"{path}-{number}", "w").close()',
    ),
    (
        "keeps_odd_names",
        "keep files with names that steer a terminal",
        'for name in ("\\x1b]0;x\\x07", "new\\nline", "-rf", "a" * 250, "..."):\n    open(os.path.join(folder, name + me if len(name) < 200 else name), "w").close()',
    ),
    (
        "keeps_a_folder_as_a_link",
        "keep a link to the folder of keys as its whole output",
        'os.rmdir(folder)\nos.symlink(os.path.dirname(at["key"]), folder)',
    ),
    (
        "keeps_a_locked_folder",
        "keep a folder that nobody may enter",
        "os.mkdir(path)\nos.chmod(path, 0)\nos.chmod(folder, 0)",
    ),
    (
        "makes_its_output_unreadable",
        "leave an output that nobody may enter",
        'open(os.path.join(output(), me), "w").close()\nos.chmod(output(), 0)',
    ),
):
    _add(_name, _tries, _KEPT + _code)

for _name, _tries, _code in (
    ("sends_the_key_as_parameters", "have the node send its key as parameters, by a link", 'os.symlink(at["key"], path)\nforge(params_path=path)'),
    ("sends_the_key_by_name", "have the node send its key as parameters, by name", 'forge(params_path=at["key"])'),
    ("sends_the_key_by_dots", "have the node send its key as parameters, by dots", 'forge(params_path="../" * 20 + at["key"][1:])'),
    ("sends_a_hard_link_to_the_key", "have the node send its key, by a hard link", 'os.link(at["key"], path)\nforge(params_path=path)'),
    ("sends_a_hard_link_to_other_data", "have the node send another dataset", 'os.link(at["other"], path)\nforge(params_path=path)'),
    ("sends_a_fifo", "have the node wait at a fifo", "os.mkfifo(path)\nforge(params_path=path)"),
    ("sends_a_folder", "have the node read a folder", "os.mkdir(path)\nforge(params_path=path)"),
    ("sends_a_socket", "have the node read a socket", 'os.chdir(order.output_path)\nsocket.socket(socket.AF_UNIX).bind("params.safetensors")\nforge(params_path=path)'),
    ("sends_a_hole_of_a_terabyte", "have the node send a sparse file of 1 TB", 'open(path, "wb").truncate(1 << 40)\nforge(params_path=path)'),
    ("sends_an_endless_device", "have the node read /dev/zero", 'os.symlink("/dev/zero", path)\nforge(params_path=path)'),
    ("sends_an_endless_device_of_its_own", "have the node read a device of its making", "os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))\nforge(params_path=path)"),
    ("sends_nothing", "announce parameters that are not there", "forge(params_path=path)"),
    ("sends_a_growing_file", "have the file grow while it is read", """
def grow():
    with open(path, "ab") as file:
        for _ in range(300):
            file.write(b"x" * (1 << 16))
            file.flush()
threading.Thread(target=grow, daemon=True).start()
forge(params_path=path)
"""),
    ("sends_a_changing_file", "put a link in place of the file while it is read", """
def swap():
    for number in range(3000):
        for target in (at["key"], None):
            other = path + str(number % 2)
            try:
                if target:
                    os.symlink(target, other)
                else:
                    open(other, "wb").write(b"x" * 100)
                os.rename(other, path)
            except OSError:
                pass
threading.Thread(target=swap, daemon=True).start()
time.sleep(0.05)
forge(params_path=path)
"""),
    ("keeps_the_key_as_state", "keep the key as a node state", 'os.symlink(at["key"], os.path.join(order.output_path, "state.safetensors"))\nforge(state_path="x")'),
    ("keeps_no_state", "announce a node state that is not there", 'forge(state_path="x")'),
    ("keeps_a_folder_as_state", "keep a folder as a node state", 'os.mkdir(os.path.join(order.output_path, "state.safetensors"))\nforge(state_path="x")'),
    ("remembers_odd_items", "have the ledger read the key", 'os.symlink(at["key"], os.path.join(order.output_path, "items.json"))\nos.symlink(at["key"], os.path.join(order.output_path, "items.mpk"))\nforge(items_path="x")'),
    ("remembers_no_items", "announce items that are not there", 'forge(items_path="x")'),
    ("claims_rows_beyond_numbers", "claim 10^30 rows", "forge(num_examples=10**15, weight=1e300)"),
    ("claims_a_weight_that_is_none", "claim a weight that is no number", 'forge(weight=float("nan"))'),
    ("claims_fewer_than_no_rows", "claim a negative number of rows", "forge(num_examples=-5, weight=-5.0)"),
    ("answers_for_another_task", "answer in another task's name", 'forge(key=at["victim_key"], value=me)'),
    ("writes_anothers_result", "write a result for another task", """
from fedjob.common.codec import pack
folder = os.path.join(at["home"], "spool", "results", at["next_key"])
os.makedirs(folder)
with open(os.path.join(folder, "result.mpk"), "wb") as file:
    file.write(pack({"key": at["next_key"], "ok": True, "value": me, "num_examples": 20, "weight": 20.0}))
"""),
    ("answers_with_a_reason_of_its_own", "answer with a reason that there is not", 'forge(ok=False, reason="hacked", detail="\\x1b[2J" + "x" * 1000000, message="\\x1b[2J")'),
    ("answers_with_unknown_fields", "answer with fields that there are not", "forge(admin=True)"),
    ("answers_with_wrong_types", "answer with fields of other types", 'forge(metrics="none", timing=[1], items=5)'),
    ("answers_with_depth", "answer with a value 5000 deep", """
value = []
for _ in range(5000):
    value = [value]
try:
    forge(value=value)
except Exception:
    link._socket.sendall(struct.pack("<I", 6002) + b"\\x92\\xa6result" + b"\\x91" * 5993 + b"\\xc0")
    time.sleep(2)
"""),
    ("answers_with_much", "answer with 100 MB of metrics", 'forge(metrics={"train": {"x": "y" * (100 << 20)}})'),
    ("answers_twice", "answer twice", 'link.send(["result", {"key": order.key, "ok": True, "value": 1}])\nforge(value=2)'),
    ("says_nonsense", "say nonsense on its link", 'link._socket.sendall(b"\\xff" * 64)\ntime.sleep(2)'),
    ("says_half_a_message", "say half a message and wait", 'link._socket.sendall(struct.pack("<I", 1000) + b"x")\ntime.sleep(60)'),
    ("announces_too_much", "announce 4 GB on its link", 'link._socket.sendall(struct.pack("<I", 0xFFFFFFFF) + b"x" * 1000)\ntime.sleep(2)'),
    ("speaks_as_the_daemon", "say what only a daemon says", 'link.send(["forked", "x", 1])\nlink.send(["exited", at["daemon"], 0])\ntime.sleep(2)'),
    ("starts_children_without_end", "ask for 2000 child tasks", """
for number in range(2000):
    link.send(["launch", {"number": number, "entry": "probes", "args": {}}])
time.sleep(1)
"""),
    ("waits_for_no_child", "wait for a child that there is not", 'link.send(["wait", 10**9])\ntime.sleep(2)'),
    ("emits_states_of_its_own", "emit the node's own events", 'for name in ("state", "log", "task", "withheld", "result", "failed"):\n    link.send(["event", name, {"state": "completed", "node": "other", "text": me}])\ntime.sleep(0.5)'),
    ("emits_much", "emit an event of 100 MB", 'link.send(["event", "much", {"x": "y" * (100 << 20)}])\ntime.sleep(1)'),
    ("emits_odd_keys", "emit an event with odd names", 'link.send(["event", "\\x1b[2J" * 1000, {"\\x00": {"\\x1b": [[[[[]]]]]}}])\ntime.sleep(0.5)'),
    ("passes_descriptors", "hand the daemon open files with its words", 'for _ in range(200):\n    socket.send_fds(link._socket, [struct.pack("<I", 4) + b"\\x91\\xa2up"], [0] * 50)\ntime.sleep(1)'),
    ("reads_anothers_orders", "read orders that are not its own", 'link._socket.settimeout(1)\nreturn link._socket.recv(100)'),
):  # fmt: skip
    # packing 100 MB takes a worker to within 20 MB of what it may have: on a busy machine that is sometimes too much
    _large = {"ends": (*REFUSED, "out_of_memory")} if "100 MB" in _tries else {}
    _add(_name, _tries, _FORGE + _code, **_large)
