from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestd.config import Config, LoaderTable, LoadTable, WatchTable, load
from ingestd.config.schema import convert, fields
from ingestd.errors import ConfigError

SHIPPED = Path(__file__).parent.parent / "config.toml"
HOME = {"HOME": "/home/someone"}


def write(directory: Path, text: str) -> Path:
    file = directory / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


def problems(directory: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(directory, text), {**HOME, **environ})
    return [line.removeprefix(f"{directory}/") for line in caught.value.message.split("\n")]


# --- config.toml as shipped -----------------------------------------------------------------------------------


def uncommented() -> str:
    """The shipped file with every key that it comments out."""
    text = SHIPPED.read_text(encoding="utf-8")
    text = re.sub(r"^#(?=\[\[|[a-z_]+ = )", "", text, flags=re.MULTILINE)
    return re.sub(r"^#(?=  \"|\])", "", text, flags=re.MULTILINE)


def shown_as_not_set() -> set[str]:
    """The commented keys whose comment says that they are not set by default."""
    found, comment = set(), ""
    for line in SHIPPED.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            comment = line if not comment.startswith("# ") else f"{comment} {line}"
        elif match := re.match(r"#([a-z_]+) = ", line):
            if "Not set" in comment:
                found.add(match[1])
            elif not line.startswith("#["):
                comment = ""
        else:
            comment = ""
    return found


def test_the_shipped_configuration_is_the_defaults() -> None:
    shipped = load(SHIPPED, HOME)
    assert msgspec.structs.replace(shipped, file=None, state=Config().state) == Config()
    assert shipped.state.directory == "/home/someone/.local/state/ingestd"


def test_the_shipped_configuration_shows_every_key_with_its_default() -> None:
    shown = tomllib.loads(uncommented())
    (watch,) = shown.pop("watch")
    assert watch.pop("name") == "documents"
    assert watch.pop("directory") == "~/Documents"
    not_set = shown_as_not_set()
    tables: dict[str, tuple[dict[str, Any], Any]] = {"watch": (watch, WatchTable(name="-", directory="-"))}
    tables |= {name: (shown.pop(name), getattr(Config(), name)) for name in list(shown)}
    assert set(tables) == set(Config.__struct_fields__) - {"file", "runtime_directory"}
    for name, (keys, defaults) in tables.items():
        known = {key for key in type(defaults).__struct_fields__ if key not in ("loaders", "sinks")}
        assert set(keys) | {"name", "directory"} >= known, f"[{name}] lacks {known - set(keys)}"
        for key, value in keys.items():
            default = getattr(defaults, key)
            read = convert(fields(type(defaults))[key].type, value)
            if default is None:
                assert key in not_set, f"[{name}] {key} does not say that it is not set"
            else:
                assert read == default or (key == "devices" and value == default), f"[{name}] {key}"


def test_the_shipped_configuration_with_everything_in_it_is_right(tmp_path: Path) -> None:
    config = load(write(tmp_path, uncommented()), HOME)
    assert config.watch[0].directory == "/home/someone/Documents"
    for key in LoaderTable.__struct_fields__:
        assert re.search(rf"\b{key}\b", SHIPPED.read_text(encoding="utf-8")), f"[load.NAME] {key} is not explained"


# --- where it is read from ------------------------------------------------------------------------------------


def test_the_order_in_which_files_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("option", "variable", "config"):
        (tmp_path / f"{name}.toml").write_text(f'[encode]\nmodel = "{name}"\n')
    environ = {**HOME, "INGESTD_CONFIG": str(tmp_path / "variable.toml")}
    assert load(tmp_path / "option.toml", environ).encode.model == "option"
    assert load(None, environ).encode.model == "variable"
    assert load(None, HOME).encode.model == "config"
    assert load(None, HOME).file == str(tmp_path / "config.toml")
    monkeypatch.setattr("ingestd.config.settings.SYSTEM_FILE", tmp_path / "option.toml")
    (tmp_path / "config.toml").unlink()
    assert load(None, HOME).encode.model == "option"
    (tmp_path / "option.toml").unlink()
    assert load(None, HOME).file is None


