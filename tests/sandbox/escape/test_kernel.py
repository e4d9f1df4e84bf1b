"""Programs that want to use what else a kernel offers."""

import platform

import pytest

from sandbox import Ending
from tests.sandbox.escape.attack import PRELUDE, Attack, catalogue
from tests.sandbox.escape.conftest import run_outside

RING = """
parameters = ctypes.create_string_buffer(120)
syscall(425, 425, 8, parameters)  # io_uring_setup
"""
BPF = """
# A map of one number, or (of less use) a program that does nothing.
attributes = struct.pack("=4I", 2, 4, 8, 1).ljust(120, b"\\0")
syscall(321, 280, 0, attributes, len(attributes))
"""
PERF = """
attributes = struct.pack("=IIQ", 1, 120, 0).ljust(120, b"\\0")  # the software's clock
attributes = attributes[:40] + struct.pack("=Q", 0x61) + attributes[48:]  # user space only
syscall(298, 241, attributes, 0, -1, -1, 0)
"""
FAULTS = "syscall(323, 282, 1)  # userfaultfd, of user space only"
FANOTIFY = "syscall(300, 262, 0x200, 0)  # fanotify_init, by inode"
SECRET_MEMORY = "syscall(447, 447, 0)  # memfd_secret"
JOIN = """
space = os.open("/proc/self/ns/" + which, os.O_RDONLY) if os.path.exists("/proc/self") else 0
call("setns", space, 0)
"""
FILTER = """
call("prctl", 38, 1, 0, 0, 0)
instruction = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000), 8)
header = struct.pack("@HP", 1, ctypes.addressof(instruction))
syscall(317, 277, 1, 0, header)
"""
LARGE_PAGE = "mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)"
MERGED = "mmap.mmap(-1, 4096).madvise(mmap.MADV_MERGEABLE)"
QUEUE = """
rt = libc if hasattr(libc, "mq_open") else ctypes.CDLL("librt.so.1", use_errno=True)
if rt.mq_open(f"/{bait.token}".encode(), 0o102, 0o600, None) < 0:
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
rt.mq_unlink(f"/{bait.token}".encode())
"""
ASYNCHRONOUS = """
context = ctypes.c_ulong()
syscall(206, 0, 8, ctypes.byref(context))  # io_setup
"""
DESCRIPTORS_MOVED = """
read, write = os.pipe()
call("tee", read, write, 0, 0)
"""
SPLICED = """
read, write = os.pipe()
call("splice", os.open("/dev/zero", 0), None, write, None, 10, 0)
"""
CACHED = """
file = os.open(os.__file__, os.O_RDONLY)
syscall(451, 451, file, bytes(16), ctypes.create_string_buffer(40), 0)  # cachestat
"""
# To what it is called already: where it works, nothing changes.
NAME = """
name = os.uname().nodename.encode()
call("sethostname", name, len(name))
"""
CLOCK = """
class Time(ctypes.Structure):
    _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]
now = Time()
call("clock_gettime", 0, ctypes.byref(now))
call("clock_settime", 0, ctypes.byref(now))
"""
SYSTEM_V = """
made = call("{0}get", {1})
call("{0}ctl", made, 0, {2})
"""
LEASE = "fcntl.fcntl(open(os.__file__), 1024, fcntl.F_RDLCK)"
WATCHED_FOLDER = "fcntl.fcntl(os.open('.', os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_CREATE)"
TYPED = """
master, slave = os.openpty()
os.setsid() if os.getsid(0) != os.getpid() else None
fcntl.ioctl(slave, 0x540E, 0)  # TIOCSCTTY
fcntl.ioctl(slave, 0x5412, b"x")  # TIOCSTI
"""
LOCK = """
lock = struct.pack("hhqqi4x", fcntl.F_{kind}, os.SEEK_SET, 0, 1, 0)
fcntl.fcntl(open({path}, {mode!r}), {command}, lock)
"""

