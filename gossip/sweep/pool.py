"""Processes that train trials side by side, one core each.

Knows processes and lines; decides nothing. They are in process groups of their own, so that Ctrl-C reaches them through
us alone, and end with us, since we hold the other end of their standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gossip.errors import GossipError
from gossip.observe import strict_json
from gossip.sweep.plan import Trial

THREAD_LIMITS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
READ_BYTES = 65_536


@dataclass(slots=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    log: Path
    trial: Trial | None = None
    unread: bytes = b""


@dataclass(slots=True)
class Pool:
    """Up to `size` workers, started when they are needed. shared: the first line each of them is sent."""

    shared: dict[str, Any]
    size: int
    logs: Path  # the folder for what workers write to standard error
    _workers: list[_Worker] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    @property
    def has_room(self) -> bool:
        return len(self.busy) < self.size

    @property
    def busy(self) -> list[Trial]:
        return [worker.trial for worker in self._workers if worker.trial is not None]

    def start(self, trial: Trial) -> None:
        """Have it trained; only while there is room."""
        idle = [worker for worker in self._workers if worker.trial is None]
        worker = idle[0] if idle else self._add()
        worker.trial = trial
        self._send(worker, {"number": trial.number, "point": trial.point, "seed": trial.seed})

    def give_up(self, trial: Trial) -> None:
        """It ends before its next step, unless it has ended."""
        for worker in self._workers:
            if worker.trial == trial:
                self._send(worker, {"give_up": trial.key})

    def read(self, timeout_s: float) -> Iterator[tuple[Trial, dict[str, Any]]]:
        """What trials say, and {"end": "failed"} of one whose worker is gone. Waits at most timeout_s."""
        for selected, _ in self._selector.select(timeout_s):
            worker: _Worker = selected.data
            data = os.read(selected.fd, READ_BYTES)
            if not data:
                yield from self._on_gone(worker)
                continue
            *lines, worker.unread = (worker.unread + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                trial = worker.trial
                assert trial is not None and message["key"] == trial.key
                if "end" in message:
                    worker.trial = None
                yield trial, message

    def close(self) -> None:
        """End all, whatever they are doing."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.wait()
            for stream in (worker.process.stdin, worker.process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        self._workers.clear()
        self._selector.close()

    def _add(self) -> _Worker:
        log = self.logs / f"worker-{len(self._workers)}.log"
        try:
            with log.open("wb") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-m", "gossip", "sweep", "worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=os.environ | dict.fromkeys(THREAD_LIMITS, "1"),
                    process_group=0,
                )
        except OSError as error:
            raise GossipError(f"{log}: cannot start a worker ({error.strerror})") from error
        worker = _Worker(process, log)
        self._workers.append(worker)
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        self._send(worker, self.shared)
        return worker

    def _send(self, worker: _Worker, message: dict[str, Any]) -> None:
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone: its end is read next
            worker.process.stdin.write(strict_json(message).encode() + b"\n")
            worker.process.stdin.flush()

    def _on_gone(self, worker: _Worker) -> Iterator[tuple[Trial, dict[str, Any]]]:
        assert worker.process.stdout is not None
        self._selector.unregister(worker.process.stdout)
        status = worker.process.wait()
        self._workers.remove(worker)
        if worker.trial is not None:
            lines = worker.log.read_text(errors="replace").strip().splitlines()
            why = f"its process ended with status {status}" + (f": {lines[-1]}" if lines else "")
            yield worker.trial, {"key": worker.trial.key, "end": "failed", "why": why}
