"""A researcher with four lab machines: real sshd, real nodes, a network of their own."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from laboratory import Laboratory, laboratory
from processes import spec_text, wait_until

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]


def write_spec(folder: Path) -> Path:
    path = folder / "digits.toml"
    path.write_text(
        spec_text(data_shards=4, train_warmup=0.0, node_checkpoint_every_s=1).replace(
            'name = "test"', 'name = "digits"'
        )
    )
    return path


def wait_for_members(lab: Laboratory, members: int) -> None:
    def look() -> bool:
        running = [node for node in lab.nodes().values() if node["pid"]]
        return all(node["members"] == members for node in running)

    wait_until(look, 30.0, f"every node counts {members} members")


def test_four_lab_machines(tmp_path: Path) -> None:
    """Up, add a fourth, kill a node, bring it back as who it was, pause, down, go on, fetch all: the README's walk."""
    with laboratory(tmp_path, 4) as lab:
        first, second, third, fourth = lab.hosts
        up = lab.up_words(write_spec(tmp_path), lab.hostfile(first.ip, f"{second.ip} listen=7800", third.ip))
        lab.swarm(*up)
        wait_for_members(lab, 3)
        pids = {name: node["pid"] for name, node in lab.nodes().items()}
        assert set(pids) == {"n0", "n1", "n2"}
        secret = tmp_path / "state" / "digits" / "state.json"
        assert {path.stat().st_mode & 0o777 for path in (secret, secret.with_name("owner.key"))} == {0o600}

        assert "is up" in lab.swarm(*up)  # again: nothing to do, so nothing done
        assert {name: node["pid"] for name, node in lab.nodes().items()} == pids

        for host in (first, second, third):
            host.forget_tickets()
        lab.swarm("add", fourth.ip, "slots=1")  # with a ticket made from a living node's run folder
        wait_for_members(lab, 4)

        wait_until(lambda: second.checkpoint_step("n1"), 30.0, "n1 has a checkpoint")
        os.kill(second.pid_of("n1"), signal.SIGKILL)
        nodes, saved = lab.nodes(), second.checkpoint_step("n1")
        assert nodes["n1"]["state"] == "died"
        assert all(nodes[name]["pid"] for name in ("n0", "n2", "n3"))
        lab.swarm(*up)
        assert lab.nodes()["n1"]["pid"] not in (0, pids["n1"])
        wait_until(lambda: lab.nodes()["n1"]["step"] > saved, 60.0, "n1 trains on")
        restored = second.events("n1", "restored")
        assert [event["step"] for event in restored] == [saved]
        assert len({event["key"] for event in second.events("n1", "started")}) == 1
        wait_for_members(lab, 4)  # not five

        assert "pause: known to 4 living members" in lab.swarm("pause")  # from the user's machine, with its own key
        wait_until(lambda: {n["state"] for n in lab.nodes().values()} == {"paused"}, 30.0, "all pause")
        assert "known to 4 living members" in lab.swarm("resume")

        assert "n3 | " in lab.swarm("logs", fourth.ip, "-n", "3")
        assert "no node has saved a model yet" in lab.swarm("collect", str(tmp_path / "got"))

        fourth.end_sshd()  # its node trains on
        assert f"{fourth.ip}  failed: cannot be reached" in lab.swarm("down", status=1)
        left = {name: node for name, node in lab.nodes(status=1).items() if node["state"] == "left"}
        assert set(left) == {"n0", "n1", "n2"}
        lab.swarm(*up, status=1)  # and go on, where they stood or where the one that trained on is
        again = lab.nodes(status=1)
        assert all(again[name]["pid"] and again[name]["step"] >= left[name]["step"] for name in left)
        lab.swarm("down", status=1)
        said = lab.swarm("collect", str(tmp_path / "got"), status=1)
        assert float(re.search(r"best     n\d: ([0-9.]+)%, of 3 models", said)[1]) > 50  # type: ignore[index]
        assert sorted(path.name for path in (tmp_path / "got").iterdir()) == ["n0", "n1", "n2", "n3"]
        for name in ("n0", "n1", "n2", "n3"):  # of the last what came before
            assert {"events.jsonl", "run.json", "spec.toml"} <= {p.name for p in (tmp_path / "got" / name).iterdir()}
        kept = b"".join(path.read_bytes() for path in (tmp_path / "got").rglob("*") if path.is_file())
        assert b"--join" not in kept
        assert not [path for path in (tmp_path / "got").rglob("*") if path.suffix in (".log", ".pid", ".key", ".part")]

        lab.swarm("down", "--purge", status=1)
        assert not any((host.home / ".gossip").exists() for host in (first, second, third))


def test_what_is_wrong_with_each_host_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    """Nobody there, no key, no Python, no room, and Ctrl-C in the middle of it all."""
    with laboratory(tmp_path, 4, strangers=(2,), small_disks=(4,)) as lab:
        good, stranger, bare, full = lab.hosts
        nobody = "10.231.9.99"
        spec = write_spec(tmp_path)
        up = lab.up_words(
            spec, lab.hostfile(nobody, stranger.ip, f"{bare.ip} python=no-such-python3", full.ip, f"{good.ip} slots=2")
        )
        interrupted = lab.start(*up)
        assert interrupted.stdout is not None
        while "installing" not in (line := interrupted.stdout.readline()):
            assert line, "it ended before it installed anything"
        interrupted.send_signal(signal.SIGINT)
        assert "interrupted" in interrupted.communicate(timeout=30)[0]
        assert interrupted.returncode == 130

        said = lab.swarm(*up, status=1)
        for host, why in (
            (nobody, "cannot be reached"),
            (stranger.ip, "no key of yours opens it"),
            (bare.ip, "no no-such-python3 there"),
            (full.ip, "an environment takes 30; make room"),
            (good.ip, "n4 "),
        ):
            (line,) = [line for line in said.splitlines() if re.match(rf"{re.escape(host)}  (ok|failed): ", line)]
            assert why in line, said
        nodes = lab.nodes(status=1)
        assert {name for name, node in nodes.items() if node.get("pid")} == {"n4", "n5"}
        assert nodes["n0"]["state"] == "unreachable" and nodes["n1"]["state"] == "key refused"
        lab.swarm("down", "--purge")  # where nobody ever answered there is nothing of ours
        assert not (good.home / ".gossip").exists()
