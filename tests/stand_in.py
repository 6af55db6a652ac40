"""The interpreter that processes forked by `tests.preloaded` know as theirs: what they start with it is forked, too.

It is started in place of Python, has the server fork a process that runs the same words with the same streams,
descriptors, environment and folder, and stands in for it: it passes signals on and ends as that process does. What the
server can't fork, it leaves to Python itself. It uses built-in modules alone, because starting it must cost next to
nothing.
"""

import _signal
import _socket
import posix
import sys

PASSED_ON = (1, 2, 3, 10, 12, 15)  # SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM


def as_usual() -> None:
    """Be Python."""
    posix.execv(sys.executable, [sys.executable, *sys.argv[1:]])


def inherited() -> list[int]:
    """Return the descriptors that a process started with this interpreter would have."""
    found = [0, 1, 2]
    for name in posix.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and posix.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:  # that of the list itself
            continue
    return found


def request(descriptors: list[int]) -> bytes:
    """Return what the server is asked for: folder, descriptors and words, each with their number, and settings."""
    words = [word.encode("utf-8", "surrogateescape") for word in sys.argv]
    numbers = [str(number).encode() for number in descriptors]
    settings = [name + b"=" + value for name, value in posix.environ.items()]
    counts = [str(len(part)).encode() for part in (numbers, words)]
    return b"\0".join([posix.getcwdb(), *counts, *numbers, *words, *settings])


def main() -> None:
    """Have the words of this process run by a forked one."""
    first = [word for word in sys.argv[1:3] if word not in ("-P", "-u")][:1]
    if not first or (first[0].startswith("-") and first[0] not in ("-m", "-c")):
        as_usual()
    line = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    descriptors = inherited()
    rights = b"".join(number.to_bytes(4, sys.byteorder) for number in descriptors)
    try:
        line.connect(sys.argv[0].rpartition("/")[0] + "/door")
        line.sendmsg([request(descriptors)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        pid = int(line.recv(64) or b"0")
    except OSError:
        pid = 0
    if not pid:
        as_usual()

    def pass_on(number: int, frame: object) -> None:
        try:  # noqa: SIM105 (contextlib is not built in)
            posix.kill(pid, number)
        except ProcessLookupError:
            pass  # it has ended: so does this process

    for number in PASSED_ON:
        _signal.signal(number, pass_on)
    name = posix.open("/proc/self/comm", posix.O_WRONLY)
    posix.write(name, b"for %d" % pid)
    posix.close(name)
    nothing = posix.open("/dev/null", posix.O_RDWR)
    for number in descriptors:  # so that they are closed as soon as the forked process closes them
        if number > 2:
            posix.close(number)
        else:
            posix.dup2(nothing, number)
    status = int(line.recv(64) or b"-9")
    if status < 0:
        if status != -9:
            _signal.signal(-status, _signal.SIG_DFL)
        posix.kill(posix.getpid(), -status)
    posix._exit(status)


main()
