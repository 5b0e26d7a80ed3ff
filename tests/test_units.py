"""Quantities as people write them."""

from __future__ import annotations

import pytest

from gossip.errors import SpecError
from gossip.units import bytes_per_s_of, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"), [("90 s", 90), ("1.5min", 90), ("2 h", 7200), ("3 days", 259_200), (" 1 Hour ", 3600)]
)
def test_a_duration_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [("1 mbit/s", 125_000), ("1 Mbit/s", 125_000), ("10Mbps", 1.25e6), ("200 kB/s", 200_000), ("8 kb/s", 1000),
     ("1 byte/s", 1)],
)  # fmt: skip
def test_a_rate_tells_bits_from_bytes(text: str, bytes_per_s: float) -> None:
    """Eight times too much would empty a volunteer's data plan."""
    assert bytes_per_s_of(text) == bytes_per_s


@pytest.mark.parametrize("text", ["", "fast", "1", "-1 s", "0 s", "1 mbit", "1e3 s", "1 parsec", "1 s s"])
def test_anything_else_is_named_with_what_was_expected(text: str) -> None:
    with pytest.raises(SpecError, match="expected a number and a unit"):
        seconds_of(text)
    with pytest.raises(SpecError, match="expected a number and a unit"):
        bytes_per_s_of(text)
