"""Probes of files, links and /proc."""

from __future__ import annotations

from tests.sandbox.probe import Chapter

FILES = Chapter("files")
_add = FILES.add

_READ = {
    "node_key": ("the node's private key", "key"),
    "membership": ("the node's membership", "membership"),
    "settings": ("the node's settings", "config"),
    "database": ("the node's database", "database"),
    "stored_secrets": ("the owner's stored secrets", "secrets"),
    "other_dataset": ("another dataset", "other"),
    "neighbour_file": ("a file beside its dataset", "neighbour"),
    "ssh_key": ("the user's SSH key", "ssh_key"),
    "other_log": ("another task's log", "victim_log"),
    "owners_outputs": ("files kept for the owner", "kept"),
    "release_record": ("the record of what was released", "releases"),
    "node_log": ("the node's log", "node_log"),
    "fetched_object": ("an object of another job", "object"),
    "temporary_file": ("another program's temporary file", "temporary"),
    "shared_memory_file": ("a file in /dev/shm", "shm_file"),
}
for _name, (_what, _at) in _READ.items():
    _add(f"reads_{_name}", f"read {_what}", f'return file_of(at["{_at}"])', secret=True)

_add(
    "queries_the_database",
    "query the node's database",
    """
with sqlite3.connect(f"file:{at['database']}?mode=ro", uri=True) as database:
    return database.execute("select count(*) from sqlite_master").fetchone()[0]
""",
)
_add(
    "lists_the_home",
    "list the node's home",
    'return [n for n in os.listdir(at["home"]) if n in ("keys", "config.toml")]',
)
_add(
    "lists_other_data", "list the folder of other data", 'return os.listdir(at["other_folder"])', secret=True
)
_add(
    "lists_results",
    "list the results of other tasks",
    'return os.listdir(os.path.join(at["home"], "spool", "results"))',
)
_add(
    "finds_files_anywhere",
    "walk through all folders for a planted name",
    """
ends = time.monotonic() + 3
for top in os.listdir("/"):
    if top in ("proc", "sys", "usr", "dev", "lib", "lib64", "bin", "sbin") or sys.prefix.startswith(f"/{top}/.pyenv"):
        continue
    for folder, _, names in os.walk("/" + top):
        if any(re.match("canary-[0-9a-f]{32}", n) for n in names):
            return names
        if time.monotonic() > ends:
            return None
""",
    secret=True,
)
_add("asks_whether_a_key_exists", "learn whether the key exists", 'return os.stat(at["key"]).st_size')
_add(
    "reads_through_proc_self_root",
    "read the key through /proc/self/root",
    'return file_of("/proc/self/root" + at["key"])',
    secret=True,
)
_add(
    "reads_through_proc_self_cwd",
    "read the key by leaving /proc/self/cwd",
    'return file_of("/proc/self/cwd/" + "../" * 40 + at["key"][1:])',
    secret=True,
)
_add(
    "reads_through_dots",
    "read the key by a path of dots",
    'return file_of(os.path.dirname(at["path"]) + "/" + "../" * 40 + at["key"][1:])',
    secret=True,
)
_add(
    "reads_through_the_root_of_others",
    "read the key through the root of another process",
    """
for pid in (1, 2, os.getppid(), at["daemon"], at["server"], at["canary"]):
    try:
        return file_of(f"/proc/{pid}/root" + at["key"])
    except OSError:
        pass
""",
    secret=True,
)
_add(
    "reads_through_the_cwd_of_others",
    "read the settings through the working folder of another process",
    """
for pid in (1, os.getppid(), at["daemon"], at["server"]):
    try:
        os.stat(f"/proc/{pid}/cwd/keys")
        return pid
    except OSError:
        pass
""",
)
_add(
    "leaves_by_an_open_folder",
    "climb out through an inherited folder",
    """
for number in os.listdir("/proc/self/fd"):
    try:
        folder = int(number)
        if stat.S_ISDIR(os.fstat(folder).st_mode):
            for up in range(12):
                try:
                    return file_of(os.open("../" * up + at["key"][1:], os.O_RDONLY, dir_fd=folder))
                except OSError:
                    continue
    except OSError:
        continue
""",
    secret=True,
)
_add(
    "opens_inherited_files",
    "read files that were left open",
    """
found = []
for number in os.listdir("/proc/self/fd"):
    try:
        if stat.S_ISREG(os.fstat(int(number)).st_mode):
            found += secrets_in(os.pread(int(number), 1 << 20, 0))
    except (OSError, ValueError):
        continue
return found
""",
    secret=True,
)
_add(
    "opens_by_handle",
    "open a file by its handle",
    """
handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + b"\\0" * 128)
mount = ctypes.c_int()
call("name_to_handle_at", -100, at["path"].encode(), handle, ctypes.byref(mount), 0)
folder = os.open(os.path.dirname(at["path"]), os.O_RDONLY)
return os.read(call("open_by_handle_at", folder, handle, os.O_RDONLY), 10)
""",
)
_add(
    "links_a_key_into_scratch",
    "read the key by a symbolic link in its scratch",
    """
link = os.path.join(scratch(), me)
os.symlink(at["key"], link)
return file_of(link)
""",
    secret=True,
)
_add(
    "hard_links_a_key",
    "read the key by a hard link in its scratch",
    """
link = os.path.join(scratch(), me)
os.link(at["key"], link)
return file_of(link)
""",
    secret=True,
)
_add(
    "reads_the_disk",
    "read a block device",
    """
for name in ("vda", "sda", "nvme0n1", "xvda", "loop0", "dm-0"):
    try:
        return os.read(os.open(f"/dev/{name}", os.O_RDONLY), 512)
    except OSError:
        continue
""",
)
_add(
    "makes_a_block_device",
    "make a device file of the disk and open it",
    """
numbers = os.stat("/").st_dev
path = os.path.join(scratch(), me)
for major, minor in ((os.major(numbers), os.minor(numbers)), (254, 0), (8, 0), (259, 0)):
    try:
        os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(major, minor))
        return os.read(os.open(path, os.O_RDONLY), 512)
    except OSError:
        if os.path.exists(path):
            os.unlink(path)
""",
)
for _device in (
    "mem",
    "port",
    "kmsg",
    "kvm",
    "fuse",
    "net/tun",
    "loop-control",
    "vsock",
    "userfaultfd",
    "tty1",
    "hwrng",
    "cpu_dma_latency",
    "btrfs-control",
):
    _add(
        f"opens_dev_{_device.replace('/', '_').replace('-', '_')}",
        f"open /dev/{_device}",
        f'return os.open("/dev/{_device}", os.O_RDWR if "{_device}" != "kmsg" else os.O_RDONLY)',
    )
