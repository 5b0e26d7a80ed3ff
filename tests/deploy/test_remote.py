"""One call to one host: what goes there, what comes back, and every way it can go wrong.

`ssh` is a script here that runs the command on this machine, as a login shell with something to say would.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ssh as ssh_module
from collecting import Collection
from hostfile import Host
from remote import born_at
from ssh import HostError, Ssh

from gossip.live.tickets import parse_ticket
from gossip.observe import write_atomically
from gossip.swarmfile import SwarmFile, write_swarm_file

HERE = """while [ "$1" != "--" ]; do shift; done
echo 'Welcome! @gossip is not a marker here'
exec sh -c "$3"
"""
LAB = Host(target="lab1")
Connect = Callable[..., Ssh]


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """connect(script) -> an Ssh whose command is that script; home is a folder of the test's."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def connect(script: str = HERE) -> Ssh:
        command = tmp_path / "ssh"
        command.write_text(f"#!/bin/sh\n{script}")
        command.chmod(0o700)
        return Ssh(command=str(command))

    return connect


def call(ssh: Ssh, action: str, python: str = sys.executable, **more: Any) -> dict[str, Any]:
    on_piece = more.pop("on_piece", lambda message, read: None)
    return ssh.call(LAB, python, {"action": action, "root": "~/.gossip/test/lab1", **more}, on_piece=on_piece)


def test_a_host_that_has_nothing_yet(connect: Connect, tmp_path: Path) -> None:
    """Looking leaves no trace."""
    found = call(connect(), "probe")
    assert found["stamp"] == {} and found["wheels"] == {} and found["nodes"] == [] and found["free_bytes"] > 0
    assert not (tmp_path / ".gossip").exists()


@pytest.mark.parametrize(
    ("says", "status", "code", "expected"),
    [
        ("ssh: connect to host lab1 port 22: Connection refused", 255, "unreachable", "Connection refused"),
        ("ssh: connect to host lab1 port 22: No route to host", 255, "unreachable", "is it on"),
        ("ssh: Could not resolve hostname lab1: Name or service not known", 255, "unknown name", "hostfile"),
        ("ada@lab1: Permission denied (publickey,password).", 255, "key refused", "ssh-copy-id lab1"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", 255, "host key",
         "ssh-keygen -R lab1"),
        ("No ED25519 host key is known for lab1 and you have requested strict checking.", 255, "host key", "by hand"),
        ("command-line: line 0: Bad configuration option: foo", 255, "ssh option", "Bad configuration option: foo"),
        ("something new", 255, "unreachable", "something new"),
        ("sh: 1: python3: not found", 127, "no python", "install Python 3.11 or newer"),
        ("Segmentation fault", 139, "failed", "Segmentation fault"),
    ],
)  # fmt: skip
def test_every_refusal_has_a_name(connect: Connect, says: str, status: int, code: str, expected: str) -> None:
    """What OpenSSH says becomes what to do about it, in one line."""
    with pytest.raises(HostError) as raised:
        call(connect(f"cat >&2 <<'END'\n{says}\nEND\nexit {status}\n"), "probe")
    assert raised.value.code == code and expected in str(raised.value) and "\n" not in str(raised.value)