@pytest.mark.parametrize("variable", [False, True])
def test_a_named_file_must_be_there(tmp_path: Path, variable: bool) -> None:
    missing = tmp_path / "nowhere.toml"
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot read the configuration: No such file"):
        load(None if variable else missing, {"INGESTD_CONFIG": str(missing)} if variable else {})


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration: Is a directory"):
        load(tmp_path, HOME)
    file = tmp_path / "x.toml"
    file.write_bytes(b"[load]\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"x\.toml:2: not UTF-8: byte 0xe9"):
        load(file, HOME)
    file.write_bytes(b"a = " + b"[" * 5000 + b"]" * 5000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        load(file, HOME)


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(b"\xef\xbb\xbf[load]\r\nworkers = 3\r\nx = 1\r\n")
    with pytest.raises(ConfigError, match=r"config.toml:3: \[load\] x: unknown key"):
        load(file, HOME)


# --- the state directory --------------------------------------------------------------------------------------


def test_which_state_directory_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sub" / "config.toml"
    file.parent.mkdir()
    file.write_text('[state]\ndirectory = "from-file"\n')
    environ = {**HOME, "STATE_DIRECTORY": "/var/lib/ingestd:/other", "XDG_STATE_HOME": "/xdg"}
    variable = {**environ, "INGESTD_STATE_DIR": "from-variable", "INGESTD_STATE__DIRECTORY": "never"}
    empty = write(tmp_path, "")
    assert load(file, variable, "from-option").state_directory == tmp_path / "from-option"
    assert load(file, variable).state_directory == tmp_path / "from-variable"
    assert load(file, environ).state_directory == file.parent / "from-file"
    assert load(empty, environ).state_directory == Path("/var/lib/ingestd")
    del environ["STATE_DIRECTORY"]
    assert load(empty, environ).state_directory == Path("/xdg/ingestd")
    assert load(empty, {**HOME, "XDG_STATE_HOME": "relative"}).state_directory == Path(
        HOME["HOME"], ".local/state/ingestd"
    )
    assert load(empty, HOME, "~/here").state_directory == Path(HOME["HOME"], "here")


def test_the_control_socket_is_in_the_runtime_directory_if_there_is_one(tmp_path: Path) -> None:
    empty = write(tmp_path, "")
    assert load(empty, HOME, "/state").control_socket == Path("/state/control.sock")
    environ = {**HOME, "RUNTIME_DIRECTORY": "/run/ingestd:/run/more"}
    assert load(empty, environ, "/state").control_socket == Path("/run/ingestd/control.sock")


def test_a_configuration_made_in_code_has_a_state_directory() -> None:
    assert Config().state_directory == Path("~/.local/state/ingestd").expanduser()


# --- problems -------------------------------------------------------------------------------------------------

WATCH = '[[watch]]\nname = "a"\ndirectory = "/a"\n'
PROBLEMS = [
    ("[load]\ndeadlin = 3", 'config.toml:2: [load] deadlin: unknown key; did you mean "deadline"?'),
    ("[load]\nDead-Line = 3", 'config.toml:2: [load] Dead-Line: unknown key; did you mean "deadline"?'),
    ("load.deadlin = 3", 'config.toml:1: [load] deadlin: unknown key; did you mean "deadline"?'),
    ("load = { workers = 1, deadlin = 3 }", 'config.toml:1: [load] deadlin: unknown key; did you mean "deadline"?'),
    ("\n\n[lod]\nx = 1", 'config.toml:3: [lod]: unknown table; did you mean "load"?'),
    ("modle = 1", "config.toml:1: modle: unknown key; known: state, watch, load, chunk, encode, index, log"),
    ("[load]\nmodel = 'x'", "config.toml:2: [load] model: unknown key; it belongs to [encode]"),
    ("[encode]\nsettle = 1", "config.toml:2: [encode] settle: unknown key; it belongs to [[watch]]"),
    ('[load]\ndeadline = "5x"', "config.toml:2: [load] deadline: '5x' is not a duration"),
    ("[load]\ndeadline = true", "config.toml:2: [load] deadline: expected a duration"),
    ("[load]\ndeadline = 0", "config.toml:2: [load] deadline: must be more than 0, not 0"),
    ("[load]\ndeadline = -3", "config.toml:2: [load] deadline: must be more than 0, not -3"),
    ("[load]\ndeadline = nan", "config.toml:2: [load] deadline: expected a duration"),
    ("[load]\ndeadline_per_mb = -0.5", "config.toml:2: [load] deadline_per_mb: must not be negative: -0.5"),
    ("[load.deadline]\nx = 1", "config.toml:1: [load.deadline]: expected a duration"),
    ('[load]\nmemory = "2 gigs"', "config.toml:2: [load] memory: '2 gigs' is not a size"),
    ("[load]\nmemory = 2", "config.toml:2: [load] memory: must be at least 64 MiB, not 2"),
    ("[load]\nmax_text = 1.5", "config.toml:2: [load] max_text: expected a whole number, not 1.5"),
    ("[load]\nmax_text = 99999999999999999999", "config.toml:2: [load] max_text: the number does not fit"),
    ("[load]\nworkers = '3'", 'config.toml:2: [load] workers: expected a number, not "3"'),
    ("[load]\nmax_strikes = 0", "config.toml:2: [load] max_strikes: must be at least 1, not 0"),
    ("[load]\non_limit = 'trunc'", 'config.toml:2: [load] on_limit: "trunc" is none of "truncate", "quarantine"; did'),
    ("[load]\nsandbox = 1", 'config.toml:2: [load] sandbox: 1 is none of "required"'),
    ("[load.pdf]\nworkers = 1\ndeadlines = 3", "config.toml:3: [load.pdf] deadlines: unknown key; did you mean"),
    ("[load.pdf]\nmemory = 'x'", "config.toml:2: [load.pdf] memory: 'x' is not a size"),
    ("[load.pdf]\nsuffixes = ['PDF']", 'config.toml:2: [load.pdf] suffixes: "PDF" must be lower case and start with'),
    ("[load.pdf]\nsuffixes = '.pdf'", 'config.toml:2: [load.pdf] suffixes: expected an array of strings, not one'),
    ("[load.'a b']\nx = 1", "config.toml:1: [load.\"a b\"]: a plugin's name is"),
    ("[load]\nloaders = 3", "config.toml:2: [load] loaders: unknown key"),
    ("[load.pdf]\nbig = 99999999999999999999", "config.toml:2: [load.pdf] big: the number does not fit into 64 bits"),
    ("[[load]]\nworkers = 1", "config.toml:1: [load]: a table is wanted here: write [load]"),
    ("load = 3", "config.toml:1: load: a table is wanted here: write [load]"),
    ("[index]\nsink = ''", "config.toml:2: [index] sink: must not be empty"),
    ("[index]\nsnk = 'x'", 'config.toml:2: [index] snk: unknown key; did you mean "sink"?'),
    ("[encode]\nmodel = 3", "config.toml:2: [encode] model: expected a string, not 3"),
    ('[encode]\nmodel = "a\\u0000b"', "config.toml:2: [encode] model: a string may not contain NUL"),
    ("[encode]\ndevices = []", "config.toml:2: [encode] devices: at least one device is wanted"),
    ("[encode]\ndevices = [1]", "config.toml:2: [encode] devices: expected a string, not 1"),
    ("[encode]\nnormalize = 'yes'", 'config.toml:2: [encode] normalize: expected true or false, not "yes"'),
    ("[encode]\ndtype = 'bf16'", 'config.toml:2: [encode] dtype: "bf16" is none of "auto", "float32", "bfloat16"'),
    ("[chunk]\nmax_tokens = 3", "config.toml:2: [chunk] max_tokens: must be at least 16"),
    ("[chunk]\nmax_tokens = 32", "[chunk] overlap: must be less than max_tokens (32)"),
    ("[log]\nlevel = 'warn'", 'config.toml:2: [log] level: "warn" is none of "debug", "info", "warning", "error"; did'),
    ("[watch]\nname = 'x'", "config.toml:1: [[watch]]: an array of tables is wanted here: write [[watch]]"),
    ("[[watch]]\nname = 'x'", 'config.toml:1: [[watch]]: the key "directory" is missing'),
    (WATCH + "settl = 3", 'config.toml:4: [[watch]] settl: unknown key; did you mean "settle"?'),
    (WATCH + "settle = '10m'", "config.toml:4: [[watch]] settle: must not be longer than max_settle"),
    (WATCH + "recursive = 1", "config.toml:4: [[watch]] recursive: expected true or false, not 1"),
    (WATCH + "mode = 'pol'", 'config.toml:4: [[watch]] mode: "pol" is none of "auto", "inotify", "poll"; did you'),
    (WATCH + "exclude = ['a', 3]", "config.toml:4: [[watch]] exclude: expected a string, not 3"),
    (WATCH + "metadata = 3", "config.toml:4: [[watch]] metadata: expected a table, not 3"),
    (WATCH + "metadata = { x = nan }", "config.toml:4: [watch.metadata]: nan is not a number that can be used"),
    (WATCH + WATCH.replace("/a", "/b"), 'config.toml:5: [[watch]] name: another source is named "a" already'),
    (WATCH + WATCH.replace('"a"', '"b"'), 'config.toml:6: [[watch]] directory: source "b" overlaps source "a": both'),
    (WATCH + '[[watch]]\nname = "b"\ndirectory = "/a/in"', 'source "b" overlaps source "a": /a/in is inside /a'),
    ('[[watch]]\nname = "b"\ndirectory = "/a/in"\n' + WATCH, 'source "a" overlaps source "b": /a/in is inside /a'),
    (WATCH.replace('"a"', '"ingest"'), 'config.toml:2: [[watch]] name: the name "ingest" is reserved'),
    (WATCH.replace('"a"', '"a/b"'), "config.toml:2: [[watch]] name: a name is up to 64 letters"),
    (WATCH.replace('"/a"', '""'), "config.toml:3: [[watch]] directory: must not be empty"),
    (WATCH.replace('"/a"', '"~nobody-of-that-name/x"'), "there is no home directory for ~nobody-of-that-name"),
    (WATCH.replace('"/a"', '"/home/someone/.local/state/ingestd/x"'), "is inside the state directory"),
    ("[state]\ndirectory = ''", "config.toml:2: [state] directory: must not be empty"),
    ("[load\n", "config.toml:1: "),
    ('x = "a\nb"', "config.toml:1: "),
    ("[load]\nworkers = 1\nworkers = 2", "config.toml:3: Cannot overwrite a value"),
    ('"a\\nb" = 1', 'config.toml:1: "a\\nb": unknown key'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), PROBLEMS)
def test_a_problem_is_named_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    (line,) = problems(tmp_path, text)
    assert expected in line


def test_all_problems_are_named_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = '[encode]\nmodle = "x"\n' + WATCH + "settle = -1\n[load]\nworkers = -1\n"
    found = problems(tmp_path, text, INGESTD_LOG__LEVEL="loud", INGESTD_LAOD__WORKERS="3")
    assert [line.split(" ")[0] for line in found] == [
        "config.toml:2:", "config.toml:6:", "config.toml:8:", "INGESTD_LAOD__WORKERS:", "INGESTD_LOG__LEVEL:",
    ]  # fmt: skip


def test_values_are_read_in_their_units(tmp_path: Path) -> None:
    text = (
        WATCH + 'settle = "500ms"\n[load]\nmemory = "1GiB"\ndeadline = 5\n[load.pdf]\ndeadline = "1h"\nstrict = true\n'
    )
    config = load(write(tmp_path, text), HOME)
    assert (config.watch[0].settle, config.load.memory, config.load.deadline) == (0.5, 1 << 30, 5.0)
    assert config.load.limits("pdf").deadline == 3600
    assert config.load.limits("word").deadline == 5
    assert config.load.options("pdf") == {"strict": True}


def test_limits_of_a_source_win_over_those_of_a_loader(tmp_path: Path) -> None:
    text = WATCH + 'deadline = "9m"\nmax_parts_ratio = 900\n[load.zip]\nmax_parts_ratio = 300\n'
    text += '[load.pdf]\ndeadline = "1h"\nidle_deadline = "3m"\n'
    config = load(write(tmp_path, text), HOME)
    assert config.limits("pdf", "a").deadline == 540
    assert (config.limits("zip", "a").max_parts_ratio, config.limits("zip").max_parts_ratio) == (900, 300)
    assert config.limits("pdf", "a").idle_deadline == 180
    assert config.limits("pdf", "elsewhere").deadline == 3600
    assert config.limits("pdf") == config.load.limits("pdf")


def test_a_plugins_own_table_is_plain_data(tmp_path: Path) -> None:
    text = "[load.own]\nday = 2026-01-31\nat = 10:00:00\n[load.own.deep]\nlist = [1, 2.5, 'x', { a = true }]\n"
    text += "[index.es]\nurl = 'http://x'\n"
    config = load(write(tmp_path, text), HOME)
    assert config.load.loaders["own"] == {
        "day": "2026-01-31", "at": "10:00:00", "deep": {"list": [1, 2.5, "x", {"a": True}]},
    }  # fmt: skip
    assert config.index.sinks == {"es": {"url": "http://x"}}


def test_relative_directories_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load(write(tmp_path, WATCH.replace("/a", "docs/../in") + '[log]\nfile = "log/x"\n'), HOME)
    assert config.watch[0].directory == str(tmp_path / "in")
    assert config.log.file == str(tmp_path / "log/x")


def test_a_flat_source_does_not_overlap_what_lies_below(tmp_path: Path) -> None:
    text = WATCH + 'recursive = false\n[[watch]]\nname = "b"\ndirectory = "/a/in"\n'
    assert len(load(write(tmp_path, text), HOME).watch) == 2


def test_a_watched_state_directory_is_excluded(tmp_path: Path) -> None:
    text = WATCH.replace("/a", "/home/someone") + "[log]\nfile = '/home/someone/a b/[x]!.log'\n"
    watch = load(write(tmp_path, text), HOME).watch[0]
    assert watch.exclude[-2:] == ("/.local/state/ingestd", "/a\\ b/\\[x\\]\\!.log")
    import pathspec

    spec = pathspec.GitIgnoreSpec.from_lines(watch.exclude[-2:])
    assert spec.match_file(".local/state/ingestd/journal.sqlite")
    assert spec.match_file("a b/[x]!.log")
    assert not spec.match_file("a b/other.log")


@pytest.mark.parametrize(
    ("written", "read"),
    [("'auto'", "auto"), ("'cpu'", ("cpu",)), ("['cpu', 'cpu']", ("cpu", "cpu")), ("['auto']", "auto")],
)
def test_devices(tmp_path: Path, written: str, read: Any) -> None:
    assert load(write(tmp_path, f"[encode]\ndevices = {written}\n"), HOME).encode.devices == read


# --- variables ------------------------------------------------------------------------------------------------


def test_variables_override_the_file(tmp_path: Path) -> None:
    environ = {
        "INGESTD_ENCODE__MODEL": "other",
        "INGESTD_ENCODE__DEVICES": "cuda:0, cuda:1", "INGESTD_ENCODE__NORMALIZE": "no",
        "INGESTD_ENCODE__QUERY_PROMPT": "", "INGESTD_LOAD__WORKERS": "3", "INGESTD_LOAD__MEMORY": "1GiB",
        "INGESTD_LOAD__PDF__DEADLINE": "5m", "INGESTD_LOAD__PDF__OWN": "[1, 2]", "INGESTD_LOAD__PDF__WORD": "plain",
        "INGESTD_LOAD__PDF__SUFFIXES": ".pdf,.ai", "INGESTD_INDEX__ES__URL": "http://x", "INGESTD_LOG__LEVEL": "debug",
        "INGESTD_TOKEN": "of a worker", "INGESTD_DEBUG": "1",
    }  # fmt: skip
    config = load(write(tmp_path, '[encode]\nmodel = "m"\n[load.pdf]\ndeadline = 1\n'), HOME | environ)
    assert config.encode.model == "other"
    assert config.encode.devices == ("cuda:0", "cuda:1")
    assert config.encode.normalize is False
    assert config.encode.query_prompt == ""
    assert (config.load.workers, config.load.memory) == (3, 1 << 30)
    assert config.load.loaders["pdf"] == {
        "deadline": 300.0,
        "own": [1, 2],
        "word": "plain",
        "suffixes": (".pdf", ".ai"),
    }
    assert config.index.sinks == {"es": {"url": "http://x"}}
    assert type(config.encode.model) is str


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("INGESTD_ENCODE__MODLE", "x", 'unknown key; did you mean "model"?'),
        ("INGESTD_LAOD__WORKERS", "1", 'unknown table; did you mean "load"?'),
        ("INGESTD_LOAD__WORKERS", "many", 'expected a number, not "many"'),
        ("INGESTD_LOAD__WORKERS", "-1", 'must not be negative: "-1"'),
        ("INGESTD_LOAD__WORKERS", "9" * 5000, "expected a number"),
        ("INGESTD_LOAD__DEADLINE", "soon", "'soon' is not a duration"),
        ("INGESTD_ENCODE__NORMALIZE", "maybe", 'expected true or false, not "maybe"'),
        ("INGESTD_ENCODE__DEVICES", "[", "is not an array of strings"),
        ("INGESTD_ENCODE__DEVICES", "", "at least one device is wanted"),
        ("INGESTD_WATCH__NAME", "x", "a source cannot come from a variable"),
        ("INGESTD_ENCODE__", "x", "write INGESTD_<TABLE>__<KEY>"),
        ("INGESTD_ENCODE__A__B", "x", "write INGESTD_<TABLE>__<KEY>"),
        ("INGESTD_STATE_DIR", "a\udcffb", "the path must be UTF-8"),
    ],
)
def test_an_error_in_a_variable_names_it(tmp_path: Path, variable: str, value: str, expected: str) -> None:
    (line,) = problems(tmp_path, "", **{variable: value})
    assert line.startswith(f"{variable}: ")
    assert expected in line


