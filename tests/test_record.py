"""The film of a run: the story it tells from events, and that it plays by itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import record
from click.testing import CliRunner

STATUS = {
    "phase": "training", "step": 100, "samples": 3200, "samples_per_s": 5000.0, "loss": 0.5, "accuracy": 0.7,
    "links": 1, "exchanges": 7, "exchanges_failed": 0, "bytes_sent": 10_000, "bytes_received": 20_000,
}  # fmt: skip


def event(t: float, node: str, name: str, **fields: object) -> dict[str, object]:
    return {"t": 1000.0 + t, "node": node, "event": name, **fields}


STORY = [
    event(0, "n0", "started"),
    event(0, "n1", "started"),
    event(1, "n0", "training", progress=0.0),
    event(1, "n1", "training", progress=0.0),
    event(3, "n0", "status", **STATUS, progress=0.4),
    event(3, "n1", "status", **STATUS, progress=0.4),
    event(4, "n2", "started"),
    event(4.1, "n<3>", "started"),
    event(5, "n2", "training", progress=0.5),
    event(6, "n0", "killed"),
    event(6, "n1", "leaving", why="stopped by SIGTERM"),
    event(8, "n2", "status", **STATUS, progress=1.0),
    event(9, "n2", "leaving", why="the run is over"),
]
RESULT = {
    "name": "tale", "accuracy_alone_max": 0.3, "alone_steps": 500, "accuracy_min": 0.991, "accuracy_mean": 0.992,
    "accuracy_of_mean_model": 0.993, "seconds": 9.0, "nodes": [], "picture": "-", "accuracy_alone": {},
    "bytes_by_kind": {"exchange": {"sent": 2_000_000, "received": 2_000_000}},
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in STORY), encoding="utf-8")
    (tmp_path / "run.json").write_text(json.dumps({"result": RESULT}), encoding="utf-8")
    return tmp_path


def test_the_notes_are_the_story() -> None:
    """Joiners that come together share a note; the end of the run is not a goodbye."""
    last = record.film(STORY, 10)[-1]
    assert last.notes == [
        "n2 and n<3> join: they hold a ticket, nothing else",
        "n0, the very first node, is killed (SIGKILL)",
        "n1 says goodbye",
    ]


def test_a_film_begins_with_training_and_ends_with_the_run() -> None:
    """Waiting for processes to start is nothing to watch."""
    first, *_, last = record.film(STORY, 10)
    assert (first.progress, last.progress) == (0.0, 1.0)
    assert first.caption.endswith(" 0 s") and last.caption.endswith(" 8 s")
    assert [state for state, _ in last.rows] == ["killed", "training", "training", "starting"]


def test_a_node_that_is_gone_has_no_rates() -> None:
    """Of the killed first node its last step and accuracy stay, not its speed."""
    (_, shown), *_ = record.film(STORY, 10)[-1].rows
    by_head = {column.head: text for column, text in zip(record.COLUMNS, shown, strict=True)}
    assert (by_head["step"], by_head["accuracy"], by_head["samples/s"], by_head["peers"]) == ("100", "70.0%", "", "")


def test_the_picture_plays_by_itself(run: Path) -> None:
    """As an image in a page it may run no script and load nothing; strangers' names are text."""
    out = run / "docs" / "film.svg"
    result = CliRunner().invoke(record.main, [str(run), str(out), "--frames", "12"])
    assert result.exit_code == 0, result.output
    text = out.read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    assert out.stat().st_size < 400_000
    assert not re.search(r"<script|<image|href|@import|url\(", text)
    assert text.count('<g transform="translate(0 ') == 13
    assert "n&lt;3&gt;" in text and "n<3>" not in text
    assert "animation:film 20s step-end infinite" in text and "prefers-reduced-motion" in text


def test_the_last_frame_says_what_it_was_for(run: Path) -> None:
    """In the words of the run's own summary."""
    alone, together, cost = record.last_words(RESULT)
    assert alone.startswith("alone    a node reaches at most 30.0%")
    assert together.startswith("together every survivor reaches at least 99.1%")
    assert cost == "in       9.0 s of training, 2.00 MB sent in all"


def test_an_empty_run_is_an_error_for_a_person(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").touch()
    result = CliRunner().invoke(record.main, [str(tmp_path), str(tmp_path / "out.svg")])
    assert result.exit_code == 1 and "no events in this run" in result.output
