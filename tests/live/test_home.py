"""Where a node lives: the folder it is given, or one it finds."""

from __future__ import annotations

import random
from pathlib import Path

from gossip.live.home import Addresses, find_home, first_swarm_file
from gossip.live.security import KeyPair
from gossip.protocol.messages import State, Status, Update
from gossip.protocol.node import Node, NodeSettings
from gossip.runs import RunFolder, RunLock
from gossip.spec import load
from gossip.swarmfile import SwarmFile, read_swarm_file, write_swarm_file

EXPERIMENT = load(Path(__file__).parents[2] / "deploy" / "experiments" / "two-machines.toml")


def test_who_looks_for_a_run_to_go_on_with_locks_none_that_does_not_fit(tmp_path: Path) -> None:
    """Not even for a moment: somebody who names that folder just then would be told that it is taken."""
    run = RunFolder.create(EXPERIMENT, tmp_path / "finished")
    write_swarm_file(run.path, SwarmFile(swarm_id="00" * 8, swarm_key="5a" * 32, spec_hash="00" * 8, key="01" * 32))
    run.note(result={"outcome": "finished"})
    home = find_home(EXPERIMENT, None, run_dir=None, key_file=None, fresh=False, under=tmp_path)
    assert home.past is None and not (run.path / RunLock.NAME).exists()


def test_a_founder_notes_its_first_member_at_once_and_a_crowd_once_a_second(tmp_path: Path) -> None:
    """Killed a moment later it would start again as a swarm of one, and know nobody to ask how far the run is."""
    keys = KeyPair.new()
    addresses = Addresses(
        RunFolder.create(EXPERIMENT, tmp_path / "run"), first_swarm_file(EXPERIMENT, b"k" * 32, keys, ())
    )
    settings = NodeSettings(
        key=keys.public, address="127.0.0.1:1", seeds=(), fragments=1, samples_total=1, every_steps=1, blocks=1.0
    )
    node = Node(settings, random.Random(1))

    def meet(number: int) -> None:
        update = Update(bytes([number]) * 32, f"127.0.0.1:{number}", 0, State.ALIVE, Status(sequence=1))
        node.membership.on_updates(update.key, (update,), 0.0)

    def known_at(now: float) -> int:
        if job := addresses.look(node, now):
            job()
        found = read_swarm_file(tmp_path / "run")
        assert found is not None
        return len(found.members)

    assert known_at(100.0) == 0
    meet(7)
    assert known_at(100.1) == 0 and known_at(101.0) == 1
    meet(8)
    meet(9)
    assert known_at(101.5) == 1 and known_at(102.0) == 3
