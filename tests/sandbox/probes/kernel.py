"""Probes of system calls that lead out of a process: kernel interfaces, mounts, namespaces, privileges."""

from __future__ import annotations

from tests.sandbox.probe import Chapter

KERNEL = Chapter("kernel")
_add = KERNEL.add

# (name, what, words of `passes`): none of them can succeed even where they are allowed, as an argument is senseless
for _name, _tries, _call in (
    ("loads_another_kernel", "load another kernel", '"kexec_load", 0, 0, 0, 0xFFFF'),
    (
        "loads_another_kernel_by_file",
        "load another kernel from a file",
        '"kexec_file_load", 0, 0, 0, 0, 0xFFFF',
    ),
    ("restarts_the_machine", "restart the machine (with a wrong number)", '"reboot", 1, 2, 3, 0'),
    ("loads_a_module", "load a kernel module", '"init_module", 0, 0, b""'),
    ("loads_a_module_by_file", "load a kernel module from a file", '"finit_module", 9999, b"", 0'),
    ("unloads_a_module", "unload a kernel module", '"delete_module", b"there is none", 0x800'),
    ("adds_swap", "add swap space", '"swapon", b"/there/is/none", 0'),
    ("removes_swap", "remove swap space", '"swapoff", b"/there/is/none"'),
    (
        "sets_the_clock",
        "set the machine's clock",
        '"clock_settime", 0, ctypes.create_string_buffer(struct.pack("qq", -1, -1))',
    ),
    (
        "sets_the_time_of_day",
        "set the time of day",
        '"settimeofday", ctypes.create_string_buffer(struct.pack("qq", -1, -1)), 0',
    ),
    ("starts_accounting", "start process accounting", '"acct", b"/there/is/none/at/all"'),
    ("sets_quotas", "set disk quotas", '"quotactl", 0x80000600, 0, 0, 0'),
    (
        "reads_cookies",
        "read the kernel's directory cookies",
        '"lookup_dcookie", 1, ctypes.create_string_buffer(10), 10',
    ),
    ("gets_io_ports", "get the right to I/O ports", '"iopl", 9'),
    ("gets_one_io_port", "get one I/O port", '"ioperm", 1 << 20, 1, 1'),
    (
        "adjusts_the_clock",
        "adjust the machine's clock",
        '"adjtimex", ctypes.create_string_buffer(struct.pack("I", 2) + b"\\0" * 300)',
    ),
    ("joins_any_namespace", "enter a namespace", '"setns", 9999, 0'),
    ("moves_pages_of_others", "move another process's memory", '"move_pages", at["daemon"], 0, 0, 0, 0, 0'),
    ("unmounts", "unmount a file system", '"umount2", b"/there/is/none", 0'),
    ("pivots", "change the root", '"pivot_root", b"/there/is/none", b"/there/is/none"'),
    (
        "sets_mount_flags",
        "make mounts writable",
        '"mount_setattr", -100, b"/", 0, ctypes.create_string_buffer(32), 8',
    ),
    ("makes_code_16_bit", "change its segment table", '"modify_ldt", 1, 0, 0'),
):
    _add(_name, _tries, f"return passes({_call})")