# Further calls, refused whatever their arguments: numbers on x86-64 and 64-bit ARM.
NEEDLESS = {
    "accept4": (288, 242), "acct": (163, 89), "add_key": (248, 217), "bind": (49, 200),
    "bpf": (321, 280), "capset": (126, 91), "chroot": (161, 51), "clock_adjtime": (305, 266),
    "connect": (42, 203), "delete_module": (176, 106), "execve": (59, 221),
    "execveat": (322, 281), "fanotify_mark": (301, 263), "finit_module": (313, 273),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "get_mempolicy": (239, 236), "init_module": (175, 105), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "ioperm": (173, None), "ioprio_get": (252, 31),
    "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104),
    "keyctl": (250, 219), "listen": (50, 201), "lookup_dcookie": (212, 18), "mbind": (237, 235),
    "memfd_create": (319, 279), "mknodat": (259, 33), "modify_ldt": (154, None),
    "mount": (165, 40), "move_mount": (429, 429), "move_pages": (279, 239),
    "mq_timedsend": (242, 182), "msgrcv": (70, 188), "msgsnd": (69, 189),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "pivot_root": (155, 41), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "ptrace": (101, 117), "quotactl": (179, 60),
    "reboot": (169, 142), "recvmmsg": (299, 243), "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138), "sched_setaffinity": (203, 122), "semop": (65, 193),
    "sendmmsg": (307, 269), "set_mempolicy": (238, 237), "setdomainname": (171, 162),
    "setgroups": (116, 159), "setns": (308, 268), "setsockopt": (54, 208),
    "settimeofday": (164, 170), "setuid": (105, 146), "shmat": (30, 196),
    "socket": (41, 198), "swapoff": (168, 225), "swapon": (167, 224), "sync": (162, 81),
    "syncfs": (306, 267), "syslog": (103, 116), "umount2": (166, 39), "unshare": (272, 97),
    "uselib": (134, None), "userfaultfd": (323, 282), "vhangup": (153, 58),
}  # fmt: skip
HARMLESS = ("memfd_create", "connect", "semop", "get_mempolicy", "execve")

ATTACKS = [
    *(
        Attack(f"makes a namespace of {what}", f"call('unshare', {flag})", rarely_works=True)
        for what, flag in (
            ("users", 0x10000000),
            ("mounts", 0x00020000),
            ("processes", 0x20000000),
            ("network", 0x40000000),
            ("names", 0x04000000),
            ("messages", 0x08000000),
            ("cgroups", 0x02000000),
            ("time", 0x00000080),
        )
    ),
    *(
        Attack(f"joins a namespace of {which}", f"which = {which!r}{JOIN}", rarely_works=True)
        for which in ("pid", "net", "mnt")
    ),
    Attack("is traced", "call('ptrace', 0, 0, 0, 0)"),
    Attack("changes its personality", "call('personality', 0x0040000)"),
    Attack("uses io_uring", RING, rarely_works=True),
    Attack("uses bpf", BPF, rarely_works=True),
    Attack("counts performance", PERF, rarely_works=True),
    Attack("handles faults", FAULTS, rarely_works=True),
    Attack("makes memory that is secret", SECRET_MEMORY, rarely_works=True),
    Attack("makes a file in memory", "os.memfd_create('x')"),
    Attack("watches files", "call('inotify_init1', 0)"),
    Attack("watches file systems", FANOTIFY, rarely_works=True),
    Attack("watches a folder", WATCHED_FOLDER),
    Attack("takes a lease", LEASE, rarely_works=True),
    Attack("is told of input by a signal", "fcntl.fcntl(os.pipe()[0], 8, os.getpid())"),
    Attack("locks a file", "fcntl.flock(open('/dev/null', 'w'), fcntl.LOCK_EX)"),
    *(
        Attack(
            f"uses {command} on {'a device' if 'dev' in path else 'the interpreter'}",
            LOCK.format(kind=kind, path=path, mode=mode, command=f"fcntl.{command}"),
        )
        for command in ("F_GETLK", "F_SETLK", "F_SETLKW")
        for kind, path, mode in (("RDLCK", "os.__file__", "r"), ("WRLCK", "'/dev/null'", "w"))
    ),
    Attack(
        "locks by description",
        LOCK.format(kind="RDLCK", path="os.__file__", mode="r", command="37"),
    ),
    Attack("makes a filter", FILTER),
    Attack("keeps its memory from swap", "call('mlock', ctypes.create_string_buffer(1), 1)"),
    Attack("keeps all memory from swap", "call('mlockall', 1)", rarely_works=True),
    Attack("takes a large page of the pool", LARGE_PAGE, rarely_works=True),
    Attack("has memory compared with others'", MERGED, rarely_works=True),
    Attack("makes a message queue", QUEUE),
    Attack("makes shared memory", SYSTEM_V.format("shm", "0, 1 << 20, 0o1600", "None")),
    Attack("makes messages", SYSTEM_V.format("msg", "0, 0o1600", "None")),
    Attack("makes semaphores", SYSTEM_V.format("sem", "0, 1, 0o1600", "0")),
    Attack(
        "leaves shared memory by a name", "call('shmget', bait.key, 4096, 0o1600)", "not permitted"
    ),
    Attack("asks for keys", "syscall(250, 219, 0, -3, 1)"),  # keyctl
    Attack("makes a context of input", ASYNCHRONOUS),
    Attack("copies a pipe", DESCRIPTORS_MOVED, "not permitted", rarely_works=True),
    Attack("splices", SPLICED),
    Attack("gives pages to a pipe", "call('vmsplice', os.pipe()[1], None, 0, 0)"),
    Attack("types into a terminal", TYPED, "No such file", rarely_works=True),
    Attack("names the host", NAME, rarely_works=True),
    Attack("sets the clock", CLOCK, rarely_works=True),
    Attack("adjusts the clock", "call('adjtimex', bytes(208))"),
    Attack("switches accounting on", "call('acct', None)", rarely_works=True),
    Attack("takes ports", "call('iopl', 0)", rarely_works=True),
    Attack("compares processes", "syscall(312, 272, os.getpid(), os.getpid(), 0, 0, 0)"),
    Attack("asks what is cached", CACHED, rarely_works=True),
]


