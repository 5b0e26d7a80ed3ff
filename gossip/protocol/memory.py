"""What a node takes along into its next life, and goes on from there: its machines' notes in a checkpoint."""

from __future__ import annotations

from typing import Any

from gossip.protocol.batching import Batching
from gossip.protocol.commands import Commands
from gossip.protocol.events import StepsDone
from gossip.protocol.exchange import Exchanges
from gossip.protocol.membership import Membership
from gossip.protocol.progress import Progress
from gossip.protocol.resuming import Resumed


class Memory:
    """Reads the machines for a checkpoint, and puts them back before the node starts."""

    def __init__(
        self,
        membership: Membership,
        progress: Progress,
        exchanges: Exchanges,
        commands: Commands,
        batching: Batching | None,
    ) -> None:
        self._membership = membership
        self._progress = progress
        self._exchanges = exchanges
        self._commands = commands
        self._batching = batching

    def notes(self) -> dict[str, Any]:
        """Plain JSON."""
        batch = {} if self._batching is None else {"batch": self._batching.batch}
        return batch | {
            "incarnation": self._membership.incarnation,
            "progress": self._progress.notes(),
            "exchanges": self._exchanges.notes(),
            "commands": self._commands.notes(),
        }

    def restore(self, resumed: Resumed) -> StepsDone:
        """Where we were: counts only ever grow, also across restarts."""
        if notes := resumed.notes:
            self._progress.restore(notes["progress"])
            self._exchanges.restore(notes["exchanges"])
            self._commands.restore(notes["commands"])
            # Before anything is judged: by the spec's total a run that its owner made longer would be over.
            self._progress.samples_total = self._commands.samples or self._progress.samples_total
            if self._batching is not None:
                self._batching.batch = notes.get("batch", self._batching.batch)
        self._membership.set_status(step=resumed.steps, samples=resumed.samples)
        return StepsDone(resumed.steps, resumed.samples, 0.0, 0.0, 0.0)
