"""Events: written at once, read back whole, and never in training's way."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from gossip.observe import (
    EVENTS_PER_S_MAX,
    Event,
    EventFile,
    EventLog,
    older_files,
    parse_event,
    read_events,
    write_atomically,
)


class Listener:
    """A console that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.events: list[Event] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def on_event(self, event: Event) -> None:
        self.events.append(event)


def test_an_event_is_on_disk_before_the_next_thing_happens(tmp_path: Path) -> None:
    listener = Listener()
    with (tmp_path / "events.jsonl").open("a") as stream:
        EventLog(stream, "n1", lambda: 12.34567, listener)("training", {"progress": 0.5})
        assert list(read_events(tmp_path / "events.jsonl")) == listener.events
    assert listener.events == [{"t": 12.3457, "node": "n1", "event": "training", "progress": 0.5}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_once_and_training_goes_on() -> None:
    """Every later event is dropped and counted; whoever watches still sees it."""
    listener = Listener()
    stream = Path("/dev/full").open("a")  # noqa: SIM115 - closing it fails too
    observe = EventLog(stream, "n1", lambda: 1.0, listener)
    for step in range(5):
        observe("status", {"step": step})
    assert len(listener.said) == 1
    assert "cannot write events any more" in listener.said[0]
    assert "No space left" in listener.said[0]
    assert observe.dropped == 5
    assert [event["step"] for event in listener.events] == [0, 1, 2, 3, 4]
    with contextlib.suppress(OSError):
        stream.close()


def test_a_line_cut_short_by_a_crash_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"t":1,"node":"a","event":"x"}\n{"t":2,"node":"a","ev')
    assert [event["t"] for event in read_events(path)] == [1]


@pytest.mark.parametrize("line", ["", "null", "3", "[]", "{}", '{"event":"x"}', '{"node":"x"}', "\x00"])
def test_what_is_no_event(line: str) -> None:
    assert parse_event(line) is None


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    write_atomically(path, b"old")

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_flood_of_one_event_is_thinned_and_counted(tmp_path: Path) -> None:
    """A busy exchange or a stranger's garbage must not fill the disk; other events are written as ever."""
    listener, seconds = Listener(), iter([1.0] * (EVENTS_PER_S_MAX + 5) + [1.5, 2.0, 2.1])
    with (tmp_path / "events.jsonl").open("a") as stream:
        observe = EventLog(stream, "n1", lambda: next(seconds), listener)
        for _ in range(EVENTS_PER_S_MAX + 5):
            observe("frames_dropped", {})
        observe("status", {})
        observe("frames_dropped", {})
        observe("frames_dropped", {})
    names = [event["event"] for event in read_events(tmp_path / "events.jsonl")]
    assert names == ["frames_dropped"] * EVENTS_PER_S_MAX + ["status"] + ["frames_dropped"] * 2
    assert [event.get("left_out") for event in listener.events[-2:]] == [5, None]


def test_a_run_of_weeks_does_not_fill_the_disk(tmp_path: Path) -> None:
    """Three files at most, read as one story; each alone tells which key is whose node."""
    path = tmp_path / "events.jsonl"
    file = EventFile(path, bytes_max=2_000)
    observe = EventLog(file, "n1", iter(range(10_000)).__next__, Listener())
    observe("started", {"key": "aa"})
    for step in range(200):
        observe("status", {"step": step})
    file.close()
    sizes = [each.stat().st_size for each in (*older_files(path), path)]
    assert len(list(tmp_path.iterdir())) == 3
    assert max(sizes) <= 2_000
    steps = [event["step"] for event in read_events(path) if event["event"] == "status"]
    assert steps == list(range(steps[0], 200))
    for each in (*older_files(path), path):
        assert next(read_events(each, with_older=False))["key"] == "aa"


def test_a_log_goes_on_on_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"t":1,"node":"a","event":"x"}\n{"t":2,"node":"a","ev')
    file = EventFile(path)
    EventLog(file, "a", lambda: 3.0, Listener())("y", {})
    file.close()
    assert [event["event"] for event in read_events(path)] == ["x", "y"]