@catalogue(ATTACKS)
def test_the_kernel_refuses(attack, attempt):
    attempt(attack)


def test_calls_that_no_program_needs_are_refused(inside):
    # With arguments such that the kernel itself would refuse, for another reason.
    program = f"""{PRELUDE}
def refusals(numbers):
    for number in numbers:
        try: call("syscall", number, *[ctypes.c_ulong(-1)] * 6)
        except OSError as refusal: yield refusal.errno
        else: yield 0
"""
    numbers = [pair[platform.machine() != "x86_64"] for pair in NEEDLESS.values()]
    harmless = [NEEDLESS[name][platform.machine() != "x86_64"] for name in HARMLESS]
    act = "assert set(refusals({})) == {{errno.EPERM}}, [*refusals({})]"
    control = run_outside(program + f"assert errno.EPERM not in [*refusals({harmless})]")
    assert control[0] == 0, control
    numbers = [number for number in numbers if number is not None]
    execution = inside(program + act.format(numbers, numbers))
    assert execution.exit_code == 0, execution.output_tail


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x32 is an x86-64 matter")
def test_a_foreign_system_call_ends_the_program(inside):
    program = "import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39)"
    assert run_outside(program)[0] == 0
    execution = inside(program)
    assert execution.ending is Ending.BLOCKED
    assert execution.signal == 31


@pytest.mark.skipif(platform.machine() != "x86_64", reason="int 0x80 is an x86-64 matter")
def test_a_32_bit_system_call_ends_the_program(inside):
    program = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
"""
    if run_outside(program)[0] != 0:
        pytest.skip("this kernel has no 32-bit system calls")
    assert inside(program).ending is Ending.BLOCKED


def test_no_filter_is_got_round_by_a_thread(inside):
    program = f"""{PRELUDE}
refused = []
def act():
    for act in (lambda: socket.socket(), lambda: os.fork(), lambda: call("unshare", 0x10000000)):
        try: act()
        except PermissionError: refused.append(True)
thread = threading.Thread(target=act)
thread.start()
thread.join()
assert len(refused) == 3
"""
    execution = inside(program)
    assert execution.exit_code == 0, execution.output_tail
