"""packaging/quickstart.py: the environment it makes, where it finds an installer, and the whole on a bare Debian."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGING = ROOT / "packaging"


@pytest.fixture(autouse=True)
def _packaging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PACKAGING))


# --- pip's settings -------------------------------------------------------------------------------------------


def test_later_files_and_the_environment_win(tmp_path: Path) -> None:
    from pip_settings import PipSettings

    site, user = tmp_path / "site.conf", tmp_path / "user.conf"
    site.write_text("[global]\nindex-url = https://one.invalid/simple\ntimeout = 60\ncert = /one.pem\n")
    user.write_text("[global]\nindex_url = https://two.invalid/simple\n[install]\nfind-links =\n  /a\n  /b\n")
    settings = PipSettings(
        {"PIP_CERT": "/env.pem", "PIP_EXTRA_INDEX_URL": "https://x.invalid https://y.invalid"}, [site, user]
    )
    assert settings.index_url == "https://two.invalid/simple"
    assert settings.find_links == ["/a", "/b"]
    assert settings.cert == "/env.pem"
    assert settings.extra_index_urls == ["https://x.invalid", "https://y.invalid"]
    assert settings.timeout == 60


def test_the_standard_files_are_found_and_can_be_switched_off(tmp_path: Path) -> None:
    from pip_settings import configuration_files

    found = list(configuration_files({"HOME": str(tmp_path), "PIP_CONFIG_FILE": "/x/pip.conf"}))
    wanted = [Path("/etc/pip.conf"), tmp_path / ".pip/pip.conf", tmp_path / ".config/pip/pip.conf", Path("/x/pip.conf")]
    assert [path for path in found if path in wanted] == wanted
    assert found[-1] == Path("/x/pip.conf")
    assert list(configuration_files({"HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull})) == []


def test_uv_is_told_what_pip_knows_and_its_own_settings_win(tmp_path: Path) -> None:
    from pip_settings import PipSettings

    pip = {
        "PIP_INDEX_URL": "https://mirror.invalid/simple",
        "PIP_CERT": "/ca.pem",
        "PIP_DEFAULT_TIMEOUT": "180",
        "PIP_TRUSTED_HOST": "mirror.invalid",
        "PIP_FIND_LINKS": f"{tmp_path} /not/there",
    }
    settings = PipSettings(pip, [])
    assert settings.uv_environment(pip) == {
        "UV_DEFAULT_INDEX": "https://mirror.invalid/simple",
        "SSL_CERT_FILE": "/ca.pem",
        "UV_HTTP_TIMEOUT": "180",
    }
    assert settings.uv_arguments(pip) == ["--allow-insecure-host", "mirror.invalid", "--find-links", str(tmp_path)]
    own = {**pip, "UV_INDEX_URL": "https://own.invalid/simple", "SSL_CERT_FILE": "/own.pem"}
    assert settings.uv_environment(own) == {"UV_HTTP_TIMEOUT": "180"}


# --- pip from an index ----------------------------------------------------------------------------------------

Index = Callable[[dict[str, str]], str]


@pytest.fixture
def index() -> Iterator[Index]:
    """Serve pages below /simple to whoever gives the password; returns the index's URL with it."""
    pages: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers["Authorization"] == "Basic " + base64.b64encode(b"me:p@ss").decode()
            body = pages.get(self.path) if allowed else None
            self.send_response(200 if body is not None else 401 if not allowed else 404)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def serve(content: dict[str, str]) -> str:
        pages.update((path, text.encode()) for path, text in content.items())
        return f"http://me:p%40ss@127.0.0.1:{server.server_address[1]}/simple"

    yield serve
    server.shutdown()
    thread.join()
    server.server_close()


def anchor(version: str, digest: str, attributes: str = "") -> str:
    return f'<a href="../../files/pip-{version}-py3-none-any.whl#sha256={digest}" {attributes}>pip</a>'


def test_the_newest_wheel_of_pip_that_runs_here_is_fetched_and_verified(index: Index, tmp_path: Path) -> None:
    from index import fetch_pip
    from pip_settings import PipSettings

    good = hashlib.sha256(b"pip 24").hexdigest()
    page = "".join(
        (
            anchor("9.0.3", "0" * 64),
            anchor("24.10", good, 'data-requires-python="&gt;=3.8"'),
            anchor("24.9", "0" * 64),
            anchor("98.0", "0" * 64, 'data-requires-python="&gt;=3.99"'),
            anchor("99.0", "0" * 64, 'data-yanked="broken"'),
            anchor("99.1rc1", "0" * 64),
        )
    )
    url = index({"/simple/pip/": page, "/files/pip-24.10-py3-none-any.whl": "pip 24"})
    (wheel,) = fetch_pip(PipSettings({"PIP_INDEX_URL": url}, []), tmp_path)
    assert wheel.name == "pip-24.10-py3-none-any.whl"
    assert wheel.read_bytes() == b"pip 24"


