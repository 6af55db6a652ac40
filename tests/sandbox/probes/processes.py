"""Probes of other processes: reading, steering and ending them, and what the machine shares between them."""

from __future__ import annotations

from tests.sandbox.probe import Chapter

PROCESSES = Chapter("processes")
_add = PROCESSES.add

for _who, _at in (("a_neighbour", "canary"), ("the_daemon", "daemon"), ("the_fork_server", "server")):
    _add(
        f"traces_{_who}",
        f"attach to {_who.replace('_', ' ')}",
        f'call("ptrace", 0x4206, at["{_at}"], 0, 0)\nreturn "attached"',
    )
    _add(
        f"signals_{_who}",
        f"send signals to {_who.replace('_', ' ')}",
        f'os.kill(at["{_at}"], 0)\nreturn "sent"',
    )
    _add(
        f"opens_{_who}",
        f"open {_who.replace('_', ' ')} by a process descriptor",
        f'return call("pidfd_open", at["{_at}"], 0)',
    )
    _add(
        f"reads_the_memory_of_{_who}",
        f"open the memory of {_who.replace('_', ' ')}",
        f'return os.open("/proc/{{}}/mem".format(at["{_at}"]), os.O_RDWR)',
    )
    _add(
        f"limits_{_who}",
        f"read and set limits of {_who.replace('_', ' ')}",
        f'limit = resource.prlimit(at["{_at}"], resource.RLIMIT_NOFILE)\nresource.prlimit(at["{_at}"], resource.RLIMIT_NOFILE, limit)\nreturn limit',
    )
    _add(
        f"slows_{_who}",
        f"set the priority of {_who.replace('_', ' ')}",
        f'os.setpriority(os.PRIO_PROCESS, at["{_at}"], os.getpriority(os.PRIO_PROCESS, at["{_at}"]))\nreturn "set"',
    )

for _name, _tries, _code, _secret in (
    ("sees_others", "see other processes", "return os.path.exists(f\"/proc/{at['canary']}/stat\")", False),
    (
        "reads_memory_by_address",
        "read another process's memory",
        """
there, here_ = at["canary_address"], ctypes.create_string_buffer(64)
local = struct.pack("QQ", ctypes.addressof(here_), 64)
remote = struct.pack("QQ", there, 64)
call("process_vm_readv", at["canary"], ctypes.create_string_buffer(local), 1, ctypes.create_string_buffer(remote), 1, 0)
return here_.raw
""",
        True,
    ),
    (
        "writes_memory_by_address",
        "write into another process's memory",
        """
here_ = ctypes.create_string_buffer(me.encode())
local = struct.pack("QQ", ctypes.addressof(here_), len(me))
remote = struct.pack("QQ", at["canary_address"] + 64, len(me))
call("process_vm_writev", at["canary"], ctypes.create_string_buffer(local), 1, ctypes.create_string_buffer(remote), 1, 0)
return "written"
""",
        False,
    ),
    (
        "takes_a_descriptor",
        "take an open file out of another process",
        'return os.pread(call("pidfd_getfd", call("pidfd_open", at["canary"], 0), at["canary_fd"], 0), 100, 0)',
        True,
    ),
    (
        "signals_by_descriptor",
        "send a signal by a process descriptor",
        'call("pidfd_send_signal", call("pidfd_open", at["canary"], 0), 0, 0, 0)\nreturn "sent"',
        False,
    ),
    (
        "signals_a_thread",
        "send a signal to a thread of the daemon",
        'call("tgkill", at["daemon"], at["daemon"], 0)\nreturn "sent"',
        False,
    ),
    (
        "queues_a_signal",
        "queue a signal for the daemon",
        'call("rt_sigqueueinfo", at["daemon"], 0, ctypes.create_string_buffer(struct.pack("iii", 0, 0, -1) + bytes(116)))\nreturn "queued"',
        False,
    ),
    (
        "signals_the_group",
        "send a signal to the daemon's group",
        'os.killpg(at["group"], 0)\nreturn "sent"',
        False,
    ),
    (
        "pins_the_daemon",
        "pin the daemon to processors",
        'os.sched_setaffinity(at["daemon"], os.sched_getaffinity(at["daemon"]))\nreturn "pinned"',
        False,
    ),
    (
        "advises_the_daemon",
        "throw the daemon's memory out",
        'return passes("process_madvise", call("pidfd_open", at["daemon"], 0), 0, 0, 21, 0)',
        False,
    ),
    (
        "asks_for_a_robust_list",
        "learn the addresses of the daemon's locks",
        'return call("get_robust_list", at["daemon"], ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)) == 0',
        False,
    ),
    (
        "sends_a_signal_by_a_file",
        "have the kernel signal the daemon",
        'one, other = socket.socketpair()\nfcntl.fcntl(one, fcntl.F_SETOWN, at["daemon"])\nreturn "set"',
        False,
    ),
    (
        "traces_its_parent",
        "attach to its parent's parent",
        'for line in open(f"/proc/{os.getppid()}/status"):\n    if line.startswith("PPid:") and int(line.split()[1]) > 0:\n        call("ptrace", 0x4206, int(line.split()[1]), 0, 0)\n        return line',
        False,
    ),
    (
        "reads_shared_memory_segments",
        "read a shared memory segment of another program",
        """
number = call("shmget", at["shm_key"], 0, 0)
LIBC.shmat.restype = ctypes.c_void_p
return ctypes.string_at(LIBC.shmat(number, None, 0o10000), 100)
""",
        True,
    ),
    (
        "finds_message_queues",
        "find a message queue of another program",
        'return call("msgget", at["shm_key"], 0) >= 0',
        False,
    ),
    (
        "finds_semaphores",
        "find semaphores of another program",
        'return call("semget", at["shm_key"], 0, 0) >= 0',
        False,
    ),
    (
        "opens_posix_queues",
        "open a queue of another program",
        'return call("mq_open", at["queue"].encode(), os.O_RDONLY, 0, 0) >= 0',
        False,
    ),
    (
        "leaves_a_shared_memory_segment",
        "leave shared memory behind",
        'number = call("shmget", 0x5EED, 4096, 0o1600)\nLIBC.shmctl(number, 0, None)\nreturn os.stat("/proc/self/ns/ipc").st_ino == at["ipc"]',
        False,
    ),
    (
        "listens_to_the_neighbours_files",
        "read what a neighbour holds open",
        "return file_of(f\"/proc/{at['canary']}/fd/{at['canary_fd']}\")",
        True,
    ),
):
    _add(_name, _tries, _code, secret=_secret)