_add("reads_kernel_memory", "read /proc/kcore", 'return os.read(os.open("/proc/kcore", os.O_RDONLY), 64)')
_add(
    "reads_kernel_addresses",
    "read kernel addresses",
    'return [line for line in open("/proc/kallsyms").read(4000).splitlines() if not line.startswith("0" * 16)]',
)
_add("reads_password_hashes", "read /etc/shadow", 'return file_of("/etc/shadow")')
_add(
    "reads_its_environment",
    "find the daemon's environment in its own",
    "return secrets_in(repr(dict(os.environ)))",
    secret=True,
)
_add(
    "reads_its_first_environment",
    "find the daemon's environment in /proc/self/environ",
    'return secrets_in(file_of("/proc/self/environ"))',
    secret=True,
)
_add(
    "searches_its_stack",
    "find the daemon's environment in its own stack",
    """
for line in open("/proc/self/maps"):
    if "[stack]" in line:
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            memory.seek(first)
            return secrets_in(memory.read(last - first))
""",
    secret=True,
)
_add(
    "searches_its_memory",
    "find the daemon's environment in all of its own memory",
    """
found = set()
with open("/proc/self/mem", "rb", buffering=0) as memory:
    for line in open("/proc/self/maps"):
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if "rw" in line.split()[1] and last - first < 1 << 28:
            try:
                memory.seek(first)
                found |= set(secrets_in(memory.read(last - first)))
            except (OSError, OverflowError, ValueError):
                continue
return sorted(found)
""",
    secret=True,
)
_add(
    "reads_the_environment_of_others",
    "read the environment of other processes",
    """
found = []
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) != os.getpid():
        try:
            found += secrets_in(file_of(f"/proc/{name}/environ"))
        except OSError:
            continue
return found
""",
    secret=True,
)
_add(
    "reads_the_commands_of_others",
    "read the command lines of other processes",
    """
found = []
for name in os.listdir("/proc"):
    if name.isdigit():
        try:
            found += secrets_in(file_of(f"/proc/{name}/cmdline"))
        except OSError:
            continue
return found
""",
    secret=True,
)
_add(
    "sees_the_machines_connections",
    "see the machine's connections",
    """
return [line for line in open("/proc/net/tcp") if f":{at['tcp']:04X} " in line]
""",
)
_add(
    "sees_the_machines_unix_sockets",
    "see the machine's unix sockets",
    'return at["abstract"] in open("/proc/net/unix").read()',
)
_add(
    "sees_network_devices",
    "see the machine's network devices",
    'return [n for n in os.listdir("/sys/class/net") if n != "lo"]',
)
_add(
    "reads_descriptors_of_others",
    "open the files that another process holds open",
    """
for pid in (at["canary"], at["daemon"], at["server"], os.getppid(), 1):
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                path = f"/proc/{pid}/fd/{number}"
                if stat.S_ISREG(os.stat(path).st_mode) and (found := secrets_in(file_of(path))):
                    return found
            except OSError:
                continue
    except OSError:
        continue
""",
    secret=True,
)

