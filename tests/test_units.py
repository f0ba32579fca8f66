from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.config.units import parse_duration, parse_size, spell_duration, spell_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30), ("5m", 300), ("1h30m", 5400), ("200ms", 0.2), ("1.5h", 5400), ("2 d", 172800), ("0", 0),
        ("10 minutes", 600), (" 1 h 5 min ", 3900), ("7", 7), ("0.5", 0.5), ("1D", 86400),
    ],
)  # fmt: skip
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5x", "-3s", "1m1m", "5 5", "1h-5m", "٣s", "nan", "inf", "1e3", "9" * 40])
def test_what_is_no_duration_is_refused_with_the_way_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 << 30), ("512 MB", 512_000_000), ("1.5 KiB", 1536), ("64M", 64 << 20), ("17", 17), ("17b", 17),
        ("1 kb", 1000), ("0", 0), ("3 bytes", 3), ("1TiB", 1 << 40),
    ],
)  # fmt: skip
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "5 XB", "1 GiB 2", "0x10", "1e3", "9" * 40, "99999999TiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size|larger than"):
        parse_size(text)


@given(st.text(max_size=30))
def test_any_text_is_a_number_or_a_value_error(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            assert 0 <= parse(text) < float("inf")
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017


@given(
    st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999), st.sampled_from(["", " ", "  "])
)
def test_a_written_duration_is_read_back(hours: int, minutes: int, seconds: int, milli: int, gap: str) -> None:
    text = gap.join([f"{hours}h", f"{minutes}m", f"{seconds}s", f"{milli}ms"])
    assert parse_duration(text) == pytest.approx(hours * 3600 + minutes * 60 + seconds + milli / 1000)


@given(st.integers(0, 4095), st.sampled_from([("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)]))
def test_a_written_size_is_read_back(number: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{number} {unit[0]}") == number << unit[1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4s"), (3, "3s"), (12.3, "12s"), (185, "3m 05s"), (7800, "2h 10m"), (273600, "3d 4h"), (59.7, "1m 00s")],
)
def test_durations_are_spelled(seconds: float, text: str) -> None:
    assert spell_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(512, "512 B"), (1536, "1.5 KiB"), (1 << 30, "1 GiB"), (1 << 41, "2.0 TiB")]
)
def test_sizes_are_spelled(size: int, text: str) -> None:
    assert spell_size(size) == text
