"""The sandbox as a worker meets it: real processes that try what they must not do, alone and through a child."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestd import sandbox
from ingestd.errors import IngestdError
from ingestd.sandbox import landlock, seccomp

NOBODY = 65534
MACHINE = os.uname().machine

try:
    ABI = landlock.abi()
except OSError as error:
    ABI = 0
    NO_LANDLOCK = f"cannot be had: the kernel has no Landlock ({error.strerror})"
else:
    NO_LANDLOCK = ""

needs_landlock = pytest.mark.skipif(not ABI, reason=NO_LANDLOCK)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="cannot be had: only root can start a worker as another user")

# What a process tries; it uses the standard library alone, so that any Python can run it as a child.
ATTEMPTS = r"""
import ctypes, errno, json, os, socket, subprocess, sys

world = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(name, *arguments):
    number = world["numbers"][name]
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_ulong(value) for value in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    if result == 0 and name == "clone":
        os._exit(0)


def connect(address, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(address)


def datagram_pair():
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.sendto(b"x", world["datagram"])


def write(path):
    with open(path, "r+b") as file:
        file.write(b"x")


def truncating_read(path):
    os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))
    if os.path.getsize(path):
        raise PermissionError(errno.EACCES, "nothing happened")


def mode(path):
    os.chmod(path, 0o777)
    if os.stat(path).st_mode & 0o777 != 0o777:
        raise PermissionError(errno.EPERM, "nothing happened")


def times(path):
    os.utime(path, (1, 1))
    if os.stat(path).st_mtime != 1:
        raise PermissionError(errno.EPERM, "nothing happened")


def lower_limits(pid):
    import resource

    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def parent_environment():
    with open(f"/proc/{world['supervisor']}/environ", "rb") as file:
        file.read()


source, state, other = world["source"], world["state"], world["other"]
CALLS = {
    "inet": lambda: socket.socket(socket.AF_INET).close(),
    "inet6": lambda: socket.socket(socket.AF_INET6).close(),
    "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "vsock": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close(),
    "control socket": lambda: connect(world["control"]),
    "abstract socket": lambda: connect(world["abstract"]),
    "datagram pair": datagram_pair,
    "io_uring": lambda: call("io_uring_setup", 4, ctypes.addressof(ctypes.create_string_buffer(120))),
    "ptrace": lambda: call("ptrace", 1, world["supervisor"], 0, 0),
    "process_vm_readv": lambda: call("process_vm_readv", world["supervisor"], 0, 0, 0, 0, 0),
    "clone": lambda: call("clone", 0x10000000 | 0x20000000, 0, 0, 0, 0),
    "mount": lambda: call("mount", 0, 0, 0, 0, 0),
    "bpf": lambda: call("bpf", 0, 0, 0),
    "perf": lambda: call("perf_event_open", 0, 0, 0, 0, 0),
    "keyring": lambda: call("keyctl", 0, 0, 0, 0, 0),
    "userfaultfd": lambda: call("userfaultfd", 0),
    "shared memory": lambda: call("shmget", 0, 4096, 0o1600),
    "limits of the supervisor": lambda: lower_limits(world["supervisor"]),
    "signal to the supervisor": lambda: os.kill(world["supervisor"], 0),
    "environment of the supervisor": parent_environment,
    "memory of the supervisor": lambda: open(f"/proc/{world['supervisor']}/mem", "rb").close(),
    "journal": lambda: open(f"{state}/journal.sqlite", "rb").close(),
    "state directory": lambda: os.listdir(state),
    "other scratch": lambda: open(f"{other}/secret", "rb").close(),
    "other scratch, writing": lambda: open(f"{other}/new", "wb").close(),
    "passwords": lambda: open("/etc/shadow", "rb").close(),
    "outside": lambda: open(f"{world['base']}/beside", "rb").close(),
    "temporary directory": lambda: open(f"{world['base']}.new", "xb").close(),
    "block device": lambda: os.mknod(f"{world['scratch']}/disk", 0o060600, os.makedev(8, 0)),
    "chroot": lambda: os.chroot("/"),
    "source: write": lambda: write(f"{source}/write"),
    "source: truncate": lambda: os.truncate(f"{source}/truncate", 0),
    "source: open to truncate": lambda: truncating_read(f"{source}/open"),
    "source: create": lambda: open(f"{source}/new", "xb").close(),
    "source: mkdir": lambda: os.mkdir(f"{source}/directory"),
    "source: link": lambda: os.link(f"{source}/write", f"{world['scratch']}/link"),
    "source: symlink": lambda: os.symlink("write", f"{source}/symlink"),
    "source: mode": lambda: mode(f"{source}/mode"),
    "source: times": lambda: times(f"{source}/times"),
    "source: attribute": lambda: os.setxattr(f"{source}/write", "user.ingestd", b"x"),
    "source: execute": lambda: subprocess.run([f"{source}/program"], check=True),
    "source: rename": lambda: os.rename(f"{source}/rename", f"{source}/renamed"),
    "source: take away": lambda: os.rename(f"{source}/move", f"{world['scratch']}/moved"),
    "source: unlink": lambda: os.unlink(f"{source}/unlink"),
    "unshare": lambda: call("unshare", 0x10000000),  # last: where it succeeds, others change
}


