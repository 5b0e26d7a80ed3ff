"""A forecast: from real steps, by formulas a person can check."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossip.plan import duration, lines, plan, size
from gossip.spec import load

FOLDER = Path(__file__).parents[1] / "deploy" / "experiments"


def test_the_printed_formula_is_the_forecast() -> None:
    found = plan(load(FOLDER / "two-machines.toml"), nodes=2, seconds=0.3)
    traffic, memory, end = found["traffic"], found["memory"], found["time"]
    shown = traffic["exchange_bytes"] * traffic["exchanges_per_s"] + traffic["membership"] + traffic["heartbeat"]
    assert traffic["up_per_hour"] == pytest.approx(3600 * shown)
    assert memory["working"] + memory["checkpoint"] == pytest.approx(28 * found["parameters"], rel=0.02)
    assert end["seconds"] == pytest.approx(end["samples"] / (2 * end["samples_per_s"]))
    text = lines(found)
    assert max(map(len, text)) <= 80
    assert f"{found['parameters']:,} parameters" in text[0]


def test_a_cap_bounds_traffic_and_distance_thins_exchanges() -> None:
    """100 ms there and back: four exchanges are open at most, however fast the steps."""
    experiment = load(FOLDER / "two-machines.toml")
    capped = plan(experiment, nodes=8, seconds=0.2, upload="20 kB/s")["traffic"]
    assert capped["up_per_s"] == pytest.approx(20_000)
    far = plan(experiment, nodes=8, seconds=0.2, round_trip_s=1.0)["traffic"]
    assert far["exchanges_per_s"] <= 4.0


def test_one_node_alone_sends_nothing() -> None:
    traffic = plan(load(FOLDER / "two-machines.toml"), nodes=1, seconds=0.2)["traffic"]
    assert traffic["up_per_s"] == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (90_061, "1 days 1 h"), (7200, "2 h")]
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_for_people() -> None:
    assert [size(count) for count in (12, 1_500, 2.5e6, 3e9)] == ["12 B", "1.5 kB", "2.5 MB", "3.0 GB"]