for _name, (_what, _path) in {
    "settings": ("the node's settings", 'at["config"]'),
    "other_dataset": ("another dataset", 'at["other"]'),
    "neighbour_file": ("a file beside its dataset", 'at["neighbour"]'),
    "shell_profile": ("the user's shell profile", 'at["profile"]'),
    "authorized_keys": ("the user's list of SSH keys", 'at["authorized"]'),
    "other_log": ("another task's log", 'at["victim_log"]'),
    "release_record": ("the record of what was released", 'at["releases"]'),
    "node_log": ("the node's log", 'at["node_log"]'),
}.items():
    _add(
        f"appends_to_{_name}",
        f"append to {_what}",
        f"""
with open({_path}, "ab") as file:
    file.write(b"\\n# " + me.encode() + b"\\n")
""",
    )
for _name, (_what, _path) in {
    "keys": ("the folder of keys", 'os.path.join(at["home"], "keys")'),
    "hooks": ("the folder of hooks", 'os.path.join(at["home"], "hooks")'),
    "results": ("the folder of results", 'os.path.join(at["home"], "spool", "results")'),
    "other_data": ("the folder of other data", 'at["other_folder"]'),
    "own_data": ("the folder of its own data", 'os.path.dirname(at["path"])'),
    "user_home": ("the user's home", 'at["user_home"]'),
    "temporary_folder": ("the machine's temporary folder", 'at["watched"]'),
}.items():
    _add(
        f"adds_a_file_to_{_name}",
        f"put a file into {_what}",
        f"""
folder = {_path}
os.makedirs(folder, exist_ok=True)
with open(os.path.join(folder, me), "w") as file:
    file.write(me)
""",
    )
_add("opens_the_key_for_writing", "open the key for writing", 'return os.open(at["key"], os.O_WRONLY)')
_add(
    "opens_the_database_for_writing",
    "open the database for writing",
    'return os.open(at["database"], os.O_RDWR)',
)
_add("writes_its_own_dataset", "open its own dataset for writing", 'return os.open(at["path"], os.O_WRONLY)')
_add(
    "truncates_its_own_dataset",
    "change the times of its own dataset",
    'os.utime(at["path"], ns=(1, 1))\nreturn "changed"',
)
_add(
    "changes_the_mode_of_its_dataset",
    "change the mode of its own dataset",
    'os.chmod(at["path"], os.stat(at["path"]).st_mode)\nreturn "changed"',
)
_add(
    "renames_its_dataset",
    "rename its own dataset",
    'os.rename(at["path"], at["path"] + me)\nos.rename(at["path"] + me, at["path"])\nreturn "renamed"',
)
_add(
    "marks_its_dataset",
    "set an extended attribute on its own dataset",
    'os.setxattr(at["path"], "user.note", b"x")\nos.removexattr(at["path"], "user.note")\nreturn "set"',
)
_add(
    "deletes_other_data",
    "move a file of another dataset",
    'os.rename(at["spare"], at["spare"] + "." + me)\nos.rename(at["spare"] + "." + me, at["spare"])\nreturn "moved"',
)
_add(
    "writes_fedjob_itself",
    "open fedjob's own source for writing",
    "return os.open(fedjob.__file__, os.O_WRONLY | os.O_APPEND)",
)
_add(
    "writes_a_standard_module",
    "open a module of the interpreter for writing",
    "return os.open(os.__file__, os.O_WRONLY | os.O_APPEND)",
)
_add(
    "writes_the_interpreter",
    "change the mode of the interpreter",
    "os.chmod(sys.executable, os.stat(sys.executable).st_mode)\nreturn 'changed'",
)
_add(
    "writes_a_cron_job",
    "leave a cron job",
    """
path = f"/etc/{me}"
with open(path, "w") as file:
    file.write("# nothing")
os.unlink(path)
return "left"
""",
)
_add(
    "watches_the_key",
    "be notified of what happens to the key",
    """
watch = LIBC.inotify_init1(0)
number = LIBC.inotify_add_watch(watch, at["key"].encode(), 0xFFF)
return number > 0 and number
""",
)
_add(
    "writes_kernel_settings",
    "open a kernel setting for writing",
    'return os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)',
)
_add("opens_the_magic_key", "open /proc/sysrq-trigger", 'return os.open("/proc/sysrq-trigger", os.O_WRONLY)')
_add(
    "writes_sysfs",
    "open a file of /sys for writing",
    """
for path in ("/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/profiling", "/sys/kernel/mm/ksm/run"):
    try:
        return os.open(path, os.O_WRONLY)
    except OSError:
        continue
""",
)
_add(
    "makes_a_control_group",
    "make a control group",
    """
for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu"):
    try:
        os.mkdir(f"{top}/{me}")
        os.rmdir(f"{top}/{me}")
        return top
    except OSError:
        continue
""",
)
_add(
    "escapes_the_killer",
    "be the last that the kernel kills for memory",
    'open("/proc/self/oom_score_adj", "w").write("-900")\nreturn "set"',
)
_add(
    "finds_keys_in_memory",
    "find private keys in inherited memory",
    'return [type(o).__name__ for o in gc.get_objects() if type(o).__name__ in ("Identity", "Ed25519PrivateKey", "NodeHome")]',
)
