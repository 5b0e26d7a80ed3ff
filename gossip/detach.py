"""A node in the background: started, told how it began, found again, and stopped.

The node is an ordinary `gossip node` in a session of its own. Until it has its run folder it writes to a file without
a name, from then on to RUN/node.log; through a pipe it tells whoever started it how it begins. It is found again by
RUN/node.pid (pidfile.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossip.console import NodeConsole
from gossip.errors import GossipError, SpecError
from gossip.observe import Event, strict_json
from gossip.pidfile import running_pid
from gossip.runs import RunFolder

JOIN_LINE = "gossip node --join "
LOG_NAME, OLDER_LOG_NAME = "node.log", "node.1.log"
LOG_BYTES_MAX = 8 * 2**20  # some months of a quiet node; a stranger who knocks ten times a second fills it in two hours
LOG_LINE_EVERY_S = 60.0
BEGAN = ("training", "paused", "settling", "state_received", "finished")
PATIENCE_S = 60.0  # a joiner's state may take longer on a slow line: then it goes on without a witness
STOP_PATIENCE_S = 60.0


# -- In the node ----------------------------------------------------------------------------------------


class DetachedConsole(NodeConsole):
    """Lines for a person go to RUN/node.log, the first news also to whoever started us."""

    line_every_s = LOG_LINE_EVERY_S

    def __init__(self, news_fd: int, log_bytes_max: int = LOG_BYTES_MAX) -> None:
        """news_fd: -1 where nobody waits for news. Standard output is a file until `move_in`."""
        super().__init__()
        self._news_fd = news_fd
        self._log: Path | None = None
        self._log_bytes_max = log_bytes_max

    def move_in(self, run: Path) -> None:
        """The run folder is known: standard output and error go to its node.log from here on."""
        self._log = run / LOG_NAME
        said = os.pread(1, 1 << 20, 0)
        begun_at = self._open_log()
        with contextlib.suppress(OSError):
            os.write(1, said)
        self._tell(run=str(run), log_bytes=begun_at)

    def say(self, line: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S ")
        super().say(line if line.startswith(JOIN_LINE) else stamp + line)
        if line.startswith(JOIN_LINE):
            self._tell(ticket=line.removeprefix(JOIN_LINE))
        if self._log is not None and os.fstat(1).st_size > self._log_bytes_max:
            with contextlib.suppress(OSError):
                self._log.replace(self._log.with_name(OLDER_LOG_NAME))
                self._open_log()

    def on_event(self, event: Event) -> None:
        super().on_event(event)
        if event["event"] in BEGAN:
            self._tell(began=event["event"])
            self._stop_telling()

    def _open_log(self) -> int:
        """Returns how many bytes were in it. For its owner's eyes: it holds tickets."""
        assert self._log is not None
        fd = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for standard in (1, 2):
            os.dup2(fd, standard)
        os.close(fd)
        return os.fstat(1).st_size

    def _tell(self, **news: Any) -> None:
        if self._news_fd >= 0:
            try:
                os.write(self._news_fd, strict_json(news).encode() + b"\n")
            except OSError:
                self._stop_telling()  # nobody waits for us any more

    def _stop_telling(self) -> None:
        if self._news_fd >= 0:
            os.close(self._news_fd)
            self._news_fd = -1


# -- Where it is started --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """A node in the background. `began`: the event that says so; "" where it is still at it."""

    run: Path
    pid: int
    ticket: str
    began: str


