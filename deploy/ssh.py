"""Hosts by OpenSSH: one connection each, kept open for the calls that follow, and never a question asked.

A call runs remote.py on the host and speaks with it over standard input and output. Knows ssh; does not know
what is deployed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hostfile import Host

from gossip.errors import GossipError, SpecError

MARK = b"@gossip "  # remote.py's
CONNECT_TIMEOUT_S = 10
KEPT_OPEN_S = 60  # a connection nobody uses
ANSWER_TIMEOUT_S = 60.0  # without a word; a long action gives a sign of life every ten seconds
REMOTE = Path(__file__).with_name("remote.py")
COPY_BYTES = 1 << 18

# The host's Python reads remote.py from standard input, if it is new enough to. One line, double quotes only:
# whatever shell the user has there, a word in single quotes is a word.
BOOTSTRAP = (
    "import sys; f = sys.stdin.buffer; s = f.read(int(f.readline())); "
    'exec(compile(s, "remote.py", "exec")) if sys.version_info >= (3, 11) else '
    'print("\\n@gossip " + __import__("json").dumps({"error": "old python", "text": '
    '"its Python is %d.%d, expected 3.11 or newer; name another one there with --python or python= (this is " '
    '% sys.version_info[:2] + sys.executable + ")"}))'
)

DEFAULTS = (
    "BatchMode=yes",
    f"ConnectTimeout={CONNECT_TIMEOUT_S}",
    "StrictHostKeyChecking=accept-new",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "ControlMaster=auto",
    f"ControlPersist={KEPT_OPEN_S}",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "RequestTTY=no",
    "RemoteCommand=none",
    "LogLevel=ERROR",
)

# What ssh says, in this order, and what that means to a person.
_FAILURES: tuple[tuple[str, str, str], ...] = (
    (r"HOST IDENTIFICATION HAS CHANGED", "host key",
     "its host key is another one than known_hosts has; if that is as it should be: ssh-keygen -R {name}"),
    (r"No \S+ host key is known|Host key verification failed", "host key",
     "its host key is not in known_hosts; connect once by hand: ssh {target}"),
    (r"Permission denied|Too many authentication failures", "key refused",
     "no key of yours opens it ({words}); try: ssh {target}, or ssh-copy-id {target}"),
    (r"Could not resolve hostname", "unknown name", "no machine of this name ({words}); check the hostfile"),
    (r"timed out|refused|No route|unreachable|closed by|reset by|Broken pipe|not responding|closed$", "unreachable",
     "cannot be reached ({words}); is it on, and does sshd listen there?"),
    (r"Bad configuration option|[Ii]nvalid|keyword|Unsupported option|garbage at end", "ssh option",
     "ssh does not accept its options ({words})"),
)  # fmt: skip


class HostError(GossipError):
    """Something does not work on one host; the others go on. `code`: two words for programs."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that follows a request."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Upload:
        """Raises SpecError."""
        try:
            with path.open("rb") as file:
                return cls(path, hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise SpecError(f"{path}: cannot be read ({error.strerror})") from error

    def header(self) -> list[Any]:
        return [self.path.name, self.path.stat().st_size, self.sha256]


News = Callable[[str], None]
Read = Callable[[int], bytes]
Piece = Callable[[dict[str, Any], Read], None]  # a message that is no answer, and how to read what follows it


class Ssh:
    """OpenSSH's client, with the user's own configuration. Safe to use from several threads."""

    def __init__(self, options: Sequence[str] = (), command: str = "ssh") -> None:
        """options: as after -o. They come first, and of an option ssh takes the first."""
        for option in options:
            if not re.fullmatch(r"[A-Za-z]+[= ].+", option):
                raise SpecError(f"--ssh-option {option!r}: expected Name=value, as after ssh -o")
        self._options, self._command = tuple(options), command
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._is_closed = False
        self._sockets = _socket_folder(options)

    def words(self, host: Host) -> list[str]:
        """ssh and its options, up to the host."""
        words = [self._command, "-T"]
        for option in (*self._options, *DEFAULTS):
            words += ["-o", option]
        if self._sockets:
            words += ["-o", f"ControlPath={self._sockets}/%C"]
        if host.port:
            words += ["-p", str(host.port)]
        return [*words, "--", host.target]

    def call(
        self,
        host: Host,
        python: str,
        request: dict[str, Any],
        *,
        uploads: Sequence[Upload] = (),
        on_news: News = lambda text: None,
        on_piece: Piece = lambda message, read: None,
    ) -> dict[str, Any]:
        """remote.py's answer to the request. Raises HostError."""
        source = REMOTE.read_bytes()
        head = f"{len(source)}\n".encode() + source + json.dumps(request).encode() + b"\n"
        with self._started(host, [python, "-c", BOOTSTRAP]) as (process, complaints), _Patience(process) as patience:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # why, the exit status says better
                process.stdin.write(head)
                self._send(process.stdin, uploads, on_news, patience)
                process.stdin.flush()
                if not request.get("follow"):  # else the end of this is what tells it to stop
                    process.stdin.close()
            stdout = process.stdout

            def read(size: int) -> bytes:
                patience.renew()
                return stdout.read(size)

            for message in _messages(stdout, patience):
                if "answer" in message:
                    return message["answer"]
                if "error" in message:
                    raise HostError(message["error"], message["text"])
                if "news" in message:
                    on_news(message["news"])
                elif "alive" not in message:
                    on_piece(message, read)
            status = process.wait()
            complaints.seek(0)
            raise self._failure(host, python, status, complaints.read().decode(errors="replace"), patience)

    def close(self) -> None:
        """End every call in progress, from another thread: it is over for them."""
        with self._lock:
            self._is_closed = True
            for process in self._running.values():
                process.kill()

    def hang_up(self, hosts: Sequence[Host]) -> None:
        """Close the connections kept open."""
        for host in hosts:
            words = self.words(host)
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run([*words[:-2], "-O", "exit", *words[-2:]], capture_output=True, timeout=5, check=False)

    @contextlib.contextmanager
    def _started(self, host: Host, command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
        # Its complaints go to a file: the connection that is kept open would hold a pipe open, too.
        with tempfile.TemporaryFile() as complaints:
            with self._lock:
                if self._is_closed:
                    raise HostError("interrupted", "interrupted")
                try:
                    process = subprocess.Popen(
                        [*self.words(host), shlex.join(command)],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=complaints,
                        env=os.environ | {"LC_ALL": "C"},
                        start_new_session=True,  # no terminal to ask questions at, and Ctrl-C is ours to handle
                    )
                except OSError as error:
                    raise GossipError(
                        f"cannot run {self._command} ({error.strerror}); install the OpenSSH client"
                    ) from error
                self._running[process.pid] = process
            try:
                yield process, complaints
            finally:
                for stream in (process.stdin, process.stdout):
                    with contextlib.suppress(OSError):
                        stream.close() if stream else None
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(2.0)
                with self._lock:
                    del self._running[process.pid]
                if process.poll() is None:
                    process.kill()
                process.wait()

    @staticmethod
    def _send(stream: IO[bytes], uploads: Sequence[Upload], on_news: News, patience: _Patience) -> None:
        total, sent = sum(upload.path.stat().st_size for upload in uploads), 0
        for upload in uploads:
            with upload.path.open("rb") as file:
                while data := file.read(COPY_BYTES):
                    stream.write(data)
                    patience.renew()
                    sent += len(data)
                    on_news(f"copying, {sent / 1e6:.1f} of {total / 1e6:.1f} MB")

    def _failure(self, host: Host, python: str, status: int, text: str, patience: _Patience) -> HostError:
        """What an ssh without an answer means."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        words = lines[-1] if lines else f"exit status {status}"
        if self._is_closed:
            return HostError("interrupted", "interrupted")
        if patience.has_ended:
            return HostError(
                "no answer", f"no word from it in {ANSWER_TIMEOUT_S:.0f} s; look at the machine, and go on"
            )
        if status == 255:
            for pattern, code, meaning in _FAILURES:
                if found := next((line for line in reversed(lines) if re.search(pattern, line)), None):
                    return HostError(code, meaning.format(name=host.name, target=host.target, words=found))
            return HostError("unreachable", f"ssh ended: {words}")
        if status in (126, 127) or "not found" in words.lower():
            return HostError(
                "no python", f"no {python} there ({words}); install Python 3.11 or newer, or name it with --python"
            )
        return HostError("failed", f"{python} ended there without an answer: {words}")


class _Patience:
    """Ends a process that says nothing for too long."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._said_something = threading.Event()
        self._is_over = False
        self.has_ended = False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Patience:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._said_something.set()

    def renew(self) -> None:
        self._said_something.set()

    def _watch(self) -> None:
        while self._said_something.wait(ANSWER_TIMEOUT_S):
            if self._is_over:
                return
            self._said_something.clear()
        self.has_ended = True
        self._process.kill()


def _messages(stream: IO[bytes], patience: _Patience) -> Iterator[dict[str, Any]]:
    """What remote.py says, without what else is printed there."""
    while line := stream.readline(1 << 20):
        patience.renew()
        if line.startswith(MARK):
            with contextlib.suppress(ValueError):
                yield json.loads(line[len(MARK) :])


def _socket_folder(options: Sequence[str]) -> str:
    """Where the connections' sockets lie: short, since a path of one has 104 characters at most; "" for nowhere.

    Other options, other connections: one made with another key is not taken for this one's.
    """
    if any(option.lower().startswith("controlpath") for option in options):
        return ""
    folder = Path(f"/tmp/gossip-ssh-{os.getuid()}", hashlib.sha256(repr(options).encode()).hexdigest()[:8])
    try:
        for path in (folder.parent, folder):
            path.mkdir(mode=0o700, exist_ok=True)
            found = path.lstat()
            if found.st_uid != os.getuid() or found.st_mode & 0o077 or path.is_symlink():
                return ""  # somebody else's: do without
    except OSError:
        return ""
    return str(folder)