def test_a_wheel_that_is_not_what_the_index_promises_is_refused(index: Index, tmp_path: Path) -> None:
    from console import Failure
    from index import fetch_pip
    from pip_settings import PipSettings

    url = index({"/simple/pip/": anchor("24.0", "0" * 64), "/files/pip-24.0-py3-none-any.whl": "something else"})
    with pytest.raises(Failure, match="SHA-256") as raised:
        list(fetch_pip(PipSettings({"PIP_INDEX_URL": url}, []), tmp_path))
    assert "p%40ss" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_no_index_is_asked_where_none_is_named(tmp_path: Path) -> None:
    from index import fetch_pip
    from pip_settings import PipSettings

    assert list(fetch_pip(PipSettings({}, []), tmp_path)) == []


# --- the environment ------------------------------------------------------------------------------------------

BACKEND = """
import pathlib, zipfile

def build_editable(directory, settings=None, metadata=None):
    here = pathlib.Path(__file__).parent
    with zipfile.ZipFile(pathlib.Path(directory) / "ingestd-0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("ingestd.pth", str(here / "daemon"))
        wheel.writestr("ingestd-0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: ingestd\\nVersion: 0\\n"
            "Provides-Extra: minilm\\nProvides-Extra: test\\n")
        wheel.writestr("ingestd-0.dist-info/WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\n"
            "Tag: py3-none-any\\n")
        wheel.writestr("ingestd-0.dist-info/RECORD", "")
    return "ingestd-0-py3-none-any.whl"
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "ingestd"
version = "0"
[project.optional-dependencies]
minilm = []
test = []
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the real packaging/ and a project that installs offline, since it needs nothing."""
    directory = tmp_path / "checkout"
    shutil.copytree(PACKAGING, directory / "packaging", ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "daemon" / "ingestd").mkdir(parents=True)
    (directory / "daemon" / "ingestd" / "__init__.py").touch()
    (directory / "backend.py").write_text(BACKEND)
    (directory / "pyproject.toml").write_text(PROJECT)
    return directory


def quickstart(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    uv = shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".venv/installer/bin"))
    if uv is None:
        pytest.skip("uv is neither on PATH nor in .venv/installer; `python3 packaging/quickstart.py` fetches it")
    return subprocess.run(
        [sys.executable, str(checkout / "packaging/quickstart.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": f"{Path(uv).parent}:{os.environ['PATH']}", "UV_OFFLINE": "1", **environment},
    )


def test_a_second_run_installs_nothing_and_a_changed_project_is_installed_again(checkout: Path) -> None:
    first = quickstart(checkout, "install")
    assert first.returncode == 0, first.stderr
    assert "installing ingestd" in first.stdout
    assert (checkout / ".venv/bin/python").exists()

    second = quickstart(checkout, "install")
    assert second.returncode == 0
    assert second.stdout.splitlines() == [f"ready: {checkout}/.venv/bin/ingestd --help"]

    (checkout / "pyproject.toml").write_text(PROJECT + "# changed\n")
    third = quickstart(checkout, "install")
    assert third.returncode == 0
    assert "installing ingestd" in third.stdout
    assert "making the environment" not in third.stdout


def test_a_moved_checkout_gets_a_new_environment(checkout: Path) -> None:
    assert quickstart(checkout, "install").returncode == 0
    moved = checkout.rename(checkout.with_name("moved"))
    done = quickstart(moved, "install")
    assert done.returncode == 0, done.stderr
    assert "anew" in done.stdout
    where = [moved / ".venv/bin/python", "-c", "import ingestd; print(ingestd.__file__)"]
    assert subprocess.check_output(where, text=True).startswith(str(moved))


def test_somebody_elses_directory_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "precious").touch()
    done = quickstart(checkout, "install")
    assert done.returncode == 1
    assert f"mv {checkout}/.venv {checkout}/.venv.old" in done.stderr
    assert (checkout / ".venv" / "precious").exists()


def test_an_interrupted_installation_is_finished_by_the_next_run(checkout: Path) -> None:
    good = (checkout / "backend.py").read_text()
    (checkout / "backend.py").write_text("raise SystemExit('no')")
    failed = quickstart(checkout, "install")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr.rpartition("quickstart: ")[2]
    (checkout / "backend.py").write_text(good)
    done = quickstart(checkout, "install")
    assert done.returncode == 0, done.stderr


