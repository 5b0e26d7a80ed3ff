"""What a live node keeps on disk, and how it goes on from it: checkpoints, and copies of them outside the swarm.

Knows a trainer, a run folder and events; does not know sockets. `save` runs on the saver's thread while training
goes on, everything else on the node's.
"""

from __future__ import annotations

import errno
import queue
import time
from collections.abc import Callable
from typing import Any

from gossip.backup import AskedAt, Backup
from gossip.checkpoint import Checkpoint
from gossip.errors import SpecError
from gossip.ledger import Ledger
from gossip.models.model import Model
from gossip.observe import Observer
from gossip.protocol.resuming import Resumed
from gossip.runs import RunFolder
from gossip.spec import Experiment
from gossip.training.trainer import Trainer, TrainerState


class Keeper:
    """One node's checkpoints and backups."""

    def __init__(
        self,
        run: RunFolder,
        experiment: Experiment,
        trainer: Trainer,
        model: Model,
        shard: int,
        *,
        node: str,
        observe: Observer,
        wake: Callable[[], None],
    ) -> None:
        """node: what tells this node's backups from others'. wake: makes the loop call `say`."""
        self._run = run.path
        self._checkpoints = run.checkpoints
        self._checkpoints.sweep()
        run.sweep()
        self._spec_hash = experiment.hash.hex()
        self._trainer = trainer
        self._shard = shard
        self._observe = observe
        self._wake = wake
        self._outcomes: queue.SimpleQueue[str] = queue.SimpleQueue()  # of backups: "" or why it failed
        self._has_said_failed = False
        self._backup: Backup | None = None
        if target := experiment.node.backup:
            name = f"{run.name}-{node}"
            self._backup = Backup(target, run, experiment, model, name, on_done=self._on_backup)

    def restore(self, ledger: Ledger) -> Resumed:
        """Go on where the newest good checkpoint stands; at the very beginning where there is none.

        Raises GossipError where there are some, and all of them are bad.
        """
        checkpoint, wrong = self._checkpoints.load(self._accept)
        for why in wrong:
            self._observe("checkpoint_refused", {"why": why})
        if checkpoint is None:
            return Resumed()
        self._checkpoints.set_aside(newer_than=checkpoint.step)
        notes, trainer = checkpoint.notes["node"], self._trainer
        ledger.restore(notes["ledger"])
        fields = {"step": trainer.steps, "samples": trainer.samples, "file": checkpoint.path.name}
        self._observe("restored", fields)
        return Resumed(steps=trainer.steps, samples=trainer.samples, notes=notes)

    def save(self, state: TrainerState, notes: dict[str, Any]) -> int:
        """Write a checkpoint, and have it copied if that is due. Returns its bytes. Raises OSError."""
        noted = {"spec": self._spec_hash, "shard": self._shard, "trainer": state.counters, "node": notes}
        path = self._checkpoints.save(state.counters["steps"], state.arrays, noted)
        if self._backup is not None:
            self._backup.on_checkpoint(path, time.monotonic())
        return path.stat().st_size

    def save_last(self, notes: dict[str, Any], why_not: str) -> None:
        """A checkpoint of the very end. Where there can be none (`why_not`), the last one is still there."""
        if why_not:
            self._observe("checkpoint_skipped", {"why": why_not})
            return
        try:
            if self._trainer.is_finite():
                size = self.save(self._trainer.state_in_place(), notes)
                self._observe("checkpoint_saved", {"step": self._trainer.steps, "bytes": size})
        except OSError as error:
            kind = errno.errorcode.get(error.errno or 0, "UNKNOWN")
            self._observe("checkpoint_failed", {"kind": kind, "why": str(error)})

    def back_up_last(self, asked_at: AskedAt) -> None:
        """What has ended is copied once more, with its result. asked_at: see `Backup.last`."""
        paths = self._checkpoints.paths()
        if self._backup is not None and paths:
            why = self._backup.last(paths[0], asked_at)
            self.say()
            if why:
                self._observe("backup_given_up", {"why": why, "run": str(self._run)})

    def say(self) -> None:
        """What came of backups: each success, and a failure once until one succeeds again."""
        while not self._outcomes.empty():
            why = self._outcomes.get()
            if not why:
                self._observe("backup_made", {})
            elif not self._has_said_failed:
                self._observe("backup_failed", {"why": why})
            self._has_said_failed = bool(why)

    def _accept(self, checkpoint: Checkpoint) -> None:
        """Raises GossipError where it is not of this node's run."""
        notes = checkpoint.notes
        if (notes.get("spec"), notes.get("shard")) != (self._spec_hash, self._shard):
            raise SpecError("of another experiment, or another shard")
        self._trainer.restore(TrainerState(checkpoint.arrays, notes.get("trainer", {})))

    def _on_backup(self, why: str) -> None:
        """From the backup's thread."""
        self._outcomes.put(why)
        self._wake()
