"""A swarm on this machine: one process per node, each the very `gossip node` a user starts by hand.

The launcher starts processes, reads their events, and adds up what they leave. It decides nothing
about training: with it gone the nodes say goodbye and leave, and a node it kills is missed by
nobody but the others.
"""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gossip.console import TROUBLES, SwarmConsole, command_note
from gossip.errors import GossipError
from gossip.observe import Event, EventFile, parse_event, strict_json
from gossip.owner import OwnerKey
from gossip.runs import RunFolder
from gossip.spec import Experiment

THREAD_LIMITS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# How long nodes that were told to leave may take before they are killed: more than they give themselves, for a step
# in hand, a slow disk, a last look, and the copy outside.
GOODBYE_S = 13.0
BACKUP_GOODBYE_S = 5.0
AT_ONCE_S = 1.0  # for nodes told twice, which end where they stand unless they are deep in a library
READ_BYTES = 65_536
LATE_PROGRESS = 0.02  # who begins to train later than this joined mid-run: the picture marks it


@dataclass(slots=True)
class Child:
    """One node's process, and what it has said."""

    name: str
    shard: int
    process: subprocess.Popen[bytes]
    folder: Path
    began_at: float
    unread: bytes = b""
    status: Event = field(default_factory=dict)  # the last one it reported
    looks: list[Event] = field(default_factory=list)  # its curve: some 40 points, however long the run
    is_late: bool = False  # it joined a run under way
    joined_at: float | None = None  # unix seconds: when it began to train
    ended_at: float | None = None
    end: str = ""  # finished | left | killed | failed
    why: str = ""  # it failed
    result: dict[str, Any] | None = None


