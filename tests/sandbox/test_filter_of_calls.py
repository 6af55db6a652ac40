"""The filter of system calls allows what Python and torch need, and nothing by which a worker could get out."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from fedjob.node.sandbox.seccomp import ALLOWED, program
from fedjob.node.sandbox.syscall_numbers import AARCH64, X86_64, numbers_of

MACHINES = (X86_64, AARCH64)
ARCHITECTURE = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS

# the numbers are written out: this list is not made from the one that it checks
DANGEROUS = {
    X86_64: {
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_open": 434, "pidfd_getfd": 438,
        "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "bpf": 321,
        "userfaultfd": 323, "add_key": 248, "request_key": 249, "keyctl": 250, "perf_event_open": 298,
        "personality": 135, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272,
        "setns": 308, "open_by_handle_at": 304, "name_to_handle_at": 303, "init_module": 175, "finit_module": 313,
        "kexec_load": 246, "reboot": 169, "swapon": 167, "settimeofday": 164, "clock_settime": 227, "adjtimex": 159,
        "mknod": 133, "mknodat": 259, "setuid": 105, "setgid": 106, "setgroups": 116, "setresuid": 117,
        "capset": 126, "seccomp": 317, "memfd_create": 319, "memfd_secret": 447, "execveat": 322, "fsopen": 430,
        "move_mount": 429, "open_tree": 428, "mount_setattr": 442, "fanotify_init": 300, "quotactl": 179,
        "syslog": 103, "acct": 163, "ioperm": 173, "iopl": 172, "modify_ldt": 154, "vmsplice": 278, "kcmp": 312,
        "shmget": 29, "shmat": 30, "msgget": 68, "semget": 64, "mq_open": 240, "move_pages": 279, "lookup_dcookie": 212,
        "sethostname": 170, "process_madvise": 440, "landlock_create_ruleset": 444, "vhangup": 153, "nfsservctl": 180,
    },
    AARCH64: {
        "ptrace": 117, "process_vm_readv": 270, "pidfd_getfd": 438, "io_uring_setup": 425, "bpf": 280,
        "userfaultfd": 282, "keyctl": 219, "perf_event_open": 241, "personality": 92, "mount": 40, "umount2": 39,
        "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268, "open_by_handle_at": 265, "finit_module": 273,
        "reboot": 142, "mknodat": 33, "setuid": 146, "setresuid": 147, "capset": 91, "memfd_create": 279,
        "execveat": 281, "fsopen": 430, "mount_setattr": 442, "fanotify_init": 262, "shmget": 194, "mq_open": 180,
        "process_madvise": 440, "kcmp": 272, "sethostname": 161,
    },
}  # fmt: skip


def outcome(steps: bytes, machine: str, number: int, *arguments: int) -> int:
    """Run a filter as the kernel does, on one call."""
    data = struct.pack("iIQ6Q", number, ARCHITECTURE[machine], 0, *arguments, *[0] * (6 - len(arguments)))
    commands = [struct.unpack_from("HBBI", steps, at) for at in range(0, len(steps), 8)]
    place = held = 0
    while True:
        code, yes, no, value = commands[place]
        place += 1
        if code == 0x20:
            (held,) = struct.unpack_from("I", data, value)
        elif code == 0x54:
            held &= value
        elif code == 0x06:
            return int(value)
        else:
            tests = {0x15: held == value, 0x25: held > value, 0x35: held >= value, 0x45: bool(held & value)}
            place += yes if tests[code] else no


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("machine", MACHINES)
def test_no_dangerous_call_passes(machine: str, alone: bool) -> None:
    steps = program(machine, alone=alone, process=42)
    passed = {name for name, number in DANGEROUS[machine].items() if outcome(steps, machine, number) == ALLOW}
    assert passed == set()


@pytest.mark.parametrize("machine", MACHINES)
def test_what_a_plan_needs_passes(machine: str) -> None:
    steps, numbers = program(machine, alone=False), numbers_of(machine)
    assert {
        name for name in ALLOWED & set(numbers) if outcome(steps, machine, numbers[name]) != ALLOW
    } == set()
    assert {"read", "mmap", "futex", "clone", "openat", "execve", "wait4", "getrandom"} <= set(numbers)


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_architecture_end_the_process(machine: str) -> None:
    (other,) = set(MACHINES) - {machine}
    assert outcome(program(machine, alone=False), other, 0) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_are_looked_at(machine: str) -> None:
    numbers, steps = numbers_of(machine), program(machine, alone=False)

    def of(name: str, *arguments: int) -> int:
        return outcome(steps, machine, numbers[name], *arguments)

    threads, fork = 0x3D0F00, 0x1200011
    assert (of("clone", threads), of("clone", fork)) == (ALLOW, ALLOW)
    for namespace in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert of("clone", fork | namespace) == EPERM
    assert of("clone3", 0, 0) == ENOSYS, "the C library then uses clone, whose flags can be seen"
    assert (of("socket", socket.AF_UNIX, 1, 0), of("socket", socket.AF_INET, 1, 0)) == (ALLOW, EPERM)
    for family in (socket.AF_INET6, 16, 17, 31, 38, 40, 44):  # netlink, packet, bluetooth, alg, vsock, xdp
        assert of("socket", family, 3, 0) == EPERM
    assert (of("ioctl", 0, 0x5401), of("ioctl", 0, 0x5412), of("ioctl", 0, 0x541C)) == (ALLOW, EPERM, EPERM)
    assert (of("prctl", 15), of("prctl", 1), of("prctl", 22), of("prctl", 36)) == (ALLOW, EPERM, EPERM, EPERM)
    private, shared = 0x22, 0x21
    assert (of("mmap", 0, 4096, 3, private), of("mmap", 0, 4096, 3, shared)) == (ALLOW, EPERM)
    assert of("mmap", 0, 4096, 3, 0x01) == ALLOW, "a file may be mapped and shared"
    assert outcome(steps, machine, 0x40000000 | 1) == EPERM, "x32"
    assert outcome(steps, machine, 999) == ENOSYS, "a call that is newer than the list"


@pytest.mark.parametrize("machine", MACHINES)
def test_beside_the_nodes_processes_a_worker_starts_none_and_signals_itself_only(machine: str) -> None:
    numbers, steps = numbers_of(machine), program(machine, alone=True, process=42)

    def of(name: str, *arguments: int) -> int:
        return outcome(steps, machine, numbers[name], *arguments)

    assert (of("clone", 0x3D0F00), of("clone", 0x1200011)) == (ALLOW, EPERM)
    assert (of("kill", 42), of("kill", 1), of("kill", (1 << 32) - 1), of("tgkill", 42, 43, 6)) == (
        ALLOW,
        EPERM,
        EPERM,
        ALLOW,
    )
    assert (of("socket", socket.AF_UNIX), of("connect", 3)) == (EPERM, EPERM)
    assert (of("prlimit64", 0), of("prlimit64", 7)) == (ALLOW, EPERM)
    assert of("sched_setaffinity", 7) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_beside_the_nodes_sockets_a_pair_of_sockets_sends_to_nobody_else(machine: str) -> None:
    number, steps = numbers_of(machine)["socketpair"], program(machine, alone=True, process=42)
    unix, flags = socket.AF_UNIX, socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    for kind, result in ((1, ALLOW), (5, ALLOW), (2, EPERM), (3, EPERM), (4, EPERM), (0, EPERM)):
        assert outcome(steps, machine, number, unix, kind) == result
        assert outcome(steps, machine, number, unix, kind | flags) == result
    assert outcome(steps, machine, number, socket.AF_INET, 1) == EPERM
    assert outcome(program(machine, alone=False), machine, number, unix, 2) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_where_landlock_does_not_know_of_it_no_file_is_emptied_that_is_not_opened_to_write(
    machine: str,
) -> None:
    numbers, steps = numbers_of(machine), program(machine, alone=True, process=42)
    empties, creates = 0o1000, 0o100
    for name, place in (("open", 1), ("openat", 2)):
        if name in numbers:
            before = [0] * place
            for mode, result in ((0, EPERM), (1, ALLOW), (2, ALLOW), (3, EPERM)):
                assert outcome(steps, machine, numbers[name], *before, empties | mode) == result
                assert outcome(steps, machine, numbers[name], *before, empties | creates | mode) == result
                assert outcome(steps, machine, numbers[name], *before, mode) == ALLOW
    assert outcome(steps, machine, numbers["truncate"]) == EPERM
    assert outcome(steps, machine, numbers["openat2"]) == EPERM, "its flags can't be seen"


@pytest.mark.parametrize("machine", MACHINES)
def test_devices_of_graphics_cards_have_their_own_control_calls(machine: str) -> None:
    steps, number = program(machine, alone=False, devices=True), numbers_of(machine)["ioctl"]
    assert outcome(steps, machine, number, 0, 0xC0104629) == ALLOW
    for typing_or_owner in (0x5412, 0x541C, 0x5423, 0x8901, 0x8902):
        assert outcome(steps, machine, number, 0, typing_or_owner) == EPERM
