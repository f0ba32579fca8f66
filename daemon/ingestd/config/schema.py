"""Reading plain data (a parsed TOML table) into the configuration's structs, collecting every problem on the way."""

from __future__ import annotations

import datetime
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec

from ingestd.config.toml import Key
from ingestd.config.units import DURATION_HINT, SIZE_HINT, parse_duration, parse_size, spell_duration, spell_size

Duration = Annotated[float, msgspec.Meta(ge=0, extra={"unit": "duration"})]
"""Seconds."""
PositiveDuration = Annotated[float, msgspec.Meta(gt=0, extra={"unit": "duration"})]
Size = Annotated[int, msgspec.Meta(ge=0, extra={"unit": "size"})]
"""Bytes."""
Count = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Name = Annotated[str, msgspec.Meta(min_length=1)]

T = TypeVar("T", bound=msgspec.Struct)

_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})
_INTEGERS: Final = range(-(1 << 63), 1 << 63)


class Problem(NamedTuple):
    key: Key
    text: str


class Variable(str):
    """A value that came from an environment variable, hence text whatever the key's type is."""

    __slots__ = ()


def fields(table: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """The keys of a table, in the order in which the struct names them."""
    return {field.name: field for field in msgspec.structs.fields(table)}


def read(
    table: type[T], data: Mapping[str, Any], key: Key, problems: list[Problem], *, hidden: Iterable[str] = ()
) -> dict[str, Any]:
    """The values of `data` that are right, converted, ready to be arguments of `table`; the rest is in `problems`.

    `hidden`: fields of the struct that are not keys.
    """
    known = {name: field for name, field in fields(table).items() if name not in hidden}
    values: dict[str, Any] = {}
    for name, value in data.items():
        if name not in known:
            problems.append(Problem((*key, name), "unknown key" + nearest(name, known)))
            continue
        try:
            values[name] = convert(known[name].type, value)
        except ValueError as error:
            problems.append(Problem((*key, name), str(error)))
    for name, field in known.items():
        if field.required and name not in data:
            problems.append(Problem(key, f'the key "{name}" is missing'))
    return values


def close(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that was probably meant."""
    import difflib  # only on the way to an error

    folded = {_fold(word): word for word in known}
    found = difflib.get_close_matches(_fold(name), folded, 1, cutoff)
    return folded[found[0]] if found else None


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint to hang on a message: the known word that was probably meant, else all of them."""
    names = list(known)
    if meant := close(name, names):
        return f'; did you mean "{meant}"?'
    return f"; known: {', '.join(names)}" if names else ""


def _fold(word: str) -> str:
    return word.replace("-", "_").casefold()


def convert(kind: Any, value: Any) -> Any:
    """`value` as the annotated type `kind`. Raises `ValueError`, whose text says what was expected."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        meta = next(meta for meta in arguments[1:] if isinstance(meta, msgspec.Meta))
        return _bounded(arguments[0], meta, value)
    if origin in (typing.Union, types.UnionType):
        return _union([option for option in arguments if option is not type(None)], value)
    if origin is Literal:
        return _choice(arguments, value)
    if origin is tuple:
        return _strings(value)
    if kind is str:
        return _string(value)
    if kind is bool:
        return _boolean(value)
    if kind in (int, float):
        return _number(kind, None, value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a table, not {_describe(value)}")
        return {name: plain(item) for name, item in value.items()}
    raise TypeError(f"no rule for {kind!r}")


def plain(value: Any) -> Any:
    """A value of a table whose keys are not ours: strings, numbers, booleans, arrays and tables of them.

    Dates become ISO 8601 strings, since plugins in other processes get plain data only.
    """
    if isinstance(value, Variable):
        try:
            return plain(tomllib.loads(f"value = {value}")["value"])
        except (tomllib.TOMLDecodeError, RecursionError):
            return _string(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a number that can be used")
    if isinstance(value, int) and value not in _INTEGERS:
        raise ValueError("the number does not fit into 64 bits")
    return value


def _union(options: list[Any], value: Any) -> Any:
    if len(options) == 1:
        return convert(options[0], value)
    # The only union of two real types: one string, or several.
    return _string(value) if isinstance(value, str) and not isinstance(value, Variable) else _strings(value)


def _choice(choices: tuple[Any, ...], value: Any) -> Any:
    if isinstance(value, str) and value in choices:
        return str(value)
    listed = ", ".join(f'"{choice}"' for choice in choices)
    hint = nearest(value, choices) if isinstance(value, str) else ""
    raise ValueError(f"{_describe(value)} is none of {listed}" + (hint if "did you mean" in hint else ""))


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a string, not {_describe(value)}")
    if "\0" in value:
        raise ValueError("a string may not contain NUL")
    return str(value)


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, Variable):
        if not value.lstrip().startswith("["):
            return tuple(item for item in (part.strip() for part in value.split(",")) if item)
        try:
            value = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            raise ValueError(f"{_describe(value)} is not an array of strings") from None
    if isinstance(value, str):
        raise ValueError(f"expected an array of strings, not one string: write [{_describe(value)}]")
    if not isinstance(value, list):
        raise ValueError(f"expected an array of strings, not {_describe(value)}")
    return tuple(_string(item) for item in value)


def _boolean(value: Any) -> bool:
    if isinstance(value, Variable) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, not {_describe(value)}")
    return value


def _number(kind: type[int] | type[float], unit: str | None, value: Any) -> int | float:
    hint = {"duration": f"a duration ({DURATION_HINT})", "size": f"a size ({SIZE_HINT})"}.get(unit or "", "a number")
    number: int | float
    if isinstance(value, str) and unit == "duration":
        number = parse_duration(value)
    elif isinstance(value, str) and unit == "size":
        number = parse_size(value)
    elif isinstance(value, Variable):
        try:
            number = int(value) if kind is int and len(value) <= 20 else float(value)
        except ValueError:
            raise ValueError(f"expected {hint}, not {_describe(value)}") from None
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected {hint}, not {_describe(value)}")
    else:
        number = value
    if isinstance(number, float) and not math.isfinite(number):
        raise ValueError(f"expected {hint}, not {_describe(value)}")
    if isinstance(number, int) and number not in _INTEGERS:
        raise ValueError("the number does not fit into 64 bits")
    if kind is int and number != int(number):
        raise ValueError(f"expected a whole number, not {_describe(value)}")
    return kind(number)


def _bounded(kind: Any, meta: msgspec.Meta, value: Any) -> Any:
    if kind is str:
        if not _string(value):
            raise ValueError("must not be empty")
        return _string(value)
    unit = (meta.extra or {}).get("unit")
    number = _number(kind, unit, value)
    if meta.gt is not None and number <= meta.gt:
        raise ValueError(f"must be more than {meta.gt}, not {_describe(value)}")
    if meta.ge is not None and number < meta.ge:
        if number < 0:
            raise ValueError(f"must not be negative: {_describe(value)}")
        least = {"size": spell_size, "duration": spell_duration}.get(unit or "", str)(meta.ge)
        raise ValueError(f"must be at least {least}, not {_describe(value)}")
    if meta.le is not None and number > meta.le:
        raise ValueError(f"must be at most {meta.le}, not {_describe(value)}")
    return number


def _describe(value: Any) -> str:
    """What was written, short and on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        shown = value if value.isprintable() else ascii(str(value))[1:-1]
        return f'"{shown if len(shown) <= 60 else shown[:57] + "..."}"'
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, int) and value not in _INTEGERS:
        return "a huge number"
    return str(value)
