"""The launcher as a keeper of processes: what it makes of their events and of their ends."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from gossip.console import SwarmConsole
from gossip.errors import GossipError
from gossip.launcher import Launcher
from gossip.observe import read_events
from gossip.spec import load

EXPERIMENT = load(Path(__file__).parents[1] / "deploy" / "experiments" / "two-machines.toml")
READY = {"t": 1.0, "node": "", "event": "said", "line": "gossip node --join TICKET"}
TRAINING = {"t": 2.0, "node": "n0", "event": "training", "progress": 0.0}
FINISHED = {"t": 3.0, "node": "n0", "event": "finished", "outcome": "finished", "why": "", "steps": 5, "accuracy": 0.5}


def script(*events: dict[str, Any], status: int = 0, complaint: str = "", waits: bool = False) -> str:
    """What a stand-in for a node does: say these events, perhaps wait for the end of its input, and end."""
    lines = "".join(json.dumps(event) + "\n" for event in events)
    return (
        f"import sys; sys.stdout.write({lines!r}); sys.stdout.flush(); sys.stderr.write({complaint!r});"
        f"{'sys.stdin.read();' if waits else ''} sys.exit({status})"
    )


MakeLauncher = Callable[..., Launcher]


@pytest.fixture
def make_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeLauncher]:
    """A launcher whose nodes are stand-ins, one script each."""
    made: list[Launcher] = []

    def make(*scripts: str) -> Launcher:
        stand_ins = iter(scripts)

        def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
            return subprocess.Popen([sys.executable, "-c", next(stand_ins)], **options)

        theirs = SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
        monkeypatch.setattr("gossip.launcher.subprocess", theirs)
        console = SwarmConsole("test", Console(file=io.StringIO()))
        made.append(Launcher(EXPERIMENT, nodes=len(scripts), run_dir=tmp_path / "run", console=console))
        return made[-1]

    yield make
    for launcher in made:
        launcher.end_all()


def play(launcher: Launcher) -> dict[str, str]:
    launcher.start()
    launcher.watch()
    return {name: child.end for name, child in launcher.children.items()}


def test_nodes_that_finish(make_launcher: MakeLauncher) -> None:
    """The first one's ticket starts the second; both are survivors; events are merged into one log."""
    launcher = make_launcher(script(READY, TRAINING, FINISHED), script(FINISHED | {"node": "n1"}))
    assert play(launcher) == {"n0": "finished", "n1": "finished"}
    assert [child.name for child in launcher.survivors()] == ["n0", "n1"]
    assert launcher.children["n0"].joined_at == 2.0
    names = [event["event"] for event in read_events(launcher.run_folder.events)]
    assert sorted(names) == ["finished", "finished", "training"]


def test_a_first_node_that_cannot_start_is_quoted(make_launcher: MakeLauncher) -> None:
    launcher = make_launcher(script(status=1, complaint="gossip: the port is taken\n"))
    with pytest.raises(GossipError, match="could not start: gossip: the port is taken"):
        launcher.start()


def test_a_node_that_dies_is_missed_with_its_last_words(make_launcher: MakeLauncher) -> None:
    launcher = make_launcher(
        script(READY, TRAINING, FINISHED), script(status=1, complaint="noise\ngossip: out of luck\n")
    )
    assert play(launcher) == {"n0": "finished", "n1": "failed"}
    assert launcher.children["n1"].why == "gossip: out of luck"
    assert [child.name for child in launcher.survivors()] == ["n0"]
    failed = [event for event in read_events(launcher.run_folder.events) if event["event"] == "failed"]
    assert [event["why"] for event in failed] == ["gossip: out of luck"]


def test_a_node_that_is_killed_was_not_a_failure(make_launcher: MakeLauncher) -> None:
    launcher = make_launcher(script(READY, TRAINING, waits=True), script(FINISHED))
    launcher.start()
    launcher.kill("n0")
    launcher.watch()
    assert launcher.children["n0"].end == "killed"
    assert launcher.children["n0"].process.returncode == -signal.SIGKILL


def test_what_is_no_event_is_passed_over(make_launcher: MakeLauncher) -> None:
    """A stray print, half a line, bytes: a launcher reads events and nothing else."""
    noise = "import sys; sys.stdout.buffer.write(b'\\xff\\xfe\\nhello\\n{\"event\":1}\\n'); sys.stdout.flush();"
    launcher = make_launcher(noise + script(READY, TRAINING, FINISHED))
    assert play(launcher) == {"n0": "finished"}


def test_nobody_outlives_the_launcher(make_launcher: MakeLauncher) -> None:
    """The end of standard input is the word to go."""
    launcher = make_launcher(script(READY, TRAINING, waits=True), script(TRAINING, waits=True))
    launcher.start()
    launcher.end_all()
    assert all(child.process.returncode == 0 for child in launcher.children.values())


def test_a_schedule_is_played_at_its_time_and_once(make_launcher: MakeLauncher) -> None:
    played: list[str] = []
    half = {"t": 2.5, "node": "n0", "event": "training", "progress": 0.5}
    launcher = make_launcher(script(READY, half, FINISHED))
    launcher.schedule = [
        (lambda: launcher.progress >= 0.3, lambda: played.append("early")),
        (lambda: launcher.progress >= 0.9, lambda: played.append("late")),
    ]
    play(launcher)
    assert played == ["early"]


def test_a_number_that_is_none_is_written_so_that_everybody_can_read_it(make_launcher: MakeLauncher) -> None:
    launcher = make_launcher(script(READY, TRAINING, FINISHED | {"loss": float("nan")}))
    assert play(launcher) == {"n0": "finished"}
    assert '"loss":null' in launcher.run_folder.events.read_text()
