"""What runs on a host: sent there with every call, never installed, standard library only.

One request in (a line of JSON on standard input, files after it where they are part of it), news and one answer
out. An answer is a line that begins with MARK, so that whatever a login prints cannot be taken for one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MARK = "@gossip "  # ssh.py knows it too
JOIN_LINE = "gossip node --join "
TAIL_BYTES = 65_536  # of a node's events, be they in two files: the last status is in there
LOG_TAIL_BYTES = 16_384
LOOK_EVERY_S = 0.1
HEARTBEAT_S = 10.0  # between signs of life: the other end gives up after a minute without a word
KEPT = (
    "run.json",
    "model.safetensors",
    "events.jsonl",
    "events.1.jsonl",
    "events.2.jsonl",
    "spec.toml",
    "recipe.toml",
    "accuracy.svg",
)  # of a run folder; its keys, swarm.json and node.log, which holds tickets, never leave the host
CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,19})\.safetensors")
THREAD_LIMITS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
ROOM_BYTES = {False: 450_000_000, True: 30_000_000}  # of an environment, by whether dependencies are there already


class Refusal(Exception):
    """What cannot be done on this host: a word for programs, a sentence for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def say(**fields: object) -> None:
    """To the other end, if it is still there: an installation goes on without it, and is found done next time."""
    with contextlib.suppress(OSError):
        sys.stdout.write("\n" + MARK + json.dumps(fields) + "\n")
        sys.stdout.flush()


class Heartbeat:
    """Signs of life while something takes long."""

    def __init__(self) -> None:
        self._beat_at = time.monotonic() + HEARTBEAT_S

    def beat(self) -> None:
        """Call it often."""
        if time.monotonic() > self._beat_at:
            self._beat_at = time.monotonic() + HEARTBEAT_S
            say(alive=1)


def main() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.umask(0o077)  # logs hold tickets
    request = json.loads(sys.stdin.buffer.readline())
    try:
        with _as_refusals(request["root"]):
            say(answer=ACTIONS[request["action"]](Home(request["root"]), request))
    except Refusal as refusal:
        say(error=refusal.code, text=str(refusal))
    with contextlib.suppress(OSError):
        sys.stdout.close()
    os._exit(0)


@contextlib.contextmanager
def _as_refusals(root: str):
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refusal("disk full", f"its disk is full ({root}); make room there and go on") from error
        raise Refusal("failed", f"{error.strerror or error}: {error.filename or root}") from error


# -- Where things lie -------------------------------------------------------------------------------------