def results(calls):
    found = {}
    for name, attempt in calls.items():
        try:
            attempt()
            found[name] = "done"
        except OSError as error:
            found[name] = errno.errorcode.get(error.errno, str(error.errno))
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found
"""

# The worker: everything that is imported after `setuid` must lie where that user may read.
WORKER = (
    ATTEMPTS
    + r"""
import array, mmap, random, resource, shutil, threading

sys.path[:0] = world["sys_path"]
from ingestd import sandbox

if world["user"]:
    os.setgroups([])
    os.setgid(world["user"])
    os.setuid(world["user"])
    libc.prctl(4, 1, 0, 0, 0)  # a process that changed its user hides its /proc
libc.prctl(1, 9, 0, 0, 0)
policy = sandbox.Policy(
    read=[source], write=[world["scratch"]], exclude=[state], sockets=world["sockets"], mode=world["mode"]
)
report = sandbox.enter(policy)


def scratch():
    os.chdir(world["scratch"])
    os.mkdir("a")
    with open("a/one", "w") as file:
        file.write("text")
    os.rename("a/one", "two")
    os.truncate("two", 2)
    os.chmod("two", 0o600)
    shutil.copy2(f"{source}/write", "three")
    shutil.copystat(f"{source}/write", "three")
    os.symlink(f"{source}/write", "alias.txt")
    assert open("alias.txt").read() == "content"
    os.close(os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600))
    shutil.rmtree("a")
    os.unlink("two")


def pair():
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        with one, other:
            descriptor = os.memfd_create("blob")
            socket.send_fds(one, [b"x"], [descriptor])
            data, descriptors, _, _ = socket.recv_fds(other, 10, 4)
            assert data == b"x"
            os.close(os.open(f"/proc/self/fd/{descriptors[0]}", os.O_RDWR))
            for one_descriptor in (descriptor, *descriptors):
                os.close(one_descriptor)


def thread():
    found = []
    running = threading.Thread(target=lambda: found.append(1))
    running.start()
    running.join()
    assert found


def child():
    assert subprocess.run(["/bin/sh", "-c", "echo $((1 + 1))"], capture_output=True, check=True).stdout == b"2\n"
    assert subprocess.run(["/usr/bin/env", "true"], check=True).returncode == 0


def kill_child():
    running = subprocess.Popen(["/bin/sleep", "100"])
    running.kill()
    assert running.wait() == -9


def unix_in_scratch():
    os.chdir(world["scratch"])
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("server")
        server.listen()
        connect("server")


WORK = {
    "read": lambda: open(f"{source}/write").read(),
    "walk": lambda: os.listdir(source),
    "scratch": scratch,
    "pair": pair,
    "thread": thread,
    "child": child,
    "kill child": kill_child,
    "devices": lambda: [open("/dev/null", "wb").write(b"x"), open("/dev/urandom", "rb").read(1)],
    "statistics": lambda: [open("/proc/self/status").read(), open("/proc/meminfo").read(), os.cpu_count()],
}
if os.access(os.path.dirname(os.__file__), os.R_OK):  # else this Python is out of the user's reach
    WORK["numpy"] = lambda: __import__("numpy").ones(3).sum()
if world["sockets"]:
    WORK["unix in scratch"] = unix_in_scratch
answer = {"report": report.info(), "work": results(WORK)}
if world["what"] == "self":
    answer["attempts"] = results(CALLS)
else:
    program = sys.executable if os.access(sys.executable, os.X_OK) else "/usr/bin/python3"
    command = [program, "-I", "-S", "-c", world["attempts"] + "\nprint(json.dumps(results(CALLS)))", sys.argv[1]]
    answer["attempts"] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
