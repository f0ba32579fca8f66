"""What a load worker may do, put in force before it touches a watched file, for good and for all that it starts.

Landlock holds files (read the sources and the software, write its own scratch), TCP, signals and abstract sockets;
seccomp holds every other socket and the calls that would go around both; capabilities are dropped; limits hold
memory and sizes. An ordinary user can have all of it.

Not held: what any process may see without opening a file (names and times through `stat`); with `Policy.sockets`,
connecting to a socket that has a path (held from Landlock ABI 9 on), so whoever listens on one must look at its peer,
see `process.ancestors`; memory in a memfd, which counts for `RLIMIT_FSIZE` alone. A program that the worker executes
cannot read its own `/proc/self`, which would need a rule for all of `/proc`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ingestd import process
from ingestd.errors import IngestdError
from ingestd.kernel import prctl, syscall
from ingestd.paths import open_long, permitted
from ingestd.sandbox import landlock, seccomp

if TYPE_CHECKING:
    from ingestd.sandbox.landlock import Rule

Mode = Literal["required", "best-effort", "off"]

_SOFTWARE = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix/store", "/gnu/store", "/run/current-system/sw",
)  # fmt: skip
# Not all of /etc: a worker of root would read passwords, keys and the daemon's own configuration there.
_SETTINGS = (
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload", "/etc/alternatives",
    "/etc/localtime", "/etc/timezone", "/etc/locale.alias", "/etc/locale.conf", "/etc/default/locale",
    "/etc/mime.types", "/etc/magic", "/etc/fonts", "/etc/papersize", "/etc/paperspecs", "/etc/xdg",
    "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs", "/etc/pki/tls/openssl.cnf",
    "/etc/pki/ca-trust/extracted", "/etc/ca-certificates", "/etc/crypto-policies",
    "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts", "/etc/os-release",
    "/etc/libreoffice", "/etc/java", "/etc/ImageMagick-6", "/etc/ImageMagick-7", "/etc/OpenCL",
    "/var/cache/fontconfig", "/var/lib/ghostscript", "/var/spool/libreoffice",
)  # fmt: skip
_MACHINE = (
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/loadavg", "/proc/version",
    "/proc/filesystems", "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/osrelease",
    "/sys/devices/system", "/sys/bus/pci/devices", "/sys/fs/cgroup", "/sys/kernel/mm/transparent_hugepage",
)  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAP_DAC_READ_SEARCH = 2
_CAPABILITY_VERSION = 0x20080522
_NUMBERS = {  # capget, capset, ioprio_set
    "x86_64": (125, 126, 251),
    "aarch64": (90, 91, 30),
}
_IDLE_CLASS = 3 << 13


class Policy(NamedTuple):
    """What one worker may do. Paths are absolute."""

    read: Sequence[str] = ()
    """Sources, models: files or directories, read only. Missing ones are passed over."""
    write: Sequence[str] = ()
    """Directories of this worker alone."""
    exclude: Sequence[str] = ()
    """Directories that stay closed where they lie below what is readable otherwise (the state directory).

    What is in `write`, and what names something inside them, stays open. A directory in `read` that holds an excluded
    one is opened as a snapshot: what is made directly beside the way down to it later is for the next worker.
    """
    sockets: bool = False
    """Allow AF_UNIX sockets, for a loader that drives a program such as LibreOffice."""
    mode: Mode = "best-effort"


class Report(NamedTuple):
    """What is in force."""

    landlock: int
    """ABI version; 0: files are not held."""
    seccomp: bool
    reason: str
    """Why something is not held; empty where all is."""

    def info(self) -> dict[str, Any]:
        """Plain data, for a frame."""
        return self._asdict()


def enter(policy: Policy) -> Report:
    """Put the policy in force; there is no way back. Call it once, with one thread running, and after `limit`.

    Raises `IngestdError` with mode "required" where Landlock or seccomp cannot be had.
    """
    if policy.mode == "off":
        return Report(0, False, 'switched off by sandbox = "off"')
    machine = os.uname().machine
    problems: list[str] = []
    version = _hold_files(policy, problems)
    held = False
    if machine not in seccomp.MACHINES or sys.maxsize < 1 << 32:
        problems.append(f"no system call filter for a {machine} machine")
    else:
        program = seccomp.assemble(machine, sockets=policy.sockets, truncation=version < 3)
        try:
            _drop_capabilities(machine)
        except OSError as error:
            problems.append(f"capabilities are kept: {error.strerror}")
        try:
            prctl(_PR_SET_NO_NEW_PRIVS, 1)
            seccomp.install(program, machine)
            held = True
        except OSError as error:
            problems.append(f"the kernel has no seccomp filter: {error.strerror}")
    if policy.mode == "required" and not (version and held):
        raise IngestdError(
            f"the sandbox cannot be had: {'; '.join(problems)}; use a kernel from 5.13 on that has Landlock switched "
            'on, or set sandbox = "best-effort" under [load]',
            command="ingestd check-config",
        )
    return Report(version, held, "; ".join(problems))


def denies(path: str | bytes) -> bool:
    """Whether it is the sandbox, not the file's permissions, that keeps this process from reading `path`.

    So it is with a directory that was replaced or mounted after `enter`: a fresh worker can read it.
    """
    path = os.fsencode(path)
    if not permitted(path):  # which Landlock does not hold
        return False
    try:
        os.close(open_long(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except PermissionError:
        return True
    except OSError:
        pass
    return False


# --- files ----------------------------------------------------------------------------------------------------


def _hold_files(policy: Policy, problems: list[str]) -> int:
    """The ABI version in force, 0: none."""
    with os.scandir("/proc/self/task") as tasks:
        threads = sum(1 for _ in tasks)
    try:
        version = landlock.abi()
        prctl(_PR_SET_NO_NEW_PRIVS, 1)
        landlock.restrict(_rules(policy), version)
    except OSError as error:
        problems.append(f"the kernel has no Landlock: {error.strerror}")
        return 0
    if version < 6:
        problems.append(f"Landlock ABI {version} does not hold signals and abstract sockets (6 does)")
    if threads > 1:
        problems.append(f"{threads} threads ran already, and Landlock holds only the one that asked for it")
        return 0
    return version


def _rules(policy: Policy) -> Iterator[Rule]:
    """Rights add up, so the order does not matter."""
    exclude = [os.path.realpath(path) for path in policy.exclude]

    def readable(paths: Iterable[str], access: int) -> Iterator[Rule]:
        for path in paths:
            for spared in landlock.spare(path, exclude):
                yield spared, access

    yield from readable([*_SOFTWARE, *_python()], landlock.RUN)
    yield from readable([*_SETTINGS, *_MACHINE, *policy.read], landlock.READ)
    for path in _DEVICES:
        yield path, landlock.DEVICE
    for path in policy.write:
        if not os.path.isdir(path):
            raise IngestdError(f"the sandbox cannot open {path} for writing: there is no such directory")
        yield path, landlock.WRITE


def _python() -> list[str]:
    """Where this interpreter and whatever it can import lie, editable installations included."""
    paths = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, os.path.realpath(sys.executable)}
    paths.update(path for path in sys.path if path)
    paths.update(path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path)
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__"):  # setuptools keeps such directories in an import hook, not in sys.path
            for value in [*getattr(module, "MAPPING", {}).values(), *getattr(module, "NAMESPACES", {}).values()]:
                paths.update([value] if isinstance(value, str) else value)
    # A script's directory is on sys.path: that of a script in / would open everything.
    return [path for path in paths if os.path.isabs(path) and path != "/"]


# --- capabilities ---------------------------------------------------------------------------------------------


def _drop_capabilities(machine: str) -> None:
    """Keep at most the right to read any file: a daemon of root indexes files that others own.

    Raises `OSError`.
    """
    import ctypes
    import struct

    get, set_, _ = _NUMBERS[machine]
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0), 8)
    data = ctypes.create_string_buffer(24)
    syscall(get, ctypes.addressof(header), ctypes.addressof(data))
    permitted = struct.unpack("=6I", data.raw)[1]
    if not any(struct.unpack("=6I", data.raw)):
        return
    for capability in range(64):
        if capability != _CAP_DAC_READ_SEARCH:
            try:
                prctl(_PR_CAPBSET_DROP, capability)
            except OSError:  # the last one is behind us, or CAP_SETPCAP is missing; the sets below matter more
                break
    try:
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError:
        pass
    kept = permitted & (1 << _CAP_DAC_READ_SEARCH)
    struct.pack_into("=6I", data, 0, kept, kept, 0, 0, 0, 0)
    syscall(set_, ctypes.addressof(header), ctypes.addressof(data))


# --- limits ---------------------------------------------------------------------------------------------------


def limit(memory: int = 0, file_size: int = 0, open_files: int = 0) -> None:
    """Limit this process and each that it starts; soft and hard, so that an ordinary user cannot raise them again.

    `memory` (bytes of data, not address space: `RLIMIT_AS` would refuse file maps) makes an allocation fail;
    `file_size` (bytes) makes a write fail with EFBIG; `open_files` counts descriptors; 0 leaves a limit as it is. No
    core dumps, lower priority for processor and disk, first to go when the machine is out of memory; and marked with
    the token of its environment, see `process.mark`. Call it before `enter`, after which it could not.
    """
    import resource
    import signal

    if token := os.environ.get(process.TOKEN):
        process.mark(token)

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for kind, value in (
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_NOFILE, open_files),
    ):
        hard = resource.getrlimit(kind)[1]
        if value and (hard == resource.RLIM_INFINITY or value < hard):
            resource.setrlimit(kind, (value, value))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    machine = os.uname().machine
    if machine in _NUMBERS:
        try:
            syscall(_NUMBERS[machine][2], 1, 0, _IDLE_CLASS)
        except OSError:  # a container's own filter may refuse it, and the class matters to some disks only
            pass
    _oom_score(800)


def low_oom_score() -> None:
    """For the supervisor: last to go when the machine is out of memory, where the user may ask for that."""
    _oom_score(-500)


def _oom_score(value: int) -> None:
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(value))
    except OSError:
        pass