class Home:
    """~/.gossip/NAME/LABEL: env/, wheels/, nodes/NODE/{run/, start.log, process.json}."""

    def __init__(self, root: str) -> None:
        self.path = Path(root).expanduser()
        self.env, self.wheels, self.nodes = self.path / "env", self.path / "wheels", self.path / "nodes"
        self.python = self.env / "bin" / "python"
        self.stamp = self.path / "installed.json"

    def node(self, name: str) -> NodeFolder:
        return NodeFolder(self.nodes / name)

    def all_nodes(self) -> list[NodeFolder]:
        return [NodeFolder(path) for path in sorted(self.nodes.iterdir())] if self.nodes.is_dir() else []

    @contextlib.contextmanager
    def alone(self):
        """One change at a time: of two people, or of one whose first attempt lost its link and is still at work."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "lock", "w") as lock:  # noqa: PTH123
            began = time.monotonic()
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > began + 900:
                        raise Refusal("busy", "an earlier installation still runs there after 15 minutes") from None
                    say(news="waiting for an earlier attempt that still runs there")
                    time.sleep(2.0)
            yield


class NodeFolder:
    """One node: is it alive, and what did it say last."""

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.run = path, path.name, path / "run"
        # gossip's own record of its process, in the run folder, is not there before the node has its data.
        self.process_file = path / "process.json"
        self.start_log, self.run_log = path / "start.log", self.run / "node.log"

    def _process(self) -> dict:
        return read_json(self.process_file)

    def pid(self) -> int:
        """Of the process we started, if it lives; 0 if not. A later process of the same number is another one."""
        known = self._process()
        pid = known.get("pid", 0)
        return pid if pid and born_at(pid) == known["born"] else 0

    @property
    def log(self) -> Path:
        """Where it prints: first start.log, and node.log from when it has its run folder."""
        return max((self.run_log, self.start_log), key=modified_at)

    def _begin_of_log(self) -> int:
        """Where in the log this life's words begin."""
        begun_at = self._process().get("log_bytes", 0) if self.log == self.run_log else 0
        return begun_at if begun_at <= size_of(self.log) else 0  # it was full meanwhile, and began anew

    def log_text(self) -> str:
        """What it has printed since it was started, the last of it."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(self._begin_of_log(), size_of(self.log) - LOG_TAIL_BYTES))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def ticket(self) -> str:
        """The one it printed when it was ready; "" before, and when the log has begun anew since."""
        with contextlib.suppress(OSError), self.log.open(errors="replace") as file:
            file.seek(self._begin_of_log())
            for line in file:
                if line.startswith(JOIN_LINE) and line.endswith("\n"):
                    return line.split()[-1]
        return ""

    def has_state(self) -> bool:
        """Can it go on without asking anybody? With a checkpoint, or as the swarm's first node."""
        if any(CHECKPOINT.fullmatch(path.name) for path in self.run.glob("checkpoints/*")):
            return True
        return read_json(self.run / "swarm.json").get("seeds") == []

    def complaint(self) -> str:
        """Its own error, one line; "" if it gave none."""
        lines = [line for line in self.log_text().splitlines() if line.strip()]
        own = [line.removeprefix("gossip: ") for line in lines if line.startswith("gossip: ")]
        if own:
            return own[-1]
        return lines[-1] if lines and any(line.startswith("Traceback") for line in lines) else ""

    def look(self) -> dict:
        """State and last words, from the process table and the end of its events."""
        pid, began = self.pid(), self._process().get("began", 0.0)
        last, status, accuracy, finished = {}, {}, None, {}
        for event in last_events(self.run):
            name, is_of_this_life = event["event"], event["t"] >= began
            if name in ("status", "restored", "finished"):
                last = event
            if name == "status" and is_of_this_life:
                status = event
            if name == "finished" and is_of_this_life:
                finished = event
            if event.get("accuracy", -1) is not None and event.get("accuracy", -1) >= 0:
                accuracy = event["accuracy"]
        steps = last.get("steps", last.get("step", 0))
        return {
            "node": self.name,
            "state": self._state(pid, status, finished),
            "why": "" if pid else self.complaint() or finished.get("why", ""),
            "pid": pid,
            "step": steps,
            "accuracy": accuracy if steps else None,  # of the first random numbers: worth nothing
            "members": status.get("members"),
            "samples_per_s": status.get("samples_per_s", 0.0) if pid else 0.0,
            "progress": status.get("progress"),
            "seen_s_ago": round(time.time() - last["t"], 1) if last else None,
            "has_state": self.has_state(),
            "ticket": self.ticket() if pid else "",
        }

    def _state(self, pid: int, status: dict, finished: dict) -> str:
        if pid:
            return status.get("phase", "starting")
        result = read_json(self.run / "run.json").get("result") or {}
        if finished or result.get("outcome") == "finished":  # else it is an earlier life's
            return finished.get("outcome", "finished")
        return "died" if self._process() else "not started"