def test_an_old_python_is_named(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so itself, before it reads anything that it could not understand."""
    monkeypatch.setattr(ssh_module, "BOOTSTRAP", ssh_module.BOOTSTRAP.replace("(3, 11)", "(9, 0)"))
    with pytest.raises(HostError) as raised:
        call(connect(), "probe")
    assert raised.value.code == "old python" and "expected 3.11 or newer" in str(raised.value)


def test_a_command_with_spaces_and_quotes_stays_one_word(connect: Connect, tmp_path: Path) -> None:
    """The only words a shell ever sees there are quoted."""
    python = tmp_path / "my 'own' $(touch harm) python"
    python.symlink_to(sys.executable)
    assert call(connect(), "probe", python=str(python))["nodes"] == []
    assert not list(tmp_path.rglob("harm"))


def run_of(tmp_path: Path, node: str, events: bytes) -> Path:
    run = tmp_path / ".gossip" / "test" / "lab1" / "nodes" / node / "run"
    write_atomically(run / "events.jsonl", events)
    write_atomically(run / "model.safetensors", b"weights" * 1000)
    for name in ("node.key", "swarm.json", "owner.key", "lock", "node.pid", "node.log", "node.1.log", "../start.log"):
        write_atomically(run / name, b"secret")
    for step in (900, 1000):
        write_atomically(run / "checkpoints" / f"checkpoint-{step}.safetensors", b"state" * step)
    return run


def collect(ssh: Ssh, folder: Path, checkpoints: bool = False) -> Collection:
    collection = Collection(folder, ["n0", "n1"], lambda text: None, checkpoints)
    call(ssh, "collect", have=collection.have(), checkpoints=checkpoints, on_piece=collection.on_piece)
    return collection


def says(event: str, t: float, **fields: Any) -> bytes:
    return json.dumps({"event": event, "node": "n0", "t": t, **fields}).encode() + b"\n"


def lives(run: Path, **fields: Any) -> None:
    """This very process is the node."""
    record = {"pid": os.getpid(), "born": born_at(os.getpid()), "began": 0.0, "log_bytes": 0, **fields}
    (run.parent / "process.json").write_text(json.dumps(record))


def test_collecting_again_fetches_what_is_new(connect: Connect, tmp_path: Path) -> None:
    """Events only grow, and a copy that was cut off goes on where it ended; keys and logs stay where they are."""
    ssh, folder = connect(), tmp_path / "got"
    run = run_of(tmp_path, "n0", b'{"event": "a"}\n' * 100)
    assert collect(ssh, folder).files == 2
    assert collect(ssh, folder).files == 0
    with (run / "events.jsonl").open("ab") as file:
        file.write(b"more\n")
    assert collect(ssh, folder).bytes == len(b"more\n")
    (folder / "n0" / "model.safetensors").unlink()
    (folder / "n0" / "model.safetensors.part").write_bytes(b"weights" * 900)
    assert collect(ssh, folder).bytes == len(b"weights" * 100)
    (folder / "n0" / "model.safetensors.part").write_bytes(b"of another run")
    assert collect(ssh, folder).bytes == len(b"weights" * 1000)
    for name in ("events.jsonl", "model.safetensors"):
        assert (folder / "n0" / name).read_bytes() == (run / name).read_bytes()
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"events.jsonl", "model.safetensors"}


def test_events_that_began_a_new_file_meanwhile(connect: Connect, tmp_path: Path) -> None:
    """What is here under the old name comes again under the new one: whole, and not mixed."""
    ssh, folder = connect(), tmp_path / "got"
    run = run_of(tmp_path, "n0", b"first\n" * 100)
    collect(ssh, folder)
    (run / "events.jsonl").replace(run / "events.1.jsonl")
    (run / "events.jsonl").write_bytes(b"second\n")
    assert collect(ssh, folder).files == 2
    assert (folder / "n0" / "events.jsonl").read_bytes() == b"second\n"
    assert (folder / "n0" / "events.1.jsonl").read_bytes() == b"first\n" * 100


def test_checkpoints_come_when_asked_for(connect: Connect, tmp_path: Path) -> None:
    """The newest one only, and only once."""
    ssh, folder = connect(), tmp_path / "got"
    run = run_of(tmp_path, "n0", b"{}\n")
    collect(ssh, folder)
    assert not (folder / "n0" / "checkpoints").exists()
    assert collect(ssh, folder, checkpoints=True).files == 1
    assert collect(ssh, folder, checkpoints=True).files == 0
    (got,) = (folder / "n0" / "checkpoints").iterdir()
    assert got.read_bytes() == (run / "checkpoints" / "checkpoint-1000.safetensors").read_bytes()


@pytest.mark.parametrize(
    "name", ["../evil", "n0/../../evil", "n0/.bashrc", "n9/run.json", "/etc/run.json", "n0/swarm.json", "n0/owner.key",
     "n0/checkpoints/../run.json", "n0/checkpoints/node.key", "n0/checkpoints/checkpoint-1.safetensors/x"],
)  # fmt: skip
def test_a_host_does_not_choose_where_we_write(tmp_path: Path, name: str) -> None:
    collection = Collection(tmp_path / "got", ["n0"], lambda text: None, checkpoints=True)
    with pytest.raises(HostError, match="nobody asked for"):
        collection.on_piece({"file": name, "offset": 0, "bytes": 4, "sha256": ""}, lambda size: b"evil")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_only_has_the_number_of_ours_is_left_alone(connect: Connect, tmp_path: Path) -> None:
    """After a restart of the machine a node's number may be anybody's: it is neither shown nor stopped."""
    run = run_of(tmp_path, "n0", b"")
    lives(run, pid=1, born="another time")
    (look,) = call(connect(), "status")["nodes"]
    assert look["state"] == "died" and look["pid"] == 0
    assert call(connect(), "stop", goodbye_s=0.0, purge=False) == {"stopped": [], "killed": []}


def test_the_last_status_may_be_in_the_older_file(connect: Connect, tmp_path: Path) -> None:
    """events.jsonl has just begun anew, with the old `started` alone; its node is as far as it was."""
    run = run_of(tmp_path, "n0", says("started", 1.0, key="aa"))
    (run / "events.1.jsonl").write_bytes(
        says("started", 1.0, key="aa") + says("status", 2.0, step=70, accuracy=0.5, phase="training", members=3)
    )
    lives(run)
    (look,) = call(connect(), "status")["nodes"]
    assert (look["state"], look["step"], look["accuracy"], look["members"]) == ("training", 70, 0.5, 3)


def test_what_an_earlier_life_said_is_not_said_of_this_one(connect: Connect, tmp_path: Path) -> None:
    """It left, was started again, and could not: that it died, and why, and where it stands."""
    run = run_of(tmp_path, "n0", says("status", 1.0, step=40) + says("finished", 2.0, outcome="left", steps=50))
    (run / "run.json").write_text('{"result": {"outcome": "left"}}')
    lives(run, pid=1, born="another time", began=3.0, log_bytes=6)
    (run.parent / "start.log").write_text("gossip: tcp://0.0.0.0:7700: cannot listen\n")
    (look,) = call(connect(), "status")["nodes"]
    assert (look["state"], look["step"], look["why"]) == ("died", 50, "tcp://0.0.0.0:7700: cannot listen")
    assert look["has_state"]
    (run / "run.json").write_text('{"result": {"outcome": "finished"}}')  # and then was killed
    assert call(connect(), "status")["nodes"][0]["state"] == "finished"


def test_the_log_moves_into_the_run_folder(connect: Connect, tmp_path: Path) -> None:
    """The ticket of this life is found in either file; the one of the life before, in neither."""
    run = run_of(tmp_path, "n0", b"")
    before = "gossip node --join OLD\n"
    (run.parent / "start.log").write_text("")
    (run / "node.log").write_text(before)
    lives(run, log_bytes=len(before))
    assert call(connect(), "status")["nodes"][0]["ticket"] == ""
    (run / "node.log").write_text(before + "gossip node --join NEW\n")
    assert call(connect(), "status")["nodes"][0]["ticket"] == "NEW"
    (run / "node.log").write_text("anew\n")  # the log was full
    assert call(connect(), "status")["nodes"][0]["ticket"] == ""


def test_a_node_that_died_goes_on_in_its_own_run_folder(connect: Connect, tmp_path: Path) -> None:
    """No word of a fresh start, nothing renamed, and no list of processes shows the ticket."""
    run = run_of(tmp_path, "n0", b"")
    python = tmp_path / ".gossip/test/lab1/env/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\ncat\n')
    python.chmod(0o700)
    wanted = [{"node": "n0", "words": ["spec.toml"]}]
    call(connect(), "start", nodes=wanted, ticket="SECRET", ready_within_s=20.0, files={"spec.toml": ""}, data_dir="")
    words, ticket = (run.parent / "start.log").read_text().splitlines()
    assert words == f"-P -m gossip node spec.toml --run-dir {run} --name n0 --detached -1 --join -"
    assert ticket == "SECRET"
    assert {path.name for path in run.parent.iterdir()} == {"run", "start.log", "process.json"}


def test_a_living_nodes_folder_gives_a_new_ticket(connect: Connect, tmp_path: Path) -> None:
    """The printed one is for a day; a laboratory lets machines in on the third."""
    run = run_of(tmp_path, "n0", b"")
    swarm = SwarmFile(
        swarm_id="00" * 8, swarm_key="11" * 32, spec_hash="22" * 8, key="33" * 32, address="192.0.2.7:7700"
    )
    write_swarm_file(run, swarm)
    (run / "run.json").write_text("{}")
    python = run.parents[2] / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o700)
    assert call(connect(), "ticket") == {"ticket": ""}  # nobody lives there
    lives(run)
    ticket = parse_ticket(call(connect(), "ticket")["ticket"])
    assert ticket.seeds == (("192.0.2.7:7700", b"\x33" * 32),)


def test_a_damaged_copy_is_not_used(connect: Connect, tmp_path: Path) -> None:
    """The hash says so before pip sees it."""
    wheel = tmp_path / "some.whl"
    wheel.write_bytes(b"as sent")
    upload = ssh_module.Upload(wheel, "0" * 64)
    request = {"action": "install", "root": "~/.gossip/test/lab1", "files": [upload.header()], "wheels": [wheel.name]}
    with pytest.raises(HostError, match=r"the copy of some\.whl is not what was sent"):
        connect().call(LAB, sys.executable, request, uploads=[upload])
    assert not list((tmp_path / ".gossip").rglob("*.whl"))