def test_the_second_command_passes_its_arguments_to_pytest(checkout: Path) -> None:
    (checkout / "daemon" / "pytest.py").write_text("import os, sys; print(sys.argv[1:], os.getcwd()); sys.exit(5)")
    done = quickstart(checkout, "test", "-k", "one or two")
    assert done.returncode == 5, done.stderr
    assert done.stdout.splitlines()[-1].startswith("['-n', ")  # in parallel, unless they say otherwise
    assert done.stdout.splitlines()[-1].endswith(f"'-k', 'one or two'] {checkout}")


def test_what_fails_among_many_is_run_once_more_alone(checkout: Path) -> None:
    """And only that: a test that fails alone too has failed."""
    program = "import os, sys; print(sys.argv[1:], flush=True); sys.exit({code} if '--last-failed' in sys.argv else 1)"
    for code in (0, 1):
        (checkout / "daemon" / "pytest.py").write_text(program.format(code=code))
        done = quickstart(checkout, "test")
        assert done.returncode == code
        assert done.stdout.splitlines()[-1] == "['--last-failed', '-n', '0']"
    done = quickstart(checkout, "test", "tests/test_a.py")  # who names tests sees what they did
    assert done.returncode == 1
    assert "--last-failed" not in done.stdout


def test_a_wrong_command_is_told_the_right_ones(checkout: Path) -> None:
    done = quickstart(checkout, "tset")
    assert done.returncode == 2
    assert "quickstart.py test" in done.stderr


def test_the_modules_need_the_standard_library_only() -> None:
    """Each imports in an interpreter without site-packages, and none says where packages come from."""
    files = list(PACKAGING.glob("*.py"))
    assert PACKAGING / "quickstart.py" in files
    assert not [file.name for file in files if "https:" in file.read_text()]
    names = [file.stem for file in files]
    code = f"import sys; sys.path.insert(0, {str(PACKAGING)!r})\nimport {', '.join(names)}"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


# --- on a bare Debian -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_first_command_on_a_bare_debian(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Python and nothing else: no pip, no ensurepip, no uv, no compiler, no git. The answer must be the right one."""
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        pytest.skip("needs root and debootstrap")
    system = tmp_path_factory.mktemp("debian")
    debootstrap = ["debootstrap", "--variant=minbase", "--include=python3,ca-certificates", "bookworm", str(system)]
    subprocess.run(debootstrap, check=True, capture_output=True)
    # the machine's ways to the outside
    for file in ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf"):
        if Path(file).exists():
            shutil.copyfile(file, system / file[1:])
    ways = {k: v for k, v in os.environ.items() if k.startswith("PIP_") or k.lower().endswith("_proxy")}
    kept = shutil.ignore_patterns(".git", ".venv", ".quickstart", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, system / "src", ignore=kept)

    def inside(command: str) -> subprocess.CompletedProcess[str]:
        variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", **ways}
        enter = f'mount --bind /dev {system}/dev && exec chroot {system} env -i "$@"'
        unshare = ["unshare", "--mount", "--pid", "--fork", f"--mount-proc={system}/proc", "sh", "-c", enter, "sh"]
        arguments = [*unshare, *(f"{k}={v}" for k, v in variables.items()), "sh", "-c", f"cd /src && {command}"]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=900)

    try:
        for absent in ("pip", "ensurepip"):
            assert inside(f"python3 -c 'import {absent}'").returncode == 1
        begun = time.monotonic()
        first = inside("python3 packaging/quickstart.py")
        seconds = time.monotonic() - begun
        assert first.returncode == 0, first.stdout + first.stderr
        assert "warranty.pdf" in first.stdout
        assert "60 days" in first.stdout
        begun = time.monotonic()
        again = inside("python3 packaging/quickstart.py")
        assert again.returncode == 0, again.stdout + again.stderr
        assert "installing" not in again.stdout
        assert time.monotonic() - begun < seconds
    finally:
        shutil.rmtree(system, ignore_errors=True)


def test_the_samples_are_what_the_question_needs() -> None:
    """The demonstration's question shares hardly a word with the passage that answers it."""
    import demo
    import pymupdf

    with pymupdf.open(PACKAGING / "samples" / "warranty.pdf") as pdf:
        answer = pdf[1].get_text()
    assert "60 days" in answer
    assert "broken" in demo.QUESTION
    assert "broken" not in answer
    assert sum(file.stat().st_size for file in (PACKAGING / "samples").iterdir()) < 300_000


def test_the_mark_is_plain_data(checkout: Path) -> None:
    assert quickstart(checkout, "install").returncode == 0
    mark = json.loads((checkout / ".venv/.ingestd.json").read_text())
    assert mark["root"] == str(checkout)
    assert mark["extras"] == ["minilm"]
