"""The plans: what makes a service of this installation, and what undoes it."""

from __future__ import annotations

import grp
import importlib.resources
import json
import os
import pwd
import re
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ingestd.config import Config, load
from ingestd.config.settings import SYSTEM_FILE, user_file
from ingestd.errors import ConfigError, UnreachableError, UsageError
from ingestd.installation import program
from ingestd.installation.plan import Plan, Remove, Run, Write, stamped
from ingestd.unit import NAME, PACKAGED, STATE, UNIT, UNITS

CACHE: Final = Path("/var/cache/ingestd")
DROP_FOLDER: Final = Path("/srv/ingestd")


def source(name: str) -> str:
    """The text of a file of packaging/systemd, which lies in the package once it is installed."""
    inside = importlib.resources.files(NAME).joinpath("systemd", *name.split("/"))
    if inside.is_file():
        return inside.read_text(encoding="utf-8")
    return (Path(__file__).parents[3] / "packaging" / "systemd" / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Place:
    """Where a service is installed: in the system, or in the systemd of a user."""

    user: bool
    environ: Mapping[str, str]

    @property
    def units(self) -> Path:
        return user_file(self.environ).parents[1] / "systemd" / "user" if self.user else UNITS

    @property
    def config(self) -> Path:
        return user_file(self.environ) if self.user else SYSTEM_FILE

    @property
    def systemctl(self) -> tuple[str, ...]:
        return ("systemctl", "--user") if self.user else ("systemctl",)

    @property
    def option(self) -> str:
        return " --user" if self.user else ""

    def admit(self, command: str) -> None:
        """Raises `UsageError` or `UnreachableError` where this may not be changed, or no systemd is there."""
        own = shlex.join(program.command()) if command.startswith("install") else NAME
        if self.user:
            if os.geteuid() == 0 and self.environ.get("SUDO_USER"):
                raise UsageError("a user's service is installed by the user, without sudo", command=f"{own} {command}")
        elif os.geteuid() != 0:
            raise UsageError(
                f"{self.units} can be changed by root alone; --user makes a service of your own",
                command=f"sudo {own} {command}",
            )
        if not Path("/run/systemd/system").is_dir():
            raise UnreachableError("systemd does not run on this machine", command="ingestd run")
        if self.user:
            self._manager()

    def _manager(self) -> None:
        runtime = Path(self.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
        if not runtime.joinpath("systemd/private").exists():
            name = pwd.getpwuid(os.geteuid()).pw_name
            raise UnreachableError(
                f"no systemd of the user {name} runs: there is no {runtime}/systemd",
                command=f"sudo loginctl enable-linger {shlex.quote(name)}",
            )
        os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))  # su and cron leave it out

    def active(self) -> bool:
        """The service runs."""
        try:
            done = subprocess.run([*self.systemctl, "--quiet", "is-active", UNIT], timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0


# --- install ----------------------------------------------------------------------------------------------------


def install(place: Place, config_file: Path | None, folders: Sequence[Path], *, start: bool) -> Plan:
    """What is missing of the service. `folders`: to watch, where the configuration is still to be written.

    Raises `UsageError` and `ConfigError` for what would keep the service from starting.
    """
    if not place.user and (packaged := next((path for path in PACKAGED if path.exists()), None)):
        raise UsageError(f"a package of this system has installed the service: {packaged}",
                         command="systemctl enable --now ingestd")  # fmt: skip
    command = program.command()
    plan = Plan()
    config = Path(os.path.abspath(config_file or place.config))
    text = None
    if not config.exists():
        if config_file is not None:
            raise ConfigError(f"{config}: there is no such file", command=f"ls -l {shlex.quote(str(config.parent))}")
        text = _configuration(place, folders)
    elif folders:
        raise UsageError(f"{config} is there already: add [[watch]] tables for {', '.join(map(str, folders))} to it",
                         command=f"ingestd --config {shlex.quote(str(config))} check-config")  # fmt: skip
    found = _checked(place, config, text)
    if not place.user:
        for path in program.places():
            try:
                program.seen_by_service(path, "what the service is to run")
            except UsageError as error:
                raise UsageError(error.message, command=error.command or program.INSTALL) from None
    units = _units(place, command, config, found, plan)
    writes = [*units, *([Write(config, text, own=True)] if text is not None else [])]
    plan.steps += [write for write in writes if write.needed]
    changed = any(isinstance(step, Write) and step.path.is_relative_to(place.units) for step in plan.steps)
    if not place.user:
        plan.steps += _accounts(units)
    if changed:
        plan.steps.append(Run((*place.systemctl, "daemon-reload")))
    active = place.active()
    begin = ("restart", UNIT) if active else ("enable", "--now", UNIT)
    if start and (changed or not active):
        plan.steps.append(Run((*place.systemctl, *begin)))
    elif changed or not active:
        plan.next.append(shlex.join([*place.systemctl, *begin]).removesuffix(".service"))
    if not place.user and (name := place.environ.get("SUDO_USER")):
        plan.next.append(f"usermod -aG {NAME} {shlex.quote(name)}   # who may use the commands; then log in again")
    if place.user and not Path("/var/lib/systemd/linger", pwd.getpwuid(os.geteuid()).pw_name).exists():
        plan.next.append("loginctl enable-linger   # it runs while you are not logged in, too")
    plan.next.append(f"{_typed(command, place)} status")
    return plan


def _typed(command: Sequence[str], place: Place) -> str:
    """How this installation is called from a shell."""
    for directory in os.get_exec_path(dict(place.environ)):
        path = Path(directory, NAME)
        if path.exists() and path.resolve() == Path(command[0]).resolve():
            return NAME
    return shlex.join(command)


def _configuration(place: Place, folders: Sequence[Path]) -> str:
    """A configuration to begin with."""
    text = source("config.toml")
    head, _, _ = text.partition("[[watch]]")
    if place.user:
        if not folders:
            raise UsageError(f"there is no {place.config}, and no folder to begin one with",
                             command="ingestd install-service --user ~/Documents")  # fmt: skip
        reload = f"ingestd check-config && {' '.join(place.systemctl)} reload {NAME}"
        head = f"# What the service watches, and how. After a change: {reload}\n\n"
    elif not folders:
        return text
    tables, names = [], set[str]()
    for folder in folders:
        directory = Path(os.path.abspath(folder))
        if not directory.is_dir():
            raise UsageError(f"there is no directory {directory}", command=f"mkdir -p {shlex.quote(str(directory))}")
        plain = re.sub(r"[^\w.-]", "-", directory.name).strip("-.")[:60] or "folder"
        name = next(n for n in (plain, *(f"{plain}-{i}" for i in range(2, 1000))) if n.casefold() not in names)
        names.add(name.casefold())
        tables.append(f"[[watch]]\nname = {json.dumps(name)}\ndirectory = {_toml(directory)}\n")
    return head + "\n".join(tables)


def _toml(path: Path) -> str:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{path!r} is not UTF-8, and cannot be named in a configuration") from None
    return json.dumps(str(path), ensure_ascii=False)


def _checked(place: Place, config: Path, text: str | None) -> Config:
    """The configuration as the service will read it. Raises `ConfigError` for one with which it would not start."""
    if place.user:
        environ = {name: place.environ[name] for name in ("HOME", "XDG_STATE_HOME") if name in place.environ}
    else:
        environ = {"HOME": str(STATE), "STATE_DIRECTORY": str(STATE), "RUNTIME_DIRECTORY": f"/run/{NAME}"}
    check = f"ingestd --config {shlex.quote(str(config))} check-config"
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as draft:
        draft.write(text or "")
        draft.flush()
        try:
            found = load(Path(draft.name) if text is not None else config, environ)
        except ConfigError as error:
            message = error.message.replace(draft.name, str(config))
            raise ConfigError(message, command=None if text is not None else check) from None
    if not found.watch:
        raise ConfigError(f"{config}: nothing to watch: add a [[watch]] table", command=check)
    if not place.user:
        if found.state_directory != STATE:
            raise ConfigError(
                f"{config}: [state] directory is {found.state_directory}, but the service may write to {STATE} alone",
                command=check,
            )
        if text is None:
            _readable(config)
    return found


def _readable(config: Path) -> None:
    """By the service's user, or its group."""
    group = config.stat()
    if not group.st_mode & stat.S_IROTH and group.st_mode & stat.S_IRGRP and _group(group.st_gid) == NAME:
        return
    program.seen_by_service(config, "the configuration")


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return ""


def _units(place: Place, command: Sequence[str], config: Path, found: Config, plan: Plan) -> list[Write]:
    """The files of the service, all of which are systemd's."""
    called = " ".join(program.quoted(word) for word in (*command, "--config", str(config)))
    text = source("ingestd-user.service" if place.user else UNIT)
    text = re.sub(r"^Documentation=.*\n", "", text, flags=re.MULTILINE)
    for key, word in (("ExecStart", "run"), ("ExecReload", "reload")):
        text, count = re.subn(rf"^{key}=.*$", lambda _: f"{key}={called} {word}", text, flags=re.MULTILINE)  # noqa: B023
        assert count == 1
    if place.user and (home := place.environ.get("XDG_STATE_HOME")):
        text = text.replace("\nUMask=", f"\nEnvironment={program.quoted(f'XDG_STATE_HOME={home}')}\nUMask=")
    writes = [Write(place.units / UNIT, stamped(text))]
    if place.user:
        return writes
    writes += [
        Write(Path("/etc/sysusers.d/ingestd.conf"), stamped(source("ingestd.sysusers"))),
        Write(Path("/etc/tmpfiles.d/ingestd.conf"), stamped(source("ingestd.tmpfiles"))),
    ]
    drop_ins = place.units / f"{UNIT}.d"
    homes = [watch.directory for watch in found.watch if Path(watch.directory).is_relative_to("/home")]
    if homes:
        writes.append(Write(drop_ins / "home.conf", stamped(source("drop-ins/home.conf"))))
        plan.notes += [f"{home}: the user {NAME} still has to be allowed to read it: setfacl -R -m u:{NAME}:rX,"
                       f"d:u:{NAME}:rX {shlex.quote(home)}" for home in homes]  # fmt: skip
    if Path("/dev/nvidiactl").exists():
        writes.append(Write(drop_ins / "gpu.conf", stamped(source("drop-ins/gpu.conf"))))
    if found.state.control_socket is None or found.state.control_group is None:
        plan.notes.append(
            f'root alone can use the commands: the configuration lacks control_group = "{NAME}" and '
            f'control_socket = "/run/{NAME}/control.sock" in [state]'
        )
    return writes


def _accounts(units: Sequence[Write]) -> list[Run]:
    """The commands that make the user and the folder, where they are not there."""
    runs = []
    needed = {write.path.parent.name for write in units if write.needed}
    try:
        pwd.getpwnam(NAME)
    except KeyError:
        needed.add("sysusers.d")
    if "sysusers.d" in needed:
        runs.append(Run(("systemd-sysusers", "/etc/sysusers.d/ingestd.conf")))
    if "tmpfiles.d" in needed or not DROP_FOLDER.is_dir():
        runs.append(Run(("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/ingestd.conf")))
    return runs


# --- uninstall --------------------------------------------------------------------------------------------------


def uninstall(place: Place, *, purge: bool) -> Plan:
    """What is there of the service. `purge`: its state, configuration and user too; never what it watches."""
    if not place.user and (packaged := next((path for path in PACKAGED if path.exists()), None)):
        raise UsageError(f"a package of this system has installed the service: {packaged}",
                         command="apt-get remove ingestd")  # fmt: skip
    plan = Plan()
    unit = place.units / UNIT
    drop_ins = place.units / f"{UNIT}.d"
    files = [unit, drop_ins / "home.conf", drop_ins / "gpu.conf"]
    if not place.user:
        files += [Path("/etc/sysusers.d/ingestd.conf"), Path("/etc/tmpfiles.d/ingestd.conf")]
    removes = [remove for path in files if (remove := Remove(path)).needed]
    if unit.exists():
        plan.steps.append(Run((*place.systemctl, "disable", "--now", UNIT)))
    plan.steps += removes
    if drop_ins.is_dir():
        others = [path for path in drop_ins.iterdir() if path not in files]
        if others and not purge:
            plan.notes.append(f"yours, and therefore left: {', '.join(map(str, others))}")
        else:
            plan.steps.append(Remove(drop_ins))
    if unit.exists():
        plan.steps += [Run((*place.systemctl, "daemon-reload")),
                       Run((*place.systemctl, "reset-failed", UNIT), may_fail=True)]  # fmt: skip
    kept = _kept(place)
    if purge:
        plan.steps += [Remove(path) for path in kept]
        if not place.user:
            plan.steps += _strangers()
    elif kept:
        plan.notes.append(f"left, and removed by --purge: {', '.join(map(str, kept))}")
    return plan


def _kept(place: Place) -> list[Path]:
    """State and configuration."""
    if not place.user:
        kept = [STATE, CACHE, SYSTEM_FILE.parent]
    else:
        home = place.environ.get("XDG_STATE_HOME") or str(Path(place.environ.get("HOME", "~"), ".local", "state"))
        kept = [Path(home, NAME).expanduser(), place.config.parent]
    return [path for path in kept if path.is_dir()]


def _strangers() -> list[Remove | Run]:
    """The user and the folder that the system's service was given."""
    steps: list[Remove | Run] = []
    if (folder := Remove(DROP_FOLDER, empty=True)).needed:
        steps.append(folder)
    try:
        pwd.getpwnam(NAME)
    except KeyError:
        return steps
    steps.append(Run(("userdel", NAME)))
    members = grp.getgrnam(NAME)
    if pwd.getpwnam(NAME).pw_gid != members.gr_gid or members.gr_mem:
        steps.append(Run(("groupdel", NAME), may_fail=True))
    return steps
