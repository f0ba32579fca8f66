"""The system calls that a sandboxed worker may not make, as a seccomp filter that is assembled here.

A deny list: format libraries are too many for a list of what they may do. Refused calls fail as on a machine where
the caller has no right to them, so that a library takes its other way and nobody is killed for asking.
"""

from __future__ import annotations

import errno
import os
import struct

from ingestd.kernel import syscall

Instruction = tuple[int, int, int, int]
"""Operation, jump if true, jump if false, operand: one `struct sock_filter`."""

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of the tables below, and `AUDIT_ARCH_*`."""

# Each name with its numbers on x86_64 and aarch64; None: that machine has no such call.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # what would go around the filter, or look into other processes
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "perf_event_open": (298, 241), "bpf": (321, 280),
    "userfaultfd": (323, 282), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # other views of the file system
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "open_tree_attr": (467, 467), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "unshare": (272, 97),
    "setns": (308, 268), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    # the machine itself
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162),
    "syslog": (103, 116), "vhangup": (153, 58), "iopl": (172, None), "ioperm": (173, None),
    "lookup_dcookie": (212, 18),
    # System V and POSIX queues: memory that no limit counts and that outlives the process
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186), "msgsnd": (69, 189),
    "msgrcv": (70, 188), "msgctl": (71, 187), "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192),
    "semctl": (66, 191), "mq_open": (240, 180), "mq_unlink": (241, 181),
}  # fmt: skip
SOCKETS: dict[str, tuple[int | None, int | None]] = {
    "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
}  # fmt: skip
ATTRIBUTES: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88),
}  # fmt: skip
"""Landlock does not hold these, so a source's mode or times could be changed. They claim success and do nothing:
libraries set mode and times on every file that they copy or unpack, and care for neither."""
EXTENDED: dict[str, tuple[int | None, int | None]] = {
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}  # fmt: skip
CHECKED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "sendto": (44, 206), "clone": (56, 220), "clone3": (435, 435),
    "prlimit64": (302, 261), "ioctl": (16, 29), "truncate": (76, 45), "open": (2, None), "openat": (257, 56),
    "openat2": (437, 437), "setrlimit": (160, 164),
}  # fmt: skip
"""Refused or not as their arguments are."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_X32 = 0x40000000
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_AF_UNIX, _SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPES = 1, 1, 5, 0xF
_RLIMIT_RTTIME = 15
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # type into a terminal
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_TSYNC = 1

_allow: Instruction = (_RETURN, 0, 0, _ALLOW)


def _fail(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)


def _argument(index: int, high: bool = False) -> Instruction:
    """Load half an argument; both machines are little-endian."""
    return (_LOAD, 0, 0, 16 + 8 * index + 4 * high)


def assemble(machine: str, *, sockets: bool, truncation: bool) -> list[Instruction]:
    """The filter for a machine ("x86_64", "aarch64").

    `sockets`: AF_UNIX sockets are allowed. `truncation`: the kernel's Landlock does not hold truncation (before ABI
    3), so the filter must.
    """
    column, architecture = MACHINES[machine]
    refuse = _fail(errno.EPERM)
    program: list[Instruction] = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),  # other numbers, other tables: a 32-bit program cannot be judged
        (_LOAD, 0, 0, 0),
    ]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32), _fail(errno.ENOSYS)]

    def when(numbers: tuple[int | None, int | None], *block: Instruction) -> None:
        """`block` ends in a return on every way through it."""
        number = numbers[column]
        if number is not None:
            program.extend([(_EQUAL, 0, len(block), number), *block])

    for numbers in REFUSED.values():
        when(numbers, refuse)
    for numbers in ATTRIBUTES.values():
        when(numbers, _fail(0))
    for numbers in EXTENDED.values():
        when(numbers, _fail(errno.EOPNOTSUPP))
    when(CHECKED["clone"], _argument(0), (_ANY_BIT, 0, 1, _NEW_NAMESPACES), refuse, _allow)
    when(CHECKED["clone3"], _fail(errno.ENOSYS))  # its flags are out of reach; libc falls back to clone
    # Another process's limits, the supervisor's, say; and the limit that is the worker's mark, see `process.mark`.
    when(
        CHECKED["prlimit64"],
        _argument(0), (_EQUAL, 1, 0, 0), refuse,
        _argument(1), (_EQUAL, 1, 0, _RLIMIT_RTTIME), _allow,
        _argument(2), (_EQUAL, 1, 0, 0), refuse, _argument(2, high=True), (_EQUAL, 1, 0, 0), refuse, _allow,
    )  # fmt: skip
    when(CHECKED["setrlimit"], _argument(0), (_EQUAL, 0, 1, _RLIMIT_RTTIME), refuse, _allow)
    when(CHECKED["ioctl"], _argument(1), (_EQUAL, 1, 0, _TIOCSTI), (_EQUAL, 0, 1, _TIOCLINUX), refuse, _allow)
    if sockets:
        when(CHECKED["socket"], _argument(0), (_EQUAL, 0, 1, _AF_UNIX), _allow, refuse)
    else:
        when(CHECKED["socket"], refuse)
        for numbers in SOCKETS.values():
            when(numbers, refuse)
        # A datagram pair could be turned to any socket that has a path, by connect, sendto or sendmsg.
        when(
            CHECKED["socketpair"],
            _argument(0), (_EQUAL, 1, 0, _AF_UNIX), refuse,
            _argument(1), (_AND, 0, 0, _SOCK_TYPES), (_EQUAL, 2, 0, _SOCK_STREAM), (_EQUAL, 1, 0, _SOCK_SEQPACKET),
            refuse, _allow,
        )  # fmt: skip
        when(
            CHECKED["sendto"],
            _argument(4), (_EQUAL, 1, 0, 0), refuse, _argument(4, high=True), (_EQUAL, 1, 0, 0), refuse, _allow,
        )  # fmt: skip
    if truncation:
        when(CHECKED["truncate"], refuse)
        when(CHECKED["openat2"], _fail(errno.ENOSYS))  # its flags are out of reach
        for name, index in (("open", 1), ("openat", 2)):
            # Opened for reading with O_TRUNC, a file is cut short all the same.
            when(
                CHECKED[name],
                _argument(index), (_ANY_BIT, 1, 0, os.O_TRUNC), _allow,
                (_AND, 0, 0, os.O_ACCMODE), (_EQUAL, 2, 0, os.O_WRONLY), (_EQUAL, 1, 0, os.O_RDWR),
                refuse, _allow,
            )  # fmt: skip
    program.append(_allow)
    return program


def install(program: list[Instruction], machine: str) -> None:
    """Put all threads of this process, and all that it will ever start, under the filter.

    `PR_SET_NO_NEW_PRIVS` must be set. Raises `OSError` where the kernel has no seccomp.
    """
    import ctypes

    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(buffer)))
    arguments = _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, ctypes.addressof(header)
    if thread := syscall(_SECCOMP[machine], *arguments):
        raise OSError(errno.EBUSY, f"thread {thread} has a filter of its own")
