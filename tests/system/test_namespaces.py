"""Two machines: what the README promises them, and what travels between them, counted twice."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from namespaces import Machine, readme_blocks, two_machines
from processes import GossipProcess

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]
CHECKOUT = Path(__file__).parents[2]
Start = Callable[..., GossipProcess]
WriteSpec = Callable[..., Path]


def test_two_machines_join_by_ticket_train_and_count_their_bytes_as_the_kernel_does(
    start_node: Start, write_spec: WriteSpec
) -> None:
    """Some 20 s of two real nodes over CURVE; the ledgers and the interface's counters agree within 2 %."""
    spec = write_spec(train_learning_rate=0.01, train_warmup=0.0, exchange_every_steps=64)
    with two_machines() as (here, there):
        first = start_node(spec, "--listen", f"tcp://{here.ip}:7700", "--json", prefix=here.prefix, name="first")
        second = start_node("--join", first.ticket(), "--json", prefix=there.prefix, name="second")
        assert first.wait_for("started")["address"] == f"{here.ip}:7700"
        began = second.wait_for("exchange_mixed")["t"]
        second.wait_for("status", 60.0, lambda event: event["t"] > began + 20)
        second.interrupt()
        second_result = second.result()
        first.wait_for("member_left")
        first.interrupt()
        results = {here: first.result(), there: second_result}
        for machine, result in results.items():
            kernel = machine.tcp_bytes()
            for way, counted in (("sent", result["bytes_sent"]), ("received", result["bytes_received"])):
                print(machine.ip, way, f"ledger {counted:,}, kernel {kernel[way]:,}: {counted / kernel[way] - 1:+.3%}")
                assert counted == pytest.approx(kernel[way], rel=0.02)
    assert min(result["accuracy"] for result in results.values()) > 0.9


def test_the_readmes_two_machines(start: Start, tmp_path: Path) -> None:
    """Word for word: every command of the tutorial, on two machines, each in a folder like the checkout."""
    blocks = [(info.split(), text) for info, text in readme_blocks("Two machines")]
    consoles = [(info[1], text) for info, text in blocks if info[:1] == ["console"] and len(info) == 2]
    assert {where for where, _ in consoles} == {"first", "second"}
    with two_machines() as (here, there):
        machines = {"first": here, "second": there}
        folders = {name: checkout_like(tmp_path / name) for name in machines}
        nodes: dict[str, GossipProcess] = {}
        for where, text in consoles:
            for line in text.splitlines():
                if not line.startswith("$ "):
                    continue
                ticket = nodes["first"].ticket() if "TICKET" in line else ""
                gossip, *words = shlex.split(line[2:].replace("TICKET", ticket))
                assert gossip == "gossip"
                run_line(start, machines[where], folders[where], where, words, nodes)
        assert set(nodes) == {"first", "second"}
        for where, node in nodes.items():
            assert node.wait(180) == 0, node.story()
            model = folders[where] / "runs" / "two-machines" / "model.safetensors"
            assert model.stat().st_size > 0


def run_line(
    start: Start, machine: Machine, folder: Path, where: str, words: list[str], nodes: dict[str, GossipProcess]
) -> None:
    """A node is left running; what looks at the run afterwards waits for its end."""
    if words[0] == "node":
        nodes[where] = start(*words, cwd=folder, name=f"{where}-node", prefix=machine.prefix)
        nodes[where].run = folder / "runs" / "two-machines"
        nodes[where].wait_for_text("gossip node --join ")
        return
    assert nodes[where].wait(180) == 0, nodes[where].story()
    process = start(*words, "--json", cwd=folder, name=f"{where}-{words[0]}", prefix=machine.prefix)
    result = process.result(30)
    print(where, words, {key: result[key] for key in ("accuracy", "class") if key in result})
    if words[0] == "eval":
        assert result["accuracy"] >= 0.9
    if words[0] == "predict":
        assert result["class"] == "7"


def checkout_like(folder: Path) -> Path:
    """A folder with what the tutorial's commands read, an image of a seven included; the run is a shorter one."""
    folder.mkdir()
    for part in ("deploy/experiments", "docs"):
        shutil.copytree(CHECKOUT / part, folder / part)
    spec = folder / "deploy" / "experiments" / "two-machines.toml"
    text, count = re.subn(r"(?m)^samples = [0-9_]+", "samples = 600_000", spec.read_text())
    assert count == 1
    spec.write_text(text)
    return folder


def test_the_command_is_installed_beside_the_interpreter() -> None:
    """The other tests call it by module; the tutorial calls it by name."""
    assert os.access(Path(sys.executable).parent / "gossip", os.X_OK)