def start_detached(words: Sequence[str], ticket: str = "", patience_s: float = PATIENCE_S) -> Started:
    """Run `gossip node WORDS` in the background, and wait until it has begun, has failed, or patience ends.

    ticket: goes in through standard input, so that no list of processes shows it. Raises GossipError, with its words.
    """
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "gossip", "node", *words, "--detached", str(writer)]
    if ticket:
        command += ["--join", "-"]
    with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as given:
        given.write(ticket.encode())
        given.seek(0)
        process = subprocess.Popen(
            command, stdin=given, stdout=log, stderr=log, start_new_session=True, pass_fds=(writer,)
        )
        os.close(writer)
        try:
            with _interruptible():
                news, is_over = _read_news(reader, patience_s)
        except KeyboardInterrupt:
            process.terminate()
            raise SystemExit(130) from None
        finally:
            os.close(reader)
        if is_over:
            process.wait()
            log.seek(0)
            raise GossipError(_last_words(log.read(), news, process.returncode))
        if "run" not in news:
            process.terminate()
            raise GossipError(f"it did not get as far as its run folder within {patience_s:g} s, and was ended")
    process.returncode = 0  # it is not ours to wait for: Popen shall not warn that it runs on
    return Started(Path(news["run"]), process.pid, news.get("ticket", ""), news.get("began", ""))


def _read_news(fd: int, patience_s: float) -> tuple[dict[str, Any], bool]:
    """What the node told, and whether it ended without having begun."""
    news: dict[str, Any] = {}
    unread, deadline = b"", time.monotonic() + patience_s
    while "began" not in news and (left_s := deadline - time.monotonic()) > 0:
        if not select.select([fd], [], [], left_s)[0]:
            break
        data = os.read(fd, 65_536)
        if not data:
            return news, True
        *lines, unread = (unread + data).split(b"\n")
        for line in lines:
            news |= json.loads(line)
    return news, False


def _last_words(log: bytes, news: dict[str, Any], status: int) -> str:
    """Its one-line error, or else the last it said."""
    if "run" in news:
        with contextlib.suppress(OSError):
            log = (Path(news["run"]) / LOG_NAME).read_bytes()[news["log_bytes"] :]
    lines = log.decode(errors="replace").strip().splitlines()
    errors = [line.removeprefix("gossip: ") for line in lines if line.startswith("gossip: ")]
    return (errors or lines or [f"the node ended with exit status {status}"])[-1]


@contextlib.contextmanager
def _interruptible() -> Any:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# -- Where it is stopped --------------------------------------------------------------------------------


def the_running_node(given: str, under: Path = Path("runs")) -> RunFolder:
    """The run whose node runs on this machine: the one given, or the only one under runs/. Raises SpecError."""
    if given:
        run = RunFolder.open(given)
        if not running_pid(run.path):
            hint = f"; gossip stop --run {given} ends a run on all its nodes" if (run.path / "nodes").is_dir() else ""
            raise SpecError(f"{run.path}: no node of its own runs there{hint}")
        return run
    running = [path.parent for path in sorted(under.glob("*/node.pid")) if running_pid(path.parent)]
    if len(running) == 1:
        return RunFolder(running[0])
    found = f"{len(running)} nodes run there; say which: {', '.join(map(str, running))}" if running else "no node runs"
    raise SpecError(f"{under}/: {found}" if running else f"{found} under {under}/; expected a run's folder")


def stop_node(run: RunFolder, patience_s: float, kill: bool, on_signal: Callable[[int], None]) -> dict[str, Any]:
    """SIGTERM, and wait for its end; SIGKILL only where `kill` says so. Raises GossipError where it goes on."""
    import psutil

    pid = running_pid(run.path)
    before = run.notes().get("result")
    was_killed = False
    try:
        process = psutil.Process(pid)
        process.terminate()
        on_signal(pid)
        try:
            process.wait(patience_s)
        except psutil.TimeoutExpired:
            if not kill:
                raise GossipError(
                    f"{run.path}: process {pid} still runs after {patience_s:g} s; wait on, or: "
                    f"gossip stop {run.path} --kill"
                ) from None
            process.kill()
            process.wait()
            was_killed = True
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied as error:
        raise GossipError(f"{run.path}: process {pid} belongs to another user, who has to stop it") from error
    result = run.notes().get("result")
    return {
        "run": str(run.path), "pid": pid, "killed": was_killed, "result": result if result != before else None,
    }  # fmt: skip