signal_number = ctypes.c_int()
libc.prctl(2, ctypes.byref(signal_number), 0, 0, 0)
answer["parent death signal"] = signal_number.value
print(json.dumps(answer))
"""
)


class World:
    """Sources, a state directory with a control socket, two scratch directories; all of it belongs to `user`."""

    def __init__(self, user: int) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="ingestd-"))
        self.user = user
        for name in ("sources", "state/scratch/one", "state/scratch/two"):
            (self.base / name).mkdir(parents=True)
        for name in ("write", "truncate", "open", "mode", "times", "rename", "move", "unlink"):
            (self.base / "sources" / name).write_text("content")
            (self.base / "sources" / name).chmod(0o644)
        (self.base / "sources/program").write_text("#!/bin/sh\n")
        (self.base / "sources/program").chmod(0o755)
        (self.base / "state/journal.sqlite").write_text("journal")
        (self.base / "state/scratch/two/secret").write_text("secret")
        (self.base / "beside").write_text("beside")
        self.sockets = [socket.socket(socket.AF_UNIX, kind) for kind in (socket.SOCK_STREAM,) * 2]
        self.sockets.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.control, self.abstract, self.datagram = (
            f"{self.base}/state/control.sock", f"\0{self.base}", f"{self.base}/state/datagram.sock",
        )  # fmt: skip
        for server, address in zip(self.sockets, (self.control, self.abstract, self.datagram), strict=True):
            server.bind(address)
        for server in self.sockets[:2]:
            server.listen(16)
        if user:
            for path in (self.base, *self.base.rglob("*")):
                os.chown(path, user, user)

    def close(self) -> None:
        for server in self.sockets:
            server.close()
        shutil.rmtree(self.base)
        self.base.with_name(f"{self.base.name}.new").unlink(missing_ok=True)

    def run(self, what: str, mode: str = "required", sockets: bool = False) -> dict[str, Any]:
        """What the worker found: {"report", "work", "attempts"}."""
        column = seccomp.MACHINES[MACHINE][0]
        settings = {
            "base": str(self.base), "source": f"{self.base}/sources", "state": f"{self.base}/state",
            "scratch": f"{self.base}/state/scratch/one", "other": f"{self.base}/state/scratch/two",
            "control": self.control, "abstract": self.abstract, "datagram": self.datagram,
            "supervisor": os.getpid(), "user": self.user, "sockets": sockets, "mode": mode, "what": what,
            "sys_path": [path for path in sys.path if path], "attempts": ATTEMPTS,
            "numbers": {n: v[column] for n, v in {**seccomp.REFUSED, **seccomp.CHECKED}.items()},
        }  # fmt: skip
        command = [sys.executable, "-P", "-c", WORKER, json.dumps(settings)]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture(params=["same user", pytest.param("ordinary user", marks=needs_root)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(NOBODY if request.param == "ordinary user" else 0)
    yield made
    made.close()


@needs_landlock
@pytest.mark.parametrize("what", ["self", "child"])
def test_nothing_but_the_work_is_possible(world: World, what: str) -> None:
    found = world.run(what)
    assert found["report"] == {"landlock": ABI, "seccomp": True, "reason": found["report"]["reason"]}
    assert bool(found["report"]["reason"]) == (ABI < 6)
    assert {name: result for name, result in found["work"].items() if result != "done"} == {}
    held = {"signal to the supervisor"} if ABI < 6 else set()
    done = {name for name, result in found["attempts"].items() if result == "done"} - held
    assert done == set()
    strange = {n: r for n, r in found["attempts"].items() if r not in ("EPERM", "EACCES", "EXDEV", "ENOTSUP")}
    assert strange.keys() <= held
    assert {path.name for path in (world.base / "sources").iterdir()} == {
        "write", "truncate", "open", "mode", "times", "rename", "move", "unlink", "program",
    }  # fmt: skip
    assert (world.base / "sources/write").read_text() == "content"
    assert (world.base / "sources/open").read_text() == "content"
    assert found["parent death signal"] == 9


def test_the_attempts_succeed_without_the_sandbox() -> None:
    made = World(0)
    try:
        found = made.run("self", mode="off")
    finally:
        made.close()
    assert found["report"]["reason"] == 'switched off by sandbox = "off"'
    expected = {
        "inet", "udp", "control socket", "abstract socket", "datagram pair", "limits of the supervisor",
        "signal to the supervisor", "environment of the supervisor", "journal", "state directory", "other scratch",
        "other scratch, writing", "outside", "source: write", "source: truncate", "source: open to truncate",
        "source: create", "source: mkdir", "source: link", "source: symlink", "source: mode", "source: times",
        "source: execute", "source: rename", "source: take away", "source: unlink", "shared memory",
    }  # fmt: skip
    assert {name for name in expected if found["attempts"][name] != "done"} == set()


@needs_landlock
def test_unix_sockets_are_for_loaders_that_declare_them(world: World) -> None:
    found = world.run("self", sockets=True)
    assert found["work"]["unix in scratch"] == "done"
    attempts = found["attempts"]
    assert {attempts[name] for name in ("inet", "inet6", "udp", "netlink", "packet", "vsock")} == {"EPERM"}
    if ABI >= 6:
        assert attempts["abstract socket"] == "EPERM"
    assert (attempts["control socket"] == "done") == (ABI < 9)
    assert attempts["journal"] == "EACCES"


def run(code: str, *arguments: str) -> str:
    """What the code prints, in a process of its own."""
    head = "import os, sys\nfrom ingestd import sandbox\n"
    command = [sys.executable, "-P", "-c", head + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_landlock
def test_a_source_that_holds_the_state_directory_opens_without_it(tmp_path: Path) -> None:
    (tmp_path / "deep/state").mkdir(parents=True)
    for name in ("a.txt", "deep/b.txt", "deep/state/journal"):
        (tmp_path / name).write_text("x")
    (tmp_path / "outside").symlink_to("/etc")
    code = """
