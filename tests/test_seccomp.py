"""The filter, judged by a small interpreter of its instructions, so that both machines are covered on each."""

from __future__ import annotations

import errno
import os

import pytest

from ingestd.sandbox import seccomp
from ingestd.sandbox.seccomp import Instruction

ALLOW, KILL = "allow", "kill"
ARCHITECTURES = {machine: number for machine, (_, number) in seccomp.MACHINES.items()}


def judge(program: list[Instruction], machine: str, number: int, arguments: tuple[int, ...] = ()) -> str | int:
    """ "allow", "kill", or the errno of a refusal."""
    data = number.to_bytes(4, "little") + ARCHITECTURES[machine].to_bytes(4, "little") + bytes(8)
    data += b"".join(argument.to_bytes(8, "little") for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6])
    value = position = 0
    while True:
        operation, true, false, operand = program[position]
        position += 1
        if operation == 0x20:
            value = int.from_bytes(data[operand : operand + 4], "little")
        elif operation == 0x54:
            value &= operand
        elif operation == 0x06:
            return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(operand, operand & 0xFFFF)
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[operation]
            position += true if holds else false


@pytest.fixture(params=sorted(seccomp.MACHINES))
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(machine: str, name: str, *arguments: int, sockets: bool = False, truncation: bool = False) -> str | int | None:
    """The verdict on a call by name; None: that machine has no such call."""
    tables = {**seccomp.REFUSED, **seccomp.SOCKETS, **seccomp.ATTRIBUTES, **seccomp.EXTENDED, **seccomp.CHECKED}
    number = tables[name][seccomp.MACHINES[machine][0]]
    program = seccomp.assemble(machine, sockets=sockets, truncation=truncation)
    return None if number is None else judge(program, machine, number, arguments)


def test_no_number_is_in_the_tables_twice(machine: str) -> None:
    tables = (seccomp.REFUSED, seccomp.SOCKETS, seccomp.ATTRIBUTES, seccomp.EXTENDED, seccomp.CHECKED)
    column = seccomp.MACHINES[machine][0]
    numbers = [numbers[column] for table in tables for numbers in table.values() if numbers[column] is not None]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("sockets", [False, True])
def test_refusals_have_the_errno_that_libraries_expect(machine: str, sockets: bool) -> None:
    for table, expected in (
        (seccomp.REFUSED, errno.EPERM),
        (seccomp.ATTRIBUTES, 0),
        (seccomp.EXTENDED, errno.EOPNOTSUPP),
        (seccomp.SOCKETS, ALLOW if sockets else errno.EPERM),
    ):
        for name in table:
            assert ask(machine, name, sockets=sockets) in (None, expected), name


def test_what_is_not_named_is_allowed(machine: str) -> None:
    program = seccomp.assemble(machine, sockets=False, truncation=False)
    tables = (seccomp.REFUSED, seccomp.SOCKETS, seccomp.ATTRIBUTES, seccomp.EXTENDED, seccomp.CHECKED)
    named = {numbers[seccomp.MACHINES[machine][0]] for table in tables for numbers in table.values()}
    assert {judge(program, machine, number) for number in range(600) if number not in named} == {ALLOW}


def test_a_foreign_architecture_is_killed_and_x32_does_not_exist() -> None:
    program = seccomp.assemble("x86_64", sockets=True, truncation=False)
    assert judge(program, "aarch64", 1) == KILL
    assert judge(program, "x86_64", 0x40000000 | 1) == errno.ENOSYS


def test_no_new_namespaces(machine: str) -> None:
    threads_and_children = 0x3D0F00, 17, 0x4111
    assert {ask(machine, "clone", flags) for flags in threads_and_children} == {ALLOW}
    namespaces = [1 << bit for bit in (17, 25, 26, 27, 28, 29, 30)]
    assert {ask(machine, "clone", flags | 17) for flags in namespaces} == {errno.EPERM}
    assert ask(machine, "clone3", 1, 2) == errno.ENOSYS


def test_sockets(machine: str) -> None:
    unix, inet, stream, datagram, raw, packet, close_on_exec = 1, 2, 1, 2, 3, 5, 0o2000000
    assert ask(machine, "socket", unix, stream) == errno.EPERM
    assert ask(machine, "socket", unix, stream, sockets=True) == ALLOW
    assert ask(machine, "socket", inet, stream, sockets=True) == errno.EPERM
    for kind in (stream, packet):
        assert ask(machine, "socketpair", unix, kind | close_on_exec) == ALLOW
        assert ask(machine, "socketpair", inet, kind) == errno.EPERM
    for kind in (datagram, raw):
        assert ask(machine, "socketpair", unix, kind | close_on_exec) == errno.EPERM
    assert ask(machine, "sendto", 3, 1, 1, 0, 0, 0) == ALLOW
    assert ask(machine, "sendto", 3, 1, 1, 0, 8, 16) == errno.EPERM
    assert ask(machine, "sendto", 3, 1, 1, 0, 1 << 40, 16) == errno.EPERM


def test_limits_of_others_and_typing_into_terminals(machine: str) -> None:
    files, mark = 7, 15
    assert ask(machine, "prlimit64", 0, files, 1 << 40) == ALLOW
    assert ask(machine, "prlimit64", 1234, files) == errno.EPERM
    assert ask(machine, "prlimit64", 0, mark, 0, 1 << 40) == ALLOW
    assert {ask(machine, "prlimit64", 0, mark, new) for new in (8, 1 << 40)} == {errno.EPERM}
    assert ask(machine, "setrlimit", files, 8) == ALLOW
    assert ask(machine, "setrlimit", mark, 8) == errno.EPERM
    assert {ask(machine, "ioctl", 0, request) for request in (0x5412, 0x541C)} == {errno.EPERM}
    assert ask(machine, "ioctl", 0, 0x5401) == ALLOW


def test_truncation_where_landlock_does_not_hold_it(machine: str) -> None:
    assert ask(machine, "truncate") == ALLOW
    assert ask(machine, "openat", 0, 0, os.O_RDONLY | os.O_TRUNC) == ALLOW
    assert ask(machine, "truncate", truncation=True) == errno.EPERM
    assert ask(machine, "openat2", truncation=True) == errno.ENOSYS
    for name, before in (("open", (0,)), ("openat", (0, 0))):
        for flags, expected in (
            (os.O_RDONLY | os.O_CLOEXEC, ALLOW),
            (os.O_WRONLY | os.O_CREAT | os.O_TRUNC, ALLOW),
            (os.O_RDWR | os.O_TRUNC, ALLOW),
            (os.O_RDONLY | os.O_TRUNC, errno.EPERM),
            (os.O_ACCMODE | os.O_TRUNC, errno.EPERM),
        ):
            assert ask(machine, name, *before, flags, truncation=True) in (None, expected)
