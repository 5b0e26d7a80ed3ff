"""Copies outside the swarm: whole runs in a folder, or whatever a command does; failures are one word to the node."""

from __future__ import annotations

import os
import queue
import shlex
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gossip.backup import EVERY_S, HURRY_S, Backup
from gossip.models.model import build_model
from gossip.runs import RunFolder, load_parameters
from gossip.sections import NodeSpec
from gossip.spec import load

EXPERIMENT = load(Path(__file__).parents[1] / "deploy" / "experiments" / "two-machines.toml")
MODEL = build_model(EXPERIMENT.layers, EXPERIMENT.recipe.mean, EXPERIMENT.recipe.std)
PADDED = -(-MODEL.dim // 256) * 256
SECRET = "curl -u me:password"


class Bench:
    """A run with a checkpoint, and its backup."""

    def __init__(self, tmp_path: Path, target: str) -> None:
        experiment = msgspec.structs.replace(EXPERIMENT, node=NodeSpec(backup=SECRET))
        self.run = RunFolder.create(experiment, tmp_path / "run")
        self.run.note(node={"data_dir": SECRET}, result={"outcome": "left"})
        (self.run.path / "node.key").write_text(SECRET)
        (self.run.path / "swarm.json").write_text(SECRET)
        self.said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.backup = Backup(target, self.run, experiment, MODEL, "run-node-00", self.said.put)

    def save(self, step: int) -> Path:
        x = np.zeros(PADDED, np.float32)
        x[: MODEL.dim] = step
        return self.run.checkpoints.save(step, {"x": x}, {"node": {}})

    def copied(self, step: int, now: float) -> str:
        self.backup.on_checkpoint(self.save(step), now)
        return self.said.get(timeout=30)


def test_a_folder_gets_a_run_that_can_be_looked_at(tmp_path: Path) -> None:
    """Spec, notes, model and the newest checkpoint; no key, no password, nothing of [node]."""
    bench = Bench(tmp_path, str(tmp_path / "backup"))
    assert bench.copied(1, 0.0) == ""
    assert bench.copied(2, EVERY_S) == ""
    copy = RunFolder.open(tmp_path / "backup" / "run-node-00")
    assert copy.experiment().hash == EXPERIMENT.hash and load(copy.path / "spec.toml").hash == EXPERIMENT.hash
    assert (copy.load_model(MODEL) == 2).all()
    assert [path.name for path in copy.checkpoints.paths()] == ["checkpoint-2.safetensors"]
    for path in copy.path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    assert not {"node.key", "swarm.json"} & {path.name for path in copy.path.iterdir()}


def test_not_every_checkpoint_is_copied(tmp_path: Path) -> None:
    """Ten minutes apart; and at the end, whenever that is."""
    bench = Bench(tmp_path, str(tmp_path / "backup"))
    assert bench.copied(1, 0.0) == ""
    bench.backup.on_checkpoint(bench.save(2), EVERY_S - 1)
    assert bench.backup.last(bench.save(3)) == ""
    assert bench.said.get(timeout=30) == "" and bench.said.empty()
    assert (RunFolder(tmp_path / "backup" / "run-node-00").load_model(MODEL) == 3).all()


def test_a_command_gets_the_models_file(tmp_path: Path) -> None:
    """Without a shell: what a shell would make something of reaches the command as it is."""
    copy = tmp_path / "with blank; $HOME.safetensors"
    program = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"
    bench = Bench(tmp_path, shlex.join([sys.executable, "-c", program, "{file}", str(copy)]))
    assert bench.copied(1, 0.0) == ""
    assert (load_parameters(copy, MODEL) == 1).all()


def test_a_command_never_touches_the_runs_own_model(tmp_path: Path) -> None:
    """The checkpoint may be older than the model that was saved at the very end."""
    bench = Bench(tmp_path, shlex.join([sys.executable, "-c", "", "{file}"]))
    newer = np.full(PADDED, 9, np.float32)
    bench.run.save_model(MODEL, newer, EXPERIMENT)
    assert bench.copied(1, 0.0) == ""
    assert (bench.run.load_model(MODEL) == 9).all()


def test_a_command_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    """Nor does what it started: the pipe that they all hold ends with the last of them."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    bench = Bench(tmp_path, f"sh -c 'exec 3>{pipe}; echo ready >&3; sleep 120; true' {{file}}")
    bench.backup.on_checkpoint(bench.save(1), 0.0)
    with pipe.open() as held:
        assert held.readline() == "ready\n"
        asked_at = time.monotonic() - HURRY_S
        assert "it was not done within" in bench.backup.last(bench.save(2), lambda: asked_at)
        assert held.read() == ""
    assert bench.said.empty(), "whoever waited tells"


def test_whoever_waits_for_the_last_backup_may_lose_patience(tmp_path: Path) -> None:
    """A run that is over waits for minutes where a copy needs them, and Ctrl-C still counts while it does."""
    bench = Bench(tmp_path, "sh -c 'sleep 120; true' {file}")
    asked: list[float] = []

    def asked_at() -> float | None:
        """Nobody asks at the first look, somebody at the second: a while ago already."""
        asked.append(time.monotonic() - HURRY_S)
        return asked[1] if len(asked) > 1 else None

    began = time.monotonic()
    assert "it was not done within" in bench.backup.last(bench.save(1), asked_at)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (f"{sys.executable} -c 'import sys; sys.exit(\"first\\nno such bucket\")' {{file}}", "no such bucket"),
        (f"{sys.executable} -c 'import sys; sys.exit(3)' {{file}}", "exit status 3"),
        ("no-such-command {file}", "no-such-command: cannot be run"),
    ],
)
def test_a_command_that_fails_says_why(tmp_path: Path, target: str, why: str) -> None:
    """Its last word on standard error; the next one is tried all the same."""
    bench = Bench(tmp_path, target)
    assert why in bench.copied(1, 0.0)
    assert why in bench.copied(2, EVERY_S)


def test_a_folder_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Not a directory" in Bench(tmp_path, str(tmp_path / "file" / "backup")).copied(1, 0.0)