class Launcher:
    """Starts nodes, watches them to the end, and reports."""

    def __init__(
        self,
        experiment: Experiment,
        *,
        nodes: int,
        host: str = "127.0.0.1",
        data_dir: str = "",
        upload: str = "",
        run_dir: Path | None = None,
        console: SwarmConsole | None = None,
    ) -> None:
        self._owner = None if experiment.owner else OwnerKey.new()
        self.experiment = experiment.owned_by(self._owner.public) if self._owner else experiment
        self.nodes = nodes
        self.host = host
        self.data_dir = data_dir
        self.upload = upload
        self._run_dir = run_dir
        self.console = console or SwarmConsole(f"{self.experiment.name}: {nodes} nodes")
        self.children: dict[str, Child] = {}
        self.ticket = ""
        # (when, what to do then), in order: a demonstration's joins, kills and goodbyes.
        self.schedule: list[tuple[Callable[[], bool], Callable[[], None]]] = []
        self._selector = selectors.DefaultSelector()
        self._has_complained = False
        self._command = 0  # the owner's latest that we told of
        self._stop_by: float | None = None  # when nodes that were told to leave are killed; None: nobody was
        self._stop_signal = 0
        self._has_said_stopping = False

    @functools.cached_property
    def run_folder(self) -> RunFolder:
        """Made when it is first asked for: a run whose data is missing leaves none. Raises SpecError."""
        folder = RunFolder.create(self.experiment, self._run_dir)
        if self._owner is not None:
            self._owner.save(folder.owner_key)
        return folder

    @functools.cached_property
    def _log(self) -> EventFile:
        return self.run_folder.open_events()

    @functools.cached_property
    def _joiners_spec(self) -> Path:
        """What the others bring: this machine's [node], less the one address that only the first can have."""
        node = msgspec.structs.replace(self.experiment.node, advertise="")
        folder = RunFolder(self.run_folder.path / "nodes")
        folder.write_spec(msgspec.structs.replace(self.experiment, node=node))
        return folder.path / "spec.toml"

    @property
    def goodbye_s(self) -> float:
        """Seconds until nodes that were told to leave are killed."""
        return GOODBYE_S + (BACKUP_GOODBYE_S if self.experiment.node.backup else 0.0)

    # -- The whole run -------------------------------------------------------------------------------

    def run(self, alone_steps: int) -> dict[str, Any]:
        """Prepare, start, watch, add up. Raises GossipError when nodes could not start or none finished.

        SIGINT or SIGTERM: while nodes run everybody leaves in order, and what they have is added up;
        before and afterwards there is nothing left to lose, and the process ends at once.
        """
        from gossip.summary import print_summary, summarise

        began = time.monotonic()
        self.prepare()
        with self._orderly_stop(), self.console:
            try:
                self.start()
                self.watch()
            finally:
                self.end_all()
        if self.was_stopped and not self.survivors():
            print("gossip: stopped before any node had saved a model", file=sys.stderr)
            sys.exit(128 + self._stop_signal)
        result = summarise(self, alone_steps)
        result["seconds_total"] = round(time.monotonic() - began, 2)
        print_summary(result, self.console)
        return result

    def prepare(self) -> None:
        """What all nodes need is made once, before the first starts: data in its cache, kernels compiled."""
        from gossip.data.store import load_dataset
        from gossip.warmup import warm_up

        began = time.monotonic()
        recipe, sample = self.experiment.recipe, self.experiment.sample
        load_dataset(recipe, self.data_dir or self.experiment.node.data_dir)
        self.console.say(f"run folder {self.run_folder.path}")
        if not sample.is_all:
            size = sample.size(recipe.train_samples, len(recipe.classes))
            self.console.say(f"training on {size:,} of {recipe.train_samples:,} samples, of every class its share")
        self.console.say(f"data ready ({time.monotonic() - began:.1f} s); compiling kernels, once per machine ...")
        began = time.monotonic()
        warm_up(self.console.on_warm_up)
        self.console.say(f"kernels ready ({time.monotonic() - began:.1f} s)")

    def start(self) -> None:
        """The first node, and, once its ticket is out, the others."""
        self.add_node()
        while not self.ticket and not self.was_stopped:
            self._read(1.0)
            if not self._running() and not self.was_stopped:
                raise GossipError(f"the first node could not start: {_last_words(self.children['n0'])}")
        for _ in range(self.nodes - 1):
            if not self.was_stopped:
                self.add_node()

    def watch(self) -> None:
        """Until every node has ended."""
        while self._running():
            self._read(0.25)
            while not self.was_stopped and self.schedule and self.schedule[0][0]():
                self.schedule.pop(0)[1]()
            if self._stop_by is not None and time.monotonic() > self._stop_by:
                self.end_all()

    @property
    def progress(self) -> float:
        """How much of the swarm's samples are done, 0 to 1."""
        return self.console.view.progress

    @property
    def was_stopped(self) -> bool:
        """Somebody asked for the end before the swarm got there."""
        return self._stop_by is not None

    def survivors(self) -> list[Child]:
        """Who finished the run; where it was stopped, who left in order with a trained model."""
        ends = ("finished", "left") if self.was_stopped else ("finished",)
        return [c for c in self.children.values() if c.end in ends and c.result and c.result["steps"]]

    # -- Nodes ---------------------------------------------------------------------------------------

    def add_node(self) -> str:
        """Start one more node, in its own process group: Ctrl-C reaches it through us alone."""
        number = len(self.children)
        name, shard = f"n{number}", number % self.experiment.data.shards
        folder = self.run_folder.path / "nodes" / name
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "gossip", "node", "--follow", "--name", name, "--shard", str(shard)]
        command += ["--listen", f"tcp://{self.host}:0", "--run-dir", str(folder), "--data-dir", self.data_dir]
        command += ["--upload", self.upload or self.experiment.node.upload]
        if self.ticket:  # through standard input: no list of processes shows it
            command += [str(self._joiners_spec), "--join", "-"]
        else:
            command += [str(self.run_folder.path / "spec.toml")]
        threads = str(max(1, (os.cpu_count() or 1) // self.nodes))
        with (folder / "stderr.log").open("wb") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | dict.fromkeys(THREAD_LIMITS, threads),
                process_group=0,
            )
        child = Child(name, shard, process, folder, time.time())
        self.children[name] = child
        assert process.stdin is not None and process.stdout is not None
        if self.ticket:
            with contextlib.suppress(BrokenPipeError):  # it has ended: its last words tell why
                process.stdin.write(self.ticket.encode() + b"\n")
                process.stdin.flush()
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, child)
        if self.was_stopped:  # while we started it: the signal's handler may not have known it yet
            process.terminate()
        return name

    def kill(self, name: str) -> None:
        """SIGKILL: no goodbye."""
        self._record({"t": round(time.time(), 4), "node": name, "event": "killed"})
        self.children[name].end = "killed"
        self.children[name].process.kill()

    def say_goodbye(self, name: str) -> None:
        """Ask one node to leave in order."""
        self.children[name].process.terminate()

    def end_all(self) -> None:
        """No orphan processes: whatever still runs is told to stop, then made to."""
        self._say_stopping()
        running = self._running()
        for child in running:
            if child.process.stdin is not None:
                child.process.stdin.close()
        deadline = time.monotonic() + (0.0 if self.was_stopped else self.goodbye_s)
        for child in running:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            self._on_exit(child)

    # -- Events --------------------------------------------------------------------------------------

    def _read(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            child: Child = key.data
            data = os.read(key.fd, READ_BYTES)
            if not data:
                self._selector.unregister(key.fileobj)
                child.process.wait()
                self._on_exit(child)
                continue
            *lines, child.unread = (child.unread + data).split(b"\n")
            for line in lines:
                event = parse_event(line.decode(errors="replace"))
                if event is not None:
                    self._on_event(child, event)
        self._say_stopping()

    def _on_event(self, child: Child, event: Event) -> None:
        match event["event"]:
            case "said":
                # The newest member's: it names the ones before it too, so any of them may be gone.
                if event["line"].startswith("gossip node --join "):
                    self.ticket = event["line"].split()[-1]
                return
            case "status":
                child.status = event
            case "command" if event["sequence"] > self._command:
                self._command = event["sequence"]
                self.console.note(command_note(event))
            case name if name in TROUBLES:
                self.console.note(f"{child.name}: {TROUBLES[name](event)}")
            case "evaluated":
                child.looks.append(event)
            case "training":
                child.joined_at = child.joined_at or event["t"]
                child.is_late = event["progress"] > LATE_PROGRESS
            case "finished":
                child.result = event
                child.looks.append(event)
                child.end, child.ended_at = event["outcome"], event["t"]
                if child.end == "failed":
                    self._on_failure(child, event["why"])
        self._record(event)

    def _on_exit(self, child: Child) -> None:
        if child.ended_at is None:
            child.ended_at = time.time()
        if child.end:
            return
        if self.was_stopped:
            child.end = "left"
            return
        child.end, words = "failed", _last_words(child)
        self._record({"t": round(time.time(), 4), "node": child.name, "event": "failed", "why": words})
        self._on_failure(child, words)

    def _on_failure(self, child: Child, why: str) -> None:
        child.why = why
        self.console.note(f"{child.name} failed: {why}")

    def _record(self, event: Event) -> None:
        """Into the run's events.jsonl and before the person's eyes. A full disk stops neither nodes nor launcher."""
        try:
            self._log.write(strict_json(event) + "\n")
        except (OSError, ValueError) as error:
            if not self._has_complained:
                self._has_complained = True
                self.console.say(f"cannot write {self.run_folder.events} any more ({error}); the run goes on")
        self.console.on_event(event)

    def _running(self) -> list[Child]:
        return [child for child in self.children.values() if child.process.returncode is None]

    @contextlib.contextmanager
    def _orderly_stop(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        """Once: everybody says goodbye. Twice: at once."""
        now = time.monotonic()
        if self._stop_by is None:
            self._stop_by, self._stop_signal = now + self.goodbye_s, number
        else:
            self._stop_by = min(self._stop_by, now + AT_ONCE_S)
        for child in self._running():
            child.process.terminate()

    def _say_stopping(self) -> None:
        """Not from the signal's handler, which may have interrupted the console in the middle of a line."""
        if self.was_stopped and not self._has_said_stopping:
            self._has_said_stopping = True
            self.console.note("stopping: the nodes say goodbye (once more to stop at once)")


def _last_words(child: Child) -> str:
    """The last line a process wrote to standard error, or how it ended."""
    lines = (child.folder / "stderr.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit status {child.process.returncode}"