root = sys.argv[1]
sandbox.enter(sandbox.Policy(read=[root], exclude=[root + "/deep/state"], mode="required"))
for name in ("a.txt", "deep/b.txt", "deep/state/journal", "outside/shadow"):
    try:
        open(f"{root}/{name}").close()
        print("yes", end=" ")
    except PermissionError:
        print(sandbox.denies(f"{root}/{name}"), end=" ")
"""
    answers = run(code, str(tmp_path)).split()
    assert answers[:3] == ["yes", "yes", "True"]
    assert answers[3] != "yes"


@needs_landlock
def test_a_directory_that_was_replaced_is_told_from_one_without_permission(tmp_path: Path) -> None:
    code = """
root = sys.argv[1] + "/source"
os.mkdir(root)
sandbox.enter(sandbox.Policy(read=[root], write=[sys.argv[1]]))
open(root + "/a", "w").close()
print(sandbox.denies(root + "/a"), sandbox.denies(root + "/none"), sandbox.denies("/usr/share"))
"""
    assert run(code, str(tmp_path)) == "False False False"
    code = """
root = sys.argv[1] + "/replaced"
os.mkdir(root)
sandbox.enter(sandbox.Policy(read=[root]))
print("ready", flush=True)
sys.stdin.readline()
print(sandbox.denies(root + "/a"))
"""
    head = "import os, sys\nfrom ingestd import sandbox\n"
    command = [sys.executable, "-P", "-c", head + code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/") as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        (tmp_path / "replaced").rename(tmp_path / "old")
        (tmp_path / "replaced").mkdir()
        (tmp_path / "replaced/a").touch()
        worker.stdin.write("\n")
        worker.stdin.flush()
        assert worker.stdout.readline() == "True\n"


def test_required_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def no_filter(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(landlock, "abi", missing)
    monkeypatch.setattr(seccomp, "install", no_filter)
    monkeypatch.setattr(sandbox, "prctl", lambda *_: 0)
    monkeypatch.setattr(sandbox, "_drop_capabilities", lambda _: None)
    with pytest.raises(IngestdError, match=r"no Landlock.*no seccomp filter") as caught:
        sandbox.enter(sandbox.Policy(mode="required"))
    assert "best-effort" in str(caught.value)
    report = sandbox.enter(sandbox.Policy(mode="best-effort"))
    assert (report.landlock, report.seccomp) == (0, False)
    assert "Landlock" in report.reason


@needs_landlock
def test_a_thread_that_ran_before_is_reported() -> None:
    code = """
import threading
from ingestd.errors import IngestdError
threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    sandbox.enter(sandbox.Policy(mode="required"))
except IngestdError as error:
    print(error)
print(sandbox.enter(sandbox.Policy()), flush=True)
os._exit(0)
"""
    lines = run(code).splitlines()
    assert "2 threads ran already" in lines[0]
    assert lines[1].startswith("Report(landlock=0, seccomp=True")


def test_a_missing_scratch_directory_is_a_plain_error(tmp_path: Path) -> None:
    code = """
from ingestd.errors import IngestdError
try:
    sandbox.enter(sandbox.Policy(write=[sys.argv[1]]))
except IngestdError as error:
    print(error)
"""
    answer = run(code, str(tmp_path / "none"))
    assert ABI == 0 or answer.endswith("there is no such directory")


def test_importing_the_sandbox_is_cheap() -> None:
    answer = run("print(*sorted({'ctypes', 'asyncio', 'msgspec', 'dataclasses', 'socket'} & set(sys.modules)))")
    assert answer == ""
