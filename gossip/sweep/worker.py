"""The other end of a pool: a process that trains trial after trial on one core.

Standard input brings one JSON line that says what all trials share, then one per trial, and {"give_up": key} for the
one in hand. Standard output takes one line per look and one per trial that ended. With standard input's end the process
ends at once, wherever it is: nothing here is worth saving.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any, BinaryIO

from gossip.data.store import load_dataset
from gossip.errors import GossipError
from gossip.kernels.denormals import flush_denormals
from gossip.observe import strict_json
from gossip.sweep.plan import Base, Trial, base_from_json
from gossip.sweep.trial import Look, Split, run_trial, split, trainer_of


def serve() -> None:
    """Until standard input ends."""
    lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    given_up: list[str] = []  # keys; written by the reader, read between two steps
    threading.Thread(target=_read, args=(sys.stdin.buffer, lines, given_up), daemon=True).start()
    flush_denormals()
    shared = lines.get()
    base = base_from_json(shared["base"])
    experiment = base.shared()
    found: Split | None = None
    while True:
        job = lines.get()
        trial = Trial(job["number"], job["point"], job["seed"])
        try:
            found = found or split(experiment, load_dataset(experiment.recipe, shared["data_dir"]))
            _train(base, trial, found, given_up)
        except GossipError as error:
            _say({"key": trial.key, "end": "failed", "why": str(error)})


def _train(base: Base, trial: Trial, found: Split, given_up: list[str]) -> None:
    experiment = base.experiment(trial.point, trial.seed)

    def on_look(look: Look) -> None:
        _say(
            {"key": trial.key, "accuracy": look.accuracy, "loss": look.loss, "samples": look.samples,
             "is_last": look.is_last}
        )  # fmt: skip

    trainer = trainer_of(experiment, found, base.shared().seed)
    outcome = run_trial(trainer, base.budget_of(experiment), on_look, lambda: trial.key in given_up)
    _say(
        {"key": trial.key, "end": outcome.end, "samples": outcome.samples, "seconds": outcome.seconds,
         "broke_at": outcome.broke_at}
    )  # fmt: skip


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(strict_json(message) + "\n")
    sys.stdout.flush()


def _read(stream: BinaryIO, lines: queue.SimpleQueue[dict[str, Any]], given_up: list[str]) -> None:
    for line in stream:
        message = json.loads(line)
        if "give_up" in message:
            given_up.append(message["give_up"])
        else:
            lines.put(message)
    os._exit(0)