def born_at(pid: int) -> str:
    """When a living process began, in words of its system's own; "" if there is none. A zombie does not live."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    try:
        command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
        words = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return ""
    return "" if not words or words[0].startswith("Z") else " ".join(words[1:])


def last_events(run: Path) -> list[dict]:
    """The end of events.jsonl; where that has just begun anew, of the one before, too."""
    tail = b""
    for name in ("events.jsonl", "events.1.jsonl"):
        with contextlib.suppress(OSError), (run / name).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - (TAIL_BYTES - len(tail))))
            tail = file.read() + tail
        if len(tail) >= TAIL_BYTES:
            break
    events = []
    for line in tail.splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event and "t" in event:
                events.append(event)
    return events


# -- Actions: each takes the request and returns what is answered ----------------------------------------


def probe(home: Home, request: dict) -> dict:
    """What is here already. Raises Refusal where no environment can ever be made."""
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            short = ".".join(map(str, sys.version_info[:2]))
            raise Refusal(
                "no venv",
                f"its Python ({sys.executable}) has no module {module}; on Debian or Ubuntu: "
                f"sudo apt-get install python{short}-venv; or name another Python with --python",
            )
    return {
        "stamp": read_json(home.stamp),
        "wheels": {path.name: file_hash(path) for path in sorted(home.wheels.glob("*.whl"))},
        "free_bytes": shutil.disk_usage(first_existing(home.path)).free,
        "nodes": [node.look() for node in home.all_nodes()],
    }


def install(home: Home, request: dict) -> dict:
    """Take the files that follow, make the environment, and say so in a stamp, last."""
    with home.alone():
        _receive(home, request["files"])
        for old in home.wheels.glob("*.whl"):
            if old.name not in request["wheels"]:
                old.unlink()
        if read_json(home.stamp) == request["stamp"]:
            return {}  # an earlier attempt whose link was lost has done it meanwhile
        sees_all = request["system_site_packages"]
        home.stamp.unlink(missing_ok=True)
        needed = ROOM_BYTES[sees_all] * (not home.python.exists())
        free = shutil.disk_usage(home.path).free
        if free < needed:
            raise Refusal(
                "disk full",
                f"{free // 10**6} MB free at {home.path}, an environment takes {needed // 10**6}; make room",
            )
        made_for = home.env / "made-for.json"
        wanted = json.dumps([sys.executable, sys.version, sees_all])
        if not made_for.exists() or made_for.read_text() != wanted:
            _make_environment(home, sees_all)
            made_for.write_text(wanted)
        _install_wheels(home, request)
        write(home.stamp, json.dumps(request["stamp"]).encode())
    return {}


def _receive(home: Home, files: list) -> None:
    """Each [name, bytes, sha256], one after the other on standard input."""
    for name, size, sha256 in files:
        path = home.wheels / Path(name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        part, left, digest = path.with_name(path.name + ".part"), size, hashlib.sha256()
        with part.open("wb") as file:
            while left:
                data = sys.stdin.buffer.read(min(left, 1 << 18))
                if not data:
                    raise Refusal("cut off", f"the copy of {name} was cut off; run it again")
                file.write(data)
                digest.update(data)
                left -= len(data)
        if digest.hexdigest() != sha256:
            raise Refusal("damaged", f"the copy of {name} is not what was sent; run it again")
        part.replace(path)


def _make_environment(home: Home, sees_all: bool) -> None:
    say(news="making a virtual environment")
    shutil.rmtree(home.env, ignore_errors=True)
    words = [sys.executable, "-m", "venv", *(["--system-site-packages"] if sees_all else []), str(home.env)]
    run(words, "no venv", "cannot make a virtual environment")
    if sees_all and sys.prefix != sys.base_prefix:
        # The Python named is in an environment itself, and a child of it would see the system's packages only.
        import site

        query = "import sysconfig; print(sysconfig.get_path('purelib'))"
        place = Path(
            subprocess.run([home.python, "-c", query], capture_output=True, text=True, check=True).stdout.strip()
        )
        (place / "parent.pth").write_text("\n".join(site.getsitepackages()) + "\n")


def _install_wheels(home: Home, request: dict) -> None:
    pip = [str(home.python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    ours = [str(home.wheels / request["wheel"])]
    if request["offline"]:
        pip += ["--no-index", "--find-links", str(home.wheels)]
    if not request["system_site_packages"]:
        say(news="installing the dependencies")
        run([*pip, *ours], "install failed", "pip cannot install the dependencies")
    say(news="installing gossip")
    # The version may be the same and the content another.
    run([*pip, "--no-deps", "--force-reinstall", *ours], "install failed", "pip cannot install gossip")
    check = "import gossip.live.node, gossip.training.work, gossip.cli, rich, click, psutil"
    advice = "; install it there, or leave --system-site-packages out" if request["system_site_packages"] else ""
    run([str(home.python), "-P", "-c", check], "install failed", "gossip does not start there", advice)


def run(words: list, code: str, what: str, advice: str = "") -> None:
    """A command to its end, with a sign of life now and then. Raises Refusal with its last line."""
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while True:
        try:
            output = process.communicate(timeout=HEARTBEAT_S)[0]
            break
        except subprocess.TimeoutExpired:
            say(alive=1)
    if process.returncode == 0:
        return
    text = output.decode(errors="replace")
    if "No space left on device" in text or "Disk quota exceeded" in text:
        raise Refusal("disk full", "its disk is full; make room there and go on")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("[notice]")] or [
        "it gave no reason"
    ]
    errors = [line for line in lines if line.startswith("ERROR: ")] or lines[-1:]
    raise Refusal(code, f"{what}: {errors[-1].removeprefix('ERROR: ')}{advice}")


def start(home: Home, request: dict) -> dict:
    """Start nodes that do not run, and wait until each is ready or has ended."""
    with home.alone():
        home.nodes.mkdir(parents=True, exist_ok=True)
        for name, text in request["files"].items():
            write(home.path / name, text.encode())
        for wanted in request["nodes"]:
            words = wanted["words"]
            if request["data_dir"]:
                words = [*words, "--data-dir", str(Path.home() / Path(request["data_dir"]).expanduser())]
            _start_node(home, home.node(wanted["node"]), words, request["ticket"])
    waiting = [home.node(wanted["node"]) for wanted in request["nodes"]]
    say(news="compiling" if len(waiting) == 1 else f"compiling, {len(waiting)} nodes")
    deadline, heart = time.monotonic() + request["ready_within_s"], Heartbeat()
    while waiting and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
        waiting = [node for node in waiting if node.pid() and not node.ticket()]
        heart.beat()
    return {"nodes": [home.node(wanted["node"]).look() for wanted in request["nodes"]]}


def _start_node(home: Home, node: NodeFolder, words: list, ticket: str) -> None:
    """In its run folder: where a run is in there already, it goes on, as who it was.

    As `gossip node --detach` would; but that gives a node a minute to fetch its data, and until then keeps no record
    by which it could be shown, or stopped.
    """
    if node.pid():
        return
    node.path.mkdir(parents=True, exist_ok=True)
    record = {"began": time.time(), "log_bytes": size_of(node.run_log)}
    words = [*words, "--run-dir", str(node.run), "--name", node.name, "--detached", "-1"]
    words += ["--join", "-"] if ticket else []
    with node.start_log.open("w+b") as log, tempfile.TemporaryFile() as given:
        given.write(ticket.encode())
        given.seek(0)
        process = subprocess.Popen(
            [str(home.python), "-P", "-m", "gossip", "node", *words],
            cwd=home.path,
            stdin=given,  # no list of processes shows the ticket
            stdout=log,
            stderr=log,
            env={**os.environ, **dict.fromkeys(THREAD_LIMITS, "1"), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # it outlives the ssh session
        )
    record |= {"pid": process.pid, "born": born_at(process.pid)}
    write(node.process_file, json.dumps(record).encode())


def stop(home: Home, request: dict) -> dict:
    """SIGTERM, time for a goodbye, then SIGKILL: also to nodes that are not far enough for `gossip stop`."""
    nodes = [node for node in home.all_nodes() if node.pid()]
    for node in nodes:
        _send(node.pid(), signal.SIGTERM)
    deadline, heart = time.monotonic() + request["goodbye_s"], Heartbeat()
    running = nodes
    while running and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
        running = [node for node in running if node.pid()]
        heart.beat()
    for node in running:
        _send(node.pid(), signal.SIGKILL)
    killed = [node.name for node in running]
    while any(node.pid() for node in running):
        time.sleep(LOOK_EVERY_S)
    if request["purge"]:
        if home.path.exists():
            shutil.rmtree(home.path)
        with contextlib.suppress(OSError):  # not where something else is left: other hosts may share this home
            home.path.parent.rmdir()
            home.path.parent.parent.rmdir()
    return {"stopped": [node.name for node in nodes], "killed": killed}


def _send(pid: int, number: int) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def status(home: Home, request: dict) -> dict:
    return {"nodes": [node.look() for node in home.all_nodes()]}


def ticket(home: Home, request: dict) -> dict:
    """A new ticket, from what a living node keeps in its run folder; "" where none can be made."""
    for node in home.all_nodes():
        if node.pid():
            words = [str(home.python), "-P", "-m", "gossip", "ticket", str(node.run)]
            made = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if made.returncode == 0 and made.stdout.startswith(JOIN_LINE):
                return {"ticket": made.stdout.split()[-1]}
    return {"ticket": ""}


def logs(home: Home, request: dict) -> dict:
    """Lines of the nodes' logs: the last ones, then, with follow, what comes until the other end hangs up."""
    nodes = [node for node in home.all_nodes() if not request["nodes"] or node.name in request["nodes"]]
    position = {}
    for node in nodes:
        data = node.log.read_bytes() if node.log.exists() else b""
        for line in data.decode(errors="replace").splitlines()[-request["lines"] :]:
            say(node=node.name, line=line)
        position[node.name] = data.rfind(b"\n") + 1
    heart = Heartbeat()
    while request["follow"]:
        heart.beat()
        readable, _, _ = select.select([sys.stdin], [], [], 0.5)
        if readable and not os.read(sys.stdin.fileno(), 4096):
            break
        for node in nodes:
            log = node.log
            if size_of(log) < position[node.name]:
                position[node.name] = 0  # it was full, and began anew
            try:
                with log.open("rb") as file:
                    file.seek(position[node.name])
                    data = file.read(1 << 20)
            except FileNotFoundError:
                continue
            whole = data[: data.rfind(b"\n") + 1]
            position[node.name] += len(whole)
            for line in whole.decode(errors="replace").splitlines():
                say(node=node.name, line=line)
    return {}


