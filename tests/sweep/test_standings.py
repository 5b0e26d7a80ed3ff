"""Who is best, and what stands below."""

from __future__ import annotations

import pytest

from gossip.sweep.standings import Progress, progress_of, standings

ROWS = [(number, {"train.batch": number}) for number in range(1, 8)]


def trial(number: int, state: str, *accuracies: float, seed: int = 1, why: str = "") -> Progress:
    return Progress(number, {"train.batch": number}, seed, state, why, list(accuracies), 0.5, 100, 1.0)


def test_finished_ones_come_first_by_accuracy_and_lost_ones_last() -> None:
    """A trial that stopped at a high accuracy was not judged by the whole validation part."""
    trials = [
        trial(1, "diverged", 0.1), trial(2, "finished", 0.5, 0.8), trial(3, "stopped", 0.95), trial(4, "running", 0.99),
        trial(5, "finished", 0.9), trial(6, "failed"),
    ]  # fmt: skip
    found = standings(ROWS, trials)
    assert [row.number for row in found] == [5, 2, 3, 4, 7, 1, 6]
    assert found[1].accuracy == 0.8 and found[5].accuracy is None


def test_seeds_make_one_row_that_is_as_good_as_its_worst_end() -> None:
    """A rate that diverges with one seed of three is no rate to promote."""
    good, bad = standings(
        ROWS[:2],
        [trial(1, "finished", 0.8), trial(1, "finished", 0.9, seed=2),
         trial(2, "finished", 0.99), trial(2, "diverged", seed=2, why="nan")],
    )  # fmt: skip
    assert (good.number, good.seeds, good.samples) == (1, 2, 200)
    assert good.accuracy == pytest.approx(0.85) and good.spread == pytest.approx(0.0707, abs=1e-4)
    assert (bad.state, bad.accuracy, bad.why) == ("diverged", None, "nan")


def test_a_record_is_the_trial() -> None:
    done = trial(3, "stopped", 0.1, 0.2, why="worse")
    assert progress_of(done.record()) == done
