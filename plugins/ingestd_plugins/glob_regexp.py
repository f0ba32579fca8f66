"""Shell-style patterns as regular expressions of Lucene."""

from __future__ import annotations

_SPECIAL = frozenset('.?+*|{}[]()"\\#@&<>~^$-/')


def glob_regexp(pattern: str) -> str | None:
    """What matches as `fnmatch.fnmatchcase` does; None where nothing can match."""
    out: list[str] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            if not out or out[-1] != ".*":
                out.append(".*")
        elif character == "?":
            out.append(".")
        elif character == "[" and (end := _end(pattern, position)) > 0:
            members = _class(pattern[position:end])
            if members is None:
                return None
            out.append(members)
            position = end + 1
        else:
            out.append(_literal(character))
    return "".join(out)


def _end(pattern: str, position: int) -> int:
    """Of the class that begins there; -1 where the bracket is an ordinary character."""
    return pattern.find("]", position + (pattern[position : position + 1] == "!") + 1)


def _class(members: str) -> str | None:
    negated = members.startswith("!")
    members = members[negated:]
    ranges: list[str] = []
    place = 0
    while place < len(members):
        first = members[place]
        if members[place + 1 : place + 2] == "-" and place + 2 < len(members):
            last = members[place + 2]
            place += 3
            if first <= last:
                ranges.append(f"{_literal(first)}-{_literal(last)}")
        else:
            ranges.append(_literal(first))
            place += 1
    if not ranges:
        return "." if negated else None
    return f"[{'^' if negated else ''}{''.join(ranges)}]"


def _literal(character: str) -> str:
    return f"\\{character}" if character in _SPECIAL else character
