"""A node that is killed with SIGKILL and started again from its run folder: what every one of its lives must show."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from processes import GossipProcess, wait_until

from gossip.observe import Event, parse_event

INTERVAL_S = 1.0  # between checkpoints
SLACK_S = 2.0  # a save's duration, and a tick's lateness on a busy machine
EARLY = 0.2  # the share of lives that end at any moment of the start, which takes about a second
START_S, LIFE_S = 1.5, 3.0  # at most, after the process began, or after it began to train
TOLD_EVERY = 10  # kills


class Story:
    """A node's events.jsonl, read on as it grows."""

    def __init__(self, run: Path) -> None:
        self.events: list[Event] = []
        self._path = run / "events.jsonl"
        self._offset = 0

    def read(self) -> list[Event]:
        """What is new in it since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            *lines, half = file.read().split(b"\n")
            self._offset = file.tell() - len(half)
        new = [event for line in lines if (event := parse_event(line.decode(errors="replace")))]
        self.events += new
        return new


class Life:
    """One process in a run folder, from its start to its kill."""

    def __init__(self, story: Story, process: GossipProcess, before: int = 0) -> None:
        """before: how many events were there when it began."""
        self.process = process
        self._story = story
        self._before = before

    @classmethod
    def start(cls, story: Story, *words: str | Path, **more: Any) -> Life:
        """more: for GossipProcess."""
        story.read()
        return cls(story, GossipProcess(*words, "--json", **more), len(story.events))

    @property
    def is_first(self) -> bool:
        return self._before == 0

    @property
    def events(self) -> list[Event]:
        """Of this life."""
        self._story.read()
        return self._story.events[self._before :]

    def wait_for(self, *names: str, within_s: float = 60.0) -> Event | None:
        """The first event of one of these names; None if the run ends before."""
        unseen = self._story.events[self._before :]

        def look() -> Event | bool:
            is_over = self.process.process.poll() is not None
            unseen.extend(self._story.read())
            found = next((event for event in unseen if event["event"] in names), None)
            unseen.clear()
            return found or is_over

        found = wait_until(look, within_s, f"{names} of {self.process.run}")
        return found if isinstance(found, dict) else None

    def rests(self, seconds: float) -> bool:
        """False where it has ended by itself before."""
        try:
            self.process.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def kill(self) -> Loss | None:
        """What that cost, or None where the run was over."""
        self.process.process.kill()
        killed_at = time.time()
        is_over = self.process.process.wait() == 0
        self.process.close()
        assert is_over or self.process.process.returncode == -9, self.process.story()
        return None if is_over else Loss.of(self.events, killed_at)


class Loss:
    """The training of one life that the disk knows nothing of."""

    def __init__(self, lost_s: float, write_s: float, late_s: float, silent_s: float) -> None:
        self.lost_s = lost_s  # since the state on the disk was copied
        self.write_s = write_s  # the longest save of this life
        self.late_s = late_s  # the latest that one was asked for, after it was due
        # From its last word to the kill. A node that trains among others has many a second: it was starved, or a step
        # took that long.
        self.silent_s = silent_s

    @classmethod
    def of(cls, events: list[Event], killed_at: float) -> Loss:
        """events: this life's."""
        saved = [event for event in events if event["event"] == "checkpoint_saved"]
        began = [event["t"] for event in events if event["event"] == "training"]
        since = saved[-1]["t"] - saved[-1].get("seconds", 0.0) if saved else (began or [killed_at])[0]
        writes, lates = ([event.get(key, 0.0) for event in saved] for key in ("seconds", "late_s"))
        silent_s = killed_at - events[-1]["t"] if events else 0.0
        return cls(killed_at - since, max(writes, default=0.0), max(lates, default=0.0), silent_s)


class Losses:
    """Of all kills."""

    def __init__(self) -> None:
        self._all: list[Loss] = []
        self.longest_s = 0.0

    def add(self, loss: Loss) -> None:
        self._all.append(loss)
        self.longest_s = max(self.longest_s, loss.lost_s)
        if len(self._all) % TOLD_EVERY == 0:
            print(f"{len(self._all)} kills, at most {self.longest_s:.2f} s lost", file=sys.stderr, flush=True)

    def __len__(self) -> int:
        return len(self._all)

    def report(self) -> dict[str, Any]:
        """How much, and, of the worst, why: saves took so long, were asked for so late, or nothing went on at all.

        What is not explained by these passed before a step had ended and the disk's thread was free, or in the save
        during which the kill fell, of which no event tells.
        """
        worst = max(self._all, key=lambda loss: loss.lost_s)
        return {
            "longest_lost_s": round(worst.lost_s, 3),
            "median_lost_s": round(statistics.median(loss.lost_s for loss in self._all), 3),
            "beyond_interval": sum(loss.lost_s > INTERVAL_S for loss in self._all),
            "worst_beyond_interval_s": round(max(0.0, worst.lost_s - INTERVAL_S), 3),
            "worst_write_s": round(worst.write_s, 3),
            "worst_late_s": round(worst.late_s, 3),
            "worst_silent_s": round(worst.silent_s, 3),
            "longest_write_s": round(max(loss.write_s for loss in self._all), 3),
            "longest_late_s": round(max(loss.late_s for loss in self._all), 3),
        }


def drawn_hour(draw: random.Random, life: Life) -> bool:
    """Until a random moment of this life, in its start or in its training; False where it ended by itself before."""
    is_early, start_s, life_s = draw.random() < EARLY, draw.uniform(0, START_S), draw.uniform(0, LIFE_S)
    if is_early:
        return life.rests(start_s)
    return life.wait_for("training") is not None and life.rests(life_s)


def lives_of(events: list[Event]) -> list[list[Event]]:
    """The events of each start that got as far as to say so."""
    starts = [n for n, event in enumerate(events) if event["event"] == "started"]
    return [events[first:end] for first, end in zip(starts, [*starts[1:], None], strict=True)]


def check_lives(events: list[Event]) -> None:
    """Every start: who it was, a higher incarnation, and the newest checkpoint said to be saved, or a newer one."""
    lives = lives_of(events)
    started = [life[0] for life in lives]
    assert len({event["key"] for event in started}) == 1
    incarnations = [event["incarnation"] for event in started]
    assert incarnations == sorted(set(incarnations)), incarnations
    bad = [event for event in events if event["event"] in ("checkpoint_refused", "checkpoint_failed")]
    assert not bad, json.dumps(bad[:3])
    saved = 0
    for life in lives:
        restored = next((event["step"] for event in life if event["event"] == "restored"), None)
        assert restored is None or restored >= saved, f"restored {restored}, saved {saved}"
        has_trained = any(event["event"] == "training" for event in life)
        assert restored is not None or not saved or not has_trained, f"nothing restored, saved {saved}"
        saved = max([saved, *(event["step"] for event in life if event["event"] == "checkpoint_saved")])