for _name, _tries, _code in (
    (
        "makes_an_io_uring",
        "make an io_uring",
        'return call("io_uring_setup", 8, ctypes.create_string_buffer(120))',
    ),
    (
        "makes_a_bpf_map",
        "make a BPF map",
        'return call("bpf", 0, ctypes.create_string_buffer(struct.pack("IIIII", 2, 4, 4, 1, 0) + b"\\0" * 100), 120)',
    ),
    (
        "loads_a_bpf_program",
        "load a BPF program",
        """
code = ctypes.create_string_buffer(bytes((0xB7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0)))
text = ctypes.create_string_buffer(b"GPL")
given = struct.pack("IIQQIIQI", 1, 2, ctypes.addressof(code), ctypes.addressof(text), 0, 0, 0, 0)
return call("bpf", 5, ctypes.create_string_buffer(given + b"\\0" * 100), 120)
""",
    ),
    ("handles_page_faults", "handle page faults of the kernel", 'return call("userfaultfd", 0)'),
    ("handles_own_page_faults", "handle page faults of its own", 'return call("userfaultfd", 1)'),
    (
        "counts_events_of_the_machine",
        "count events of the whole machine",
        'return call("perf_event_open", ctypes.create_string_buffer(struct.pack("IIQ", 1, 112, 0) + b"\\0" * 96), -1, 0, -1, 0)',
    ),
    (
        "counts_events_of_itself",
        "count its own processor events",
        'return call("perf_event_open", ctypes.create_string_buffer(struct.pack("IIQ", 1, 112, 0) + b"\\0" * 96), 0, -1, -1, 0)',
    ),
    (
        "adds_a_key",
        "put a key into the kernel's keyring",
        'return call("add_key", b"user", me.encode(), b"x", 1, -4)',
    ),
    ("joins_a_keyring", "join a session keyring", 'return call("keyctl", 1, 0)'),
    (
        "requests_a_key",
        "ask the kernel for a key",
        'return passes("request_key", b"user", b"there is none", 0, -4)',
    ),
    (
        "reads_the_kernels_log",
        "read the kernel's log",
        'return call("syslog", 3, ctypes.create_string_buffer(4096), 4096)',
    ),
    (
        "watches_every_file",
        "be asked about every file that is opened",
        'return call("fanotify_init", 0x4, 0)',
    ),
    ("watches_files", "be notified about files", 'return call("fanotify_init", 0x200, 0)'),
    (
        "compares_processes",
        "compare its objects with those of the daemon",
        'return passes("kcmp", os.getpid(), at["daemon"], 0, 0, 0)',
    ),
    (
        "names_the_machine",
        "name the machine",
        'name = socket.gethostname().encode()\ncall("sethostname", name, len(name))\nreturn "named"',
    ),
    ("sees_the_machines_name", "see the machine's name", 'return socket.gethostname() == at["hostname"]'),
    ("names_the_domain", "name the domain", 'call("setdomainname", b"(none)", 6)\nreturn "named"'),
    (
        "mounts_memory",
        "mount a file system",
        """
folder = tempfile.mkdtemp(dir=scratch())
call("mount", b"tmpfs", folder.encode(), b"tmpfs", 0, 0)
call("umount2", folder.encode(), 2)
return "mounted"
""",
    ),
    (
        "mounts_processes",
        "mount a proc of its own",
        """
folder = tempfile.mkdtemp(dir=scratch())
call("mount", b"proc", folder.encode(), b"proc", 0, 0)
call("umount2", folder.encode(), 2)
return "mounted"
""",
    ),
    (
        "binds_the_root",
        "bind the root elsewhere",
        """
folder = tempfile.mkdtemp(dir=scratch())
call("mount", b"/", folder.encode(), 0, 4096, 0)
call("umount2", folder.encode(), 2)
return "mounted"
""",
    ),
    (
        "makes_its_root_writable",
        "mount its dataset's file system writable",
        """
folder = os.path.dirname(at["path"]).encode()
call("unshare", 0x20000)
call("mount", 0, folder, 0, 32 | 4096, 0)
return "mounted"
""",
    ),
    ("opens_a_file_system", "open a file system by the newer calls", 'return call("fsopen", b"tmpfs", 0)'),
    ("opens_a_tree", "take a copy of the tree of mounts", 'return call("open_tree", -100, b"/", 1)'),
    ("moves_a_mount", "move a mount", 'return passes("move_mount", 9999, b"", 9999, b"", 0)'),
    ("changes_its_root", "change its root folder", 'call("chroot", scratch().encode())\nreturn "changed"'),
    (
        "leaves_a_changed_root",
        "leave its root by a second one",
        """
folder = os.open("/", os.O_RDONLY)
os.makedirs(os.path.join(scratch(), me))
os.chroot(os.path.join(scratch(), me))
os.fchdir(folder)
for _ in range(40):
    os.chdir("..")
os.chroot(".")
return file_of(at["key"])
""",
    ),
    (
        "makes_a_user_namespace",
        "become root in a user namespace of its own",
        'call("unshare", 0x10000000)\nreturn "made"',
    ),
    (
        "makes_a_user_namespace_by_clone",
        "make a user namespace while forking",
        """
pid = call("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
return "made"
""",
    ),
    (
        "makes_a_user_namespace_by_clone3",
        "make a user namespace by clone3",
        """
given = ctypes.create_string_buffer(struct.pack("QQQQQQQQ", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0))
pid = call("clone3", given, 64)
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
return "made"
""",
    ),
    ("makes_a_mount_namespace", "make a mount namespace", 'call("unshare", 0x20000)\nreturn "made"'),
    ("makes_a_network_namespace", "make a network namespace", 'call("unshare", 0x40000000)\nreturn "made"'),
    ("makes_a_process_namespace", "make a process namespace", 'call("unshare", 0x20000000)\nreturn "made"'),
    (
        "makes_a_group_namespace",
        "make a control group namespace",
        'call("unshare", 0x2000000)\nreturn "made"',
    ),
    (
        "enters_the_namespaces_of_others",
        "enter the mount namespace of another process",
        """
for pid in (1, os.getppid(), at["daemon"], at["server"], at["canary"]):
    try:
        call("setns", os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY), 0)
        return pid
    except OSError:
        continue
""",
    ),
    (
        "runs_setuid_programs",
        "gain privileges by setuid programs",
        """
for program in ("/usr/bin/su", "/usr/bin/mount", "/usr/bin/passwd", "/usr/bin/newgrp", "/usr/bin/chsh", "/usr/bin/sudo"):
    if os.path.exists(program) and os.stat(program).st_mode & stat.S_ISUID:
        if not os.statvfs(program).f_flag & os.ST_NOSUID and "NoNewPrivs:\\t1" not in open("/proc/self/status").read():
            return program
""",
    ),
    (
        "makes_a_setuid_program",
        "make a setuid program that counts",
        """
path = os.path.join(scratch(), me)
shutil.copy("/bin/sh", path)
os.chmod(path, 0o4755)
return bool(os.stat(path).st_mode & stat.S_ISUID) and not os.statvfs(path).f_flag & os.ST_NOSUID
""",
    ),
    ("becomes_another_user", "become another user", "os.setresuid(1, 1, 1)\nreturn os.getuid() == 1"),
    (
        "becomes_root",
        "become root",
        "if os.getuid() == 0:\n    os.setresuid(2, 2, 0)\nos.setresuid(0, 0, 0)\nreturn os.geteuid() == 0",
    ),
    ("changes_its_groups", "join another group", "os.setgroups([4])\nreturn os.getgroups() == [4]"),
    (
        "has_capabilities",
        "have capabilities",
        'return re.findall(r"Cap(?:Eff|Prm|Inh|Amb|Bnd):\\s*0*[1-9a-f]\\w*", open("/proc/self/status").read())',
    ),
    (
        "gains_privileges_by_exec",
        "be able to gain privileges by exec",
        'return "NoNewPrivs:\\t0" in open("/proc/self/status").read()',
    ),
    (
        "is_without_a_filter",
        "have no filter of system calls",
        'return "Seccomp:\\t0" in open("/proc/self/status").read()',
    ),
    (
        "raises_its_capabilities",
        "raise capabilities",
        'call("capset", ctypes.create_string_buffer(struct.pack("II", 0x20080522, 0)), ctypes.create_string_buffer(struct.pack("IIIIII", 1 << 21, 1 << 21, 0, 0, 0, 0)))\nreturn "raised"',
    ),
    (
        "calls_by_the_other_table",
        "call the kernel by its table of the x32 ABI",
        """
if ARM:
    return None
return LIBC.syscall(ctypes.c_long(0x40000000 | 39)) > 0
""",
    ),
    (
        "calls_by_the_old_gate",
        "call the kernel by its 32-bit gate",
        """
if ARM:
    return None
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes((0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3)))
return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))() > 0
""",
    ),
    (
        "changes_its_personality",
        "switch off the protection of its memory",
        'return call("personality", 0x0040000 | 0x0400000) >= 0 and "changed"',
    ),
    (
        "runs_in_real_time",
        "run before everything else",
        'os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))\nreturn "real time"',
    ),
    (
        "takes_priority",
        "take a better priority",
        "os.setpriority(os.PRIO_PROCESS, 0, -10)\nreturn os.getpriority(os.PRIO_PROCESS, 0) == -10",
    ),
    (
        "takes_disk_priority",
        "take the best priority at the disk",
        'call("ioprio_set", 1, 0, 1 << 13)\nreturn "taken"',
    ),
    (
        "raises_its_limits",
        "raise its hard limits",
        """
for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_DATA, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
    hard = resource.getrlimit(limit)[1]
    if hard != resource.RLIM_INFINITY:
        resource.setrlimit(limit, (hard, hard + 1))
        return limit
""",
    ),
    (
        "makes_devices",
        "make a device file",
        "path = os.path.join(scratch(), me)\nos.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))\nreturn os.open(path, os.O_RDONLY)",
    ),
    (
        "locks_memory",
        "lock a lot of memory",
        "area = mmap.mmap(-1, 64 << 20)\nreturn LIBC.mlock(ctypes.addressof(ctypes.c_char.from_buffer(area)), ctypes.c_size_t(64 << 20)) == 0",
    ),
):
    _add(_name, _tries, _code)
