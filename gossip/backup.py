"""Copies of a run outside the swarm: in a folder, or wherever a command of the user's takes them.

`[node] backup` names a folder, which gets a small run folder of its own (`gossip eval` reads it), or a command with
{file} in it, which is run without a shell with the path of a model put in, RUN/backup/model.safetensors. A backup is
made from a checkpoint that is on the disk already, on a thread of its own: neither training nor the next checkpoint
waits for it. It holds no secret: no key, no swarm.json, nothing of [node].
"""

from __future__ import annotations

import queue
import shlex
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from gossip.checkpoint import Checkpoint, read_checkpoint
from gossip.errors import GossipError, SpecError
from gossip.lifeline import Lifeline
from gossip.models.model import Model
from gossip.observe import write_atomically
from gossip.runs import RunFolder
from gossip.sections import NodeSpec
from gossip.spec import Experiment

EVERY_S = 600.0
COMMAND_TIMEOUT_S = 600.0
GIVING_UP_S = 0.5  # until a killed command is gone
HURRY_S = 4.0  # from the moment somebody asked for the end: a person waits
HURRY_LEAST_S = 1.0  # of that for the backup, whatever the node took for its own files
LOOK_EVERY_S = 0.1  # whether somebody asks for the end while the last backup is waited for
FOLDER = "backup"  # in the run's: what a command gets
WORDS_MAX = 300  # characters of a command's last words

# What came of one: "" or why it failed.
Done = Callable[[str], None]
# When somebody asked for the end (seconds, monotonic); None while nobody has.
AskedAt = Callable[[], float | None]


class Backup:
    """Makes backups of one run, one at a time, at most every EVERY_S."""

    def __init__(
        self, target: str, run: RunFolder, experiment: Experiment, model: Model, folder_name: str, on_done: Done
    ) -> None:
        """target: as in [node] backup, not empty. on_done is called from the backup's thread."""
        self._target = target
        self._run = run
        self._experiment = experiment
        self._model = model
        self._folder_name = folder_name
        self._on_done = on_done
        self._last_at: float | None = None
        self._mailbox: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._is_busy = threading.Event()
        self._command = _Command()
        self._thread = threading.Thread(target=self._work, name="backup", daemon=True)
        self._thread.start()

    def on_checkpoint(self, path: Path, now: float) -> None:
        """A checkpoint was written: copy it if that is due. now: seconds, monotonic."""
        if self._is_busy.is_set() or (self._last_at is not None and now < self._last_at + EVERY_S):
            return
        self._last_at = now
        self._post(path)

    def last(self, path: Path, asked_at: AskedAt = lambda: None) -> str:
        """The run has ended, or is left: one more, and wait for it. Returns why it was given up, or "".

        As long as a command may take; from the moment somebody asks for the end no longer than HURRY_S.
        """
        self._post(path)
        self._mailbox.put(None)
        began = time.monotonic()
        while self._thread.is_alive():
            asked = asked_at()
            until = began + COMMAND_TIMEOUT_S if asked is None else max(asked + HURRY_S, began + HURRY_LEAST_S)
            left_s = until - time.monotonic()
            if left_s <= 0:
                self._command.give_up()
                self._thread.join(GIVING_UP_S)
                return f"it was not done within {time.monotonic() - (began if asked is None else asked):.0f} s"
            self._thread.join(min(left_s, LOOK_EVERY_S))
        return ""

    def _post(self, path: Path) -> None:
        self._is_busy.set()
        self._mailbox.put(path)

    def _work(self) -> None:
        while (path := self._mailbox.get()) is not None:
            try:
                self._make(read_checkpoint(path))
            except (GossipError, OSError, ValueError) as error:
                if not self._command.is_given_up:  # that was said by whoever gave it up
                    self._on_done(str(error))
            else:
                self._on_done("")
            self._is_busy.clear()

    def _make(self, checkpoint: Checkpoint) -> None:
        x = checkpoint.arrays["x"]
        if "{file}" in self._target:
            copy = RunFolder(self._run.path / FOLDER)  # a file of its own: the run's model may be newer than this one
            copy.save_model(self._model, x, self._experiment)
            self._command.run(self._target, copy.model)
            return
        copy = RunFolder(Path(self._target).expanduser() / self._folder_name)
        copy.path.mkdir(parents=True, exist_ok=True)
        experiment = msgspec.structs.replace(self._experiment, node=NodeSpec())
        facts = {key: value for key, value in self._run.notes().items() if key != "node"}
        copy.write_spec(experiment)
        copy.note(**facts)
        copy.save_model(self._model, x, experiment)
        write_atomically(copy.checkpoints.folder / checkpoint.path.name, checkpoint.path.read_bytes())
        for old in copy.checkpoints.paths():
            if old.name != checkpoint.path.name:
                old.unlink()


class _Command:
    """The user's command, on a lifeline: however this process ends, it goes along, and so does what it has started."""

    def __init__(self) -> None:
        self.is_given_up = False
        self._lifeline: Lifeline | None = None

    def run(self, command: str, file: Path) -> None:
        """Run it with `file` in the place of {file}, without a shell. Raises SpecError with its last words."""
        words = [word.replace("{file}", str(file)) for word in shlex.split(command)]
        with Lifeline() as lifeline:
            self._lifeline = lifeline  # before the look, as `give_up` sets before it closes: one of the two sees
            if self.is_given_up:
                raise SpecError(f"{words[0]}: there was no time for it")
            process = lifeline.start(words)
            try:
                _, errors = process.communicate(timeout=COMMAND_TIMEOUT_S)
            except subprocess.TimeoutExpired as error:
                lifeline.close()
                process.communicate()
                raise SpecError(f"{words[0]}: not done within {COMMAND_TIMEOUT_S:g} s") from error
        if process.returncode:
            said = errors.decode(errors="replace").strip().splitlines() or [f"exit status {process.returncode}"]
            raise SpecError(f"{words[0]}: {said[-1][:WORDS_MAX]}")

    def give_up(self) -> None:
        """End it, and start no more. From any thread."""
        self.is_given_up = True
        if self._lifeline is not None:
            self._lifeline.close()