def test_every_key_can_be_set_by_a_variable() -> None:
    samples = {"duration": "5m", "size": "1GiB"}
    for name in ("state", "load", "chunk", "encode", "index", "log"):
        for key, field in fields(type(getattr(Config(), name))).items():
            if key in ("loaders", "sinks"):
                continue
            default = getattr(getattr(Config(), name), key)
            unit = next((s for u, s in samples.items() if f"'{u}'" in repr(field.type)), None)
            value = unit or {bool: "true", int: "64"}.get(type(default), str(default or "true"))
            config = load(None, {**HOME, f"INGESTD_{name}__{key}".upper(): value})
            assert getattr(getattr(config, name), key) is not None


# --- anything at all ------------------------------------------------------------------------------------------

_names = st.sampled_from(
    [
        *Config.__struct_fields__,
        *WatchTable.__struct_fields__,
        *LoadTable.__struct_fields__,
        "pdf",
        "x",
        "",
        "a b",
        "é\n",
    ]
)
_plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["5m", "auto"])


def _toml(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
        case None:
            return "2026-01-31T00:00:00Z"
        case _:
            return str(value)


def _key(key: str) -> str:
    return _toml(key)


_trees = st.dictionaries(
    _names,
    st.recursive(
        _plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=4), max_leaves=6
    ),
    max_size=4,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(_trees, st.dictionaries(st.sampled_from(["INGESTD_LOAD__PDF", "INGESTD_LOAD__PDF__X", "INGESTD_INDEX__SINKS",
                                                "INGESTD_STATE__DIRECTORY", "INGESTD_LOAD__WORKERS"]),
                               st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=2))  # fmt: skip
def test_any_toml_is_a_configuration_or_a_configuration_error(
    tmp_path: Path, tree: dict[str, Any], environ: dict[str, str]
) -> None:
    text = "".join(f"{_key(key)} = {_toml(value)}\n" for key, value in tree.items())
    try:
        config = load(write(tmp_path, text), HOME | environ)
    except ConfigError as error:
        for line in error.message.split("\n"):
            assert line.startswith((str(tmp_path), "INGESTD_")), line
    else:
        msgspec.msgpack.encode(config)
        assert config.state_directory.is_absolute()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=40) | st.text(st.sampled_from("[]watch=\"'\n{}.1 "), max_size=40).map(str.encode))
def test_any_bytes_are_a_configuration_or_a_configuration_error(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(data)
    try:
        load(file, HOME)
    except ConfigError as error:
        assert error.message.startswith(str(file))  # noqa: PT017