def collect(home: Home, request: dict) -> dict:
    """Send what the other end does not have. `have`: path -> [bytes, sha256] of what it holds of each file.

    A file that begins with what is there already is sent from there on: events only grow, and so does a copy cut off.
    """
    for node in home.all_nodes():
        names = [*KEPT, *([newest_checkpoint(node.run)] if request["checkpoints"] else [])]
        for name in names:
            relative = f"{node.name}/{name}"
            with contextlib.suppress(FileNotFoundError), (node.run / name).open("rb") as file:
                _send_file(file, relative, request["have"].get(relative, [0, ""]))
    return {}


def newest_checkpoint(run: Path) -> str:
    """Its path in the run folder; of a node that has none, that of one that is not there."""
    steps = [int(match[1]) for path in run.glob("checkpoints/*") if (match := CHECKPOINT.fullmatch(path.name))]
    return f"checkpoints/checkpoint-{max(steps, default=0)}.safetensors"


def _send_file(file, relative: str, have: list) -> None:
    size = os.fstat(file.fileno()).st_size  # it may grow while we read
    had_bytes, had_sha256 = have
    offset = had_bytes if 0 < had_bytes <= size and hash_of(file, had_bytes) == had_sha256 else 0
    if offset == size and size:
        return
    say(file=relative, offset=offset, bytes=size - offset, sha256=hash_of(file, size))
    file.seek(offset)
    left = size - offset
    while left:
        data = file.read(min(left, 1 << 18))
        if not data:
            raise Refusal("changed", f"{file.name} became shorter while it was read; run it again")
        sys.stdout.buffer.write(data)
        left -= len(data)
    sys.stdout.buffer.flush()


def hash_of(file, size: int) -> str:
    """SHA-256 of the first `size` bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while size and (data := file.read(min(size, 1 << 18))):
        digest.update(data)
        size -= len(data)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hash_of(file, path.stat().st_size)


def write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def read_json(path: Path) -> dict:
    """What a file holds; {} where there is none, or none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    return {}


def size_of(path: Path) -> int:
    """In bytes; 0 where there is no such file."""
    return path.stat().st_size if path.exists() else 0


def modified_at(path: Path) -> int:
    """In nanoseconds; 0 where there is no such file."""
    return path.stat().st_mtime_ns if path.exists() else 0


def first_existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


ACTIONS = {
    "probe": probe, "install": install, "start": start, "stop": stop, "status": status, "logs": logs,
    "collect": collect, "ticket": ticket,
}  # fmt: skip

if __name__ == "__main__":
    main()
