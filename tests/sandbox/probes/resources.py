"""Probes of what a machine has little of: processes, memory, disk, descriptors, time."""

from __future__ import annotations

from tests.sandbox.probe import ALONE, Chapter

RESOURCES = Chapter("resources")
_add = RESOURCES.add

_add(
    "forks_without_end",
    "have 600 processes at the same time",
    """
pids = []
try:
    for _ in range(600):
        pid = os.fork()
        if pid == 0:
            signal.alarm(5)
            signal.pause()
            os._exit(0)
        pids.append(pid)
except OSError:
    pass
for pid in pids:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
return len(pids) == 600
""",
)
_add(
    "starts_threads_without_end",
    "have 4000 threads",
    """
threading.stack_size(65536)
ends = threading.Event()
count = 0
try:
    for _ in range(4000):
        threading.Thread(target=ends.wait, daemon=True).start()
        count += 1
except RuntimeError:
    pass
ends.set()
return count == 4000
""",
)
_add(
    "takes_private_memory",
    "take more memory than a worker may",
    """
area = bytearray(at["memory"] + (100 << 20))
return len(area)
""",
)
_add(
    "takes_shared_memory",
    "take more shared memory than a worker may",
    """
area = mmap.mmap(-1, at["memory"] + (300 << 20))
for place in range(0, len(area), 4096):
    area[place] = 1
return len(area)
""",
)
_add(
    "takes_memory_by_files",
    "take more memory by files in memory",
    """
file = os.memfd_create(me)
block = b"x" * (8 << 20)
for _ in range((at["memory"] + (300 << 20)) // len(block)):
    os.write(file, block)
return "taken"
""",
)
_add(
    "takes_memory_in_dev_shm",
    "take more memory in /dev/shm",
    """
path = f"/dev/shm/{me}"
try:
    with open(path, "wb") as file:
        for _ in range((at["memory"] + (300 << 20)) >> 23):
            file.write(b"x" * (8 << 20))
    return "taken"
finally:
    os.unlink(path)
""",
)
_add(
    "takes_memory_by_children",
    "take three workers' memory in children",
    """
size = at["memory"] // 4
pids = []
reading, writing = os.pipe()
for _ in range(12):
    pid = os.fork()
    if pid == 0:
        try:
            LIBC.prctl(15, me.encode())
            area = bytearray(b"x") * size
            os.write(writing, b"x")
            time.sleep(8)
        finally:
            os._exit(0)
    pids.append(pid)
time.sleep(5)
return len(os.read(reading, 100)) == 12
""",
    how=ALONE,
    limit_s=20.0,
    ends=("out_of_memory",),
)
_add(
    "writes_a_huge_file",
    "write 6 GB of holes into its scratch",
    """
with open(os.path.join(scratch(), me), "wb") as file:
    file.truncate(6 << 30)
    file.seek(6 << 30)
    file.write(b"x")
return os.stat(os.path.join(scratch(), me)).st_size
""",
)
_add(
    "promises_a_terabyte",
    "make a sparse file of 1 TB",
    """
path = os.path.join(scratch(), me)
with open(path, "wb") as file:
    file.truncate(1 << 40)
os.unlink(path)
return "made"
""",
)
_add(
    "fills_its_scratch",
    "write more than it may into its scratch",
    """
path = os.path.join(scratch(), me)
try:
    with open(path, "wb") as file:
        for _ in range((at["scratch_bytes"] >> 23) + 8):
            file.write(b"x" * (8 << 20))
            file.flush()
    return "written"
finally:
    os.unlink(path)
""",
)
_add(
    "fills_its_output",
    "write more than it may into its output",
    """
path = os.path.join(output(), me)
try:
    with open(path, "wb") as file:
        for _ in range((at["scratch_bytes"] >> 23) + 8):
            file.write(b"x" * (8 << 20))
            file.flush()
    return "written"
finally:
    os.unlink(path)
""",
)
_add(
    "makes_files_without_end",
    "have no limit on the number of its files",
    """
limit = os.statvfs(scratch()).f_files
return not 0 < limit <= 1 << 18
""",
)
_add(
    "opens_many_files",
    "have 70,000 files open",
    """
count = 0
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
files = []
try:
    while count < 70000:
        files.append(os.dup(0))
        count += 1
except OSError:
    pass
for file in files:
    os.close(file)
return count == 70000
""",
)
_add(
    "writes_core_files",
    "leave a core file",
    """
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
return hard != 0 and hard
""",
)
_add(
    "computes_without_end",
    "compute for longer than its task may",
    """
while True:
    pass
""",
    how=ALONE,
    limit_s=1.0,
    ends=("timeout",),
)
_add(
    "computes_in_children_without_end",
    "compute in children for longer than its task may",
    """
for _ in range(4):
    if os.fork() == 0:
        LIBC.prctl(15, me.encode())
        while True:
            pass
time.sleep(60)
""",
    how=ALONE,
    limit_s=1.0,
    ends=("timeout",),
)
_add(
    "returns_a_huge_value",
    "return 260 MB",
    'return {"x": b"x" * (260 << 20)}',
    how=ALONE,
    ends=("encode", "object_too_large", "out_of_memory", "exception"),
)
_add(
    "prints_a_gigabyte",
    "print a gigabyte",
    """
text = "x" * (1 << 20)
for _ in range(1024):
    sys.stdout.write(text)
""",
    how=ALONE,
)
_add(
    "writes_a_log_from_c",
    "write 200 MB past the limit of its log",
    """
block = b"x" * (1 << 20)
for _ in range(200):
    os.write(1, block)
time.sleep(0.3)
return os.fstat(1).st_size > (190 << 20)
""",
    how=ALONE,
    ends=("", "worker_died", "exception"),
)
_add(
    "emits_without_end",
    "emit 100,000 events",
    """
order, link = here()
for number in range(100000):
    link.send(["event", "noise", {"number": number, "text": me}])
""",
    how=ALONE,
    limit_s=20.0,
    ends=("", "worker_died", "timeout"),
)
