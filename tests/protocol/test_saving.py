"""When checkpoints are asked for, and what is said of those that fail."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from gossip.protocol import events as ev
from gossip.protocol.saving import Saving

SAVED = ev.CheckpointSaved(step=8, bytes=100, copy_s=0.0, seconds=0.1)
FULL = ev.CheckpointFailed("ENOSPC", "no space left on device")
READ_ONLY = ev.CheckpointFailed("EROFS", "read-only file system")


def notes() -> dict[str, Any]:
    return {"a": 1}


def test_nothing_is_saved_before_training() -> None:
    """A joiner without a state has nothing that is worth a file."""
    saving = Saving(60.0)
    assert saving.next_deadline() == math.inf
    assert saving.on_tick(1000.0, notes) == []


def test_what_cannot_wait_is_saved_at_once() -> None:
    """And not forgotten where a save is under way that began without it."""
    saving = Saving(60.0)
    saving.soon(0.0)
    assert saving.next_deadline() == math.inf, "there is no state yet"
    saving.begin(100.0)
    saving.soon(110.0)
    assert saving.on_tick(110.0, notes) == [ev.SaveCheckpoint(notes())]
    saving.soon(111.0)
    assert [type(effect) for effect in saving.on_tick(111.0, notes)] == [ev.Emit]
    saving.on_saved(SAVED)
    assert saving.on_tick(112.0, notes) == [ev.SaveCheckpoint(notes())]
    assert saving.next_deadline() == 172.0 - SAVED.seconds


def test_every_so_often_one_at_a_time() -> None:
    saving = Saving(60.0)
    saving.begin(100.0)
    first = saving.next_deadline()
    assert 140.0 < first < 160.0, "how long the disk takes is not known yet"
    assert saving.on_tick(first - 1.0, notes) == []
    assert saving.on_tick(first, notes) == [ev.SaveCheckpoint({"a": 1})]
    skipped = saving.on_tick(first + 60.0, notes)
    assert [effect.name for effect in skipped if isinstance(effect, ev.Emit)] == ["checkpoint_skipped"]
    assert saving.on_saved(SAVED)[0].name == "checkpoint_saved"  # type: ignore[union-attr]
    assert saving.on_tick(first + 119.0, notes) == []
    assert saving.on_tick(first + 120.0, notes) == [ev.SaveCheckpoint({"a": 1})]


@pytest.mark.parametrize(("disk_s", "oldest_s"), [(0.1, 60.0), (10.0, 60.0), (30.0, 75.0)])
def test_what_a_kill_costs_is_one_interval_the_writing_included(disk_s: float, oldest_s: float) -> None:
    """The state on the disk is of the moment its save began, and is all there is until the next one is whole."""
    saving = Saving(60.0)
    saving.begin(0.0)
    begun = [0.0]
    for _ in range(6):
        begun.append(saving.next_deadline())
        assert saving.on_tick(begun[-1], notes)
        saving.on_saved(ev.CheckpointSaved(step=8, bytes=100, copy_s=0.0, seconds=disk_s))
    lost_s = [after + disk_s - before for before, after in itertools.pairwise(begun)]
    assert max(lost_s) == pytest.approx(oldest_s), "and a slow disk is not written to all the time"


def test_a_late_tick_is_told_with_the_checkpoint() -> None:
    """Whoever asks why a kill cost more than the interval finds the reason in the log."""
    saving = Saving(60.0)
    saving.begin(0.0)
    saving.on_tick(saving.next_deadline() + 0.5, notes)
    (said,) = saving.on_saved(SAVED)
    assert isinstance(said, ev.Emit) and said.fields["late_s"] == 0.5


def test_each_kind_of_failure_is_said_once_until_one_succeeds() -> None:
    """A full disk at night must not fill the log, too."""
    saving = Saving(60.0)
    assert [len(saving.on_failed(event)) for event in (FULL, FULL, READ_ONLY, FULL)] == [1, 0, 1, 0]
    saving.on_saved(SAVED)
    assert len(saving.on_failed(FULL)) == 1


def test_a_failure_does_not_end_the_attempts() -> None:
    saving = Saving(60.0)
    saving.begin(0.0)
    assert saving.on_tick(60.0, notes)
    saving.on_failed(FULL)
    assert saving.on_tick(120.0, notes) == [ev.SaveCheckpoint({"a": 1})]
