"""What a person gives, and where that leads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gossip.errors import NetworkError, SpecError
from gossip.live.tickets import mint
from gossip.live.whereabouts import find_swarm
from gossip.runs import RunFolder
from gossip.spec import Experiment, load
from gossip.swarmfile import Door, SwarmFile, write_swarm_file

KEYS = [bytes([number]) * 32 for number in range(4)]


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text('[data]\nrecipe = "glyphs"\n[model]\npreset = "mlp"\n')
    return load(path)


def remember(folder: Path, number: int, *members: int) -> None:
    """Node `number` listens at port `number`."""
    folder.mkdir(parents=True, exist_ok=True)
    doors = tuple(Door(f"10.0.0.1:{each},[fd00::1]:{each}", KEYS[each].hex()) for each in members)
    key = {"swarm_id": "00" * 8, "swarm_key": "11" * 32, "spec_hash": "22" * 8, "key": KEYS[number].hex()}
    write_swarm_file(folder, SwarmFile(address=f"127.0.0.1:{number}", members=doors, **key))


def test_the_newest_run_is_meant_where_nothing_is_said(experiment: Experiment) -> None:
    with pytest.raises(SpecError, match="no run under runs/"):
        find_swarm("")
    runs = [RunFolder.create(experiment) for _ in range(3)]
    for age, run in enumerate((runs[1], runs[0], runs[2])):
        os.utime(run.path / "spec.toml", (1_000 - age, 1_000 - age))
    assert find_swarm("").run == runs[1]


def test_a_run_knows_its_own_nodes_first(experiment: Experiment) -> None:
    """Each key once, the nodes of this machine before the members they knew; `gossip train` keeps its nodes below."""
    run = RunFolder.create(experiment)
    assert find_swarm("small").permit is None and find_swarm("small").doors == ()
    remember(run.path / "nodes" / "n0", 0, 1, 2)
    remember(run.path / "nodes" / "n1", 1, 0, 3)
    found = find_swarm("small")
    assert found.permit is not None
    assert [address for address, _ in found.doors] == ["127.0.0.1:0", "127.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"]


def test_an_address_is_looked_up_in_the_runs_here(experiment: Experiment) -> None:
    """An address alone opens nothing: the run that knows it has the member's key, and the swarm's."""
    run = RunFolder.create(experiment)
    remember(run.path, 1, 2)
    assert find_swarm("10.0.0.1:2").doors[0] == ("10.0.0.1:2", KEYS[2])
    (RunFolder.create(experiment).path / "swarm.json").write_text("{")
    assert find_swarm("127.0.0.1:1").run == run, "damage elsewhere is no answer"
    with pytest.raises(NetworkError, match="no run under runs/ knows a member there"):
        find_swarm("10.0.0.1:9")


def test_a_ticket_is_enough(experiment: Experiment) -> None:
    ticket = mint(b"k" * 32, [("127.0.0.1:1", KEYS[1])], now=0.0)
    found = find_swarm(ticket.text())
    assert found.doors == (("127.0.0.1:1", KEYS[1]),) and found.run is None
    with pytest.raises(NetworkError, match="typo"):
        find_swarm(ticket.text()[:-8])
    with pytest.raises(SpecError, match="no run there"):
        find_swarm("nowhere")
