"""Machines with an sshd each, and a user's machine from which they are deployed to."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from namespaces import Machine, machines
from processes import ONE_THREAD, patient, wait_until

from gossip.observe import read_events

CHECKOUT = Path(__file__).parents[2]
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
# The installed dependencies of the Python that runs the tests: there is no network to fetch them by.
OFFLINE = ("--system-site-packages", "--python", sys.executable)


class LabMachine:
    """A machine with sshd at port 22, where `root` has a home folder of this machine's own."""

    def __init__(self, machine: Machine, folder: Path, authorized_keys: Path) -> None:
        self.machine, self.ip = machine, machine.ip
        self.home, self._log = folder / "home", folder / "sshd.log"
        make_key(folder / "host_key")
        config = folder / "sshd_config"
        config.write_text(
            f"HostKey {folder}/host_key\nPidFile none\nAuthorizedKeysFile {authorized_keys}\nStrictModes no\n"
            "PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
            f"SetEnv HOME={self.home}\n"
        )
        assert SSHD is not None
        with self._log.open("wb") as log:
            self.sshd = subprocess.Popen([*machine.prefix, SSHD, "-D", "-e", "-f", config], stdout=log, stderr=log)

    def wait_for_sshd(self) -> None:
        def look() -> bool:
            assert self.sshd.poll() is None, self._log.read_text()
            return "Server listening" in self._log.read_text()

        wait_until(look, 10.0, f"sshd listens on {self.ip}")

    def end_sshd(self) -> None:
        """The listener and the connections it has: from now on nobody can ask this machine anything."""
        pids = subprocess.run(["ip", "netns", "pids", self.machine.name], check=True, capture_output=True, text=True)
        for pid in pids.stdout.split():
            if Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                os.kill(int(pid), signal.SIGKILL)
        self.sshd.wait()

    def forget_tickets(self) -> None:
        """As if those printed so far were too old to use."""
        for log in self.home.glob(".gossip/*/*/nodes/*/run/node.log"):
            lines = log.read_text().splitlines(keepends=True)
            log.write_text("".join(line for line in lines if not line.startswith("gossip node --join ")))

    def pid_of(self, node: str) -> int:
        (file,) = self.home.glob(f".gossip/*/*/nodes/{node}/process.json")
        return json.loads(file.read_text())["pid"]

    def checkpoint_step(self, node: str) -> int:
        """Of its newest checkpoint; 0 where it has none."""
        (run,) = self.home.glob(f".gossip/*/*/nodes/{node}/run")
        return max((int(path.stem.partition("-")[2]) for path in run.glob("checkpoints/*.safetensors")), default=0)

    def events(self, node: str, name: str) -> list[dict[str, Any]]:
        """Its events of this name, as they lie there."""
        (path,) = self.home.glob(f".gossip/*/*/nodes/{node}/run/events.jsonl")
        return [event for event in read_events(path) if event["event"] == name]


class Laboratory:
    """The machines, and the user's command line."""

    def __init__(self, user: Machine, hosts: list[LabMachine], folder: Path, key: Path) -> None:
        self._user, self.hosts, self.folder = user, hosts, folder
        self._ssh = [f"IdentityFile={key}", "IdentitiesOnly=yes", f"UserKnownHostsFile={folder}/known_hosts",
                     "GlobalKnownHostsFile=/dev/null", "User=root", "ConnectTimeout=3"]  # fmt: skip

    def hostfile(self, *lines: str) -> Path:
        path = self.folder / "hosts"
        path.write_text("\n".join(lines) + "\n")
        return path

    def up_words(self, spec: Path, hostfile: Path) -> list[str]:
        options = [word for option in self._ssh for word in ("--ssh-option", option)]
        return ["up", str(spec), "--hosts", str(hostfile), *OFFLINE, *options]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """One command of the user's, in a session of its own."""
        return subprocess.Popen(
            [*self._user.prefix, sys.executable, str(CHECKOUT / "deploy" / "swarm.py"), *words],
            cwd=self.folder, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=os.environ | ONE_THREAD | {"GOSSIP_DEPLOY_STATE": str(self.folder / "state"), "COLUMNS": "100"},
            start_new_session=True,
        )  # fmt: skip

    def swarm(self, *words: str, status: int = 0) -> str:
        """What the command printed; it must end with this exit status."""
        began, process = time.monotonic(), self.start(*words)
        try:
            output, _ = process.communicate(timeout=patient(120))
        finally:
            process.kill()
        print(f"$ swarm.py {' '.join(words[:2])} -> {process.returncode}, {time.monotonic() - began:.1f} s\n{output}")
        assert process.returncode == status, output
        return output

    def nodes(self, status: int = 0) -> dict[str, dict[str, Any]]:
        """What `status --json` says of each node."""
        hosts = json.loads(self.swarm("status", "--json", status=status).split("\nswarm:")[0].splitlines()[-1])["hosts"]
        return {node["node"]: node | {"host": host["host"]} for host in hosts for node in host["nodes"]}


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, stdin=subprocess.DEVNULL)
    return path


@contextlib.contextmanager
def laboratory(
    folder: Path, count: int, strangers: tuple[int, ...] = (), small_disks: tuple[int, ...] = ()
) -> Iterator[Laboratory]:
    """`count` machines, numbered from 1; all but the strangers know the user's key. Skips where there is no sshd."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("needs sshd and ssh (openssh-server, openssh-client)")
    with contextlib.ExitStack() as stack:
        user, *others = stack.enter_context(machines(count + 1))
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd gives its privileges up
        key, other_key = make_key(folder / "user_key"), make_key(folder / "other_key")
        hosts = []
        for number, machine in enumerate(others, 1):
            home = folder / f"lab{number}" / "home"
            home.mkdir(parents=True)
            if number in small_disks:
                stack.enter_context(_small_disk(home))
            known = other_key if number in strangers else key
            hosts.append(LabMachine(machine, home.parent, known.with_suffix(".pub")))
        for host in hosts:
            host.wait_for_sshd()
        yield Laboratory(user, hosts, folder, key)


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """A file system of 2 MB. Skips where it cannot be had."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]
    result = subprocess.run(mount, check=False, capture_output=True, text=True)
    if result.returncode != 0:
        pytest.skip(f"needs to mount a tmpfs: {result.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
