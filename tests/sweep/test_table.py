"""The table says who is best, with which values, and why some were given up, on narrow screens too."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gossip.commands.sweep_table import SweepConsole, how_far, one_line
from gossip.sweep.standings import Progress, standings

ROWS = [
    (1, {"train.learning_rate": 0.1, "model.preset": "mlp"}),
    (2, {"train.learning_rate": 0.003, "train.batch": 64}),
]
TRIALS = [
    Progress(
        1, ROWS[0][1], 1, "stopped", "61.2% after 33%, where the median of 5 was 88.0%", [0.612], 1.2, 20_000, 1.0
    ),
    Progress(2, ROWS[1][1], 1, "finished", "", [0.5, 0.96], 0.1, 60_000, 3.0),
    Progress(2, ROWS[1][1], 2, "finished", "", [0.5, 0.98], 0.1, 60_000, 3.0),
]


def shown(width: int) -> str:
    out = io.StringIO()
    console = SweepConsole(Console(file=out, width=width, highlight=False))
    console.show(standings(ROWS, TRIALS), "small, best first")
    return out.getvalue()


@pytest.mark.parametrize("width", [100, 50])
def test_the_best_is_on_top_and_reasons_are_below(width: int) -> None:
    """A row may lack a key: a wider sweep has other keys than the one before."""
    lines = shown(width).splitlines()
    best, other = (next(k for k, line in enumerate(lines) if value in line) for value in ("0.003", " mlp"))
    assert best < other and "97.00% ±1.41" in lines[best] and "finished" in lines[best] and " - " in lines[best]
    assert lines[-1] == "trial 1 stopped: 61.2% after 33%, where the median of 5 was 88.0%"
    assert ("120,000" in lines[best]) == (width == 100)


def test_a_line_for_each_trial() -> None:
    """Where there is no terminal."""
    assert one_line(TRIALS[1], with_seed=True) == "trial 2, learning_rate = 0.003, batch = 64, seed 1: 96.00%"
    assert one_line(TRIALS[0], with_seed=False).startswith("trial 1, learning_rate = 0.1, preset = mlp: stopped (61.2%")
    assert how_far(TRIALS[1]) == "trial 2 at 17% with 96.0%"
