"""What is kept on the user's machine."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from deployment import Deployment, Options, StateFolder
from hostfile import parse_hostfile

from gossip.errors import SpecError
from gossip.owner import load_owner_key
from gossip.spec import load

EXPERIMENT = load(Path(__file__).parents[2] / "deploy" / "experiments" / "two-machines.toml")


def test_the_owner_of_a_swarm_is_who_deploys_it(tmp_path: Path) -> None:
    """One key for good: it is made once, only its owner reads it, and the hosts are sent its public half."""
    state = StateFolder(tmp_path, "lab")
    with state.alone():
        owned = state.owned(EXPERIMENT)
        assert state.owned(EXPERIMENT) == owned
        state.keep_experiment(owned)
    assert state.owner_key.stat().st_mode & 0o777 == 0o600
    assert load(state.spec).owner == load_owner_key(state.owner_key).public
    assert load(state.spec).hash == owned.hash
    secret = state.owner_key.read_text().split()[-1]
    assert not [name for name, text in state.experiment_files().items() if secret in text]


def test_an_experiment_that_names_its_owner_keeps_him(tmp_path: Path) -> None:
    """His key may lie in a drawer."""
    state = StateFolder(tmp_path, "lab")
    assert state.owned(EXPERIMENT.owned_by("5a" * 32)).owner == "5a" * 32
    assert not state.owner_key.exists()


def test_a_model_to_begin_with_is_not_sent_to_hosts(tmp_path: Path) -> None:
    """Only its path would arrive there, and the first host could not begin."""
    model = msgspec.structs.replace(EXPERIMENT.model, init="trained.safetensors", init_sha256="0" * 64)
    with pytest.raises(SpecError, match="is not sent to hosts; begin the swarm here"):
        StateFolder(tmp_path, "lab").keep_experiment(msgspec.structs.replace(EXPERIMENT, model=model))


def test_a_host_that_never_answered_can_be_forgotten(tmp_path: Path) -> None:
    """A mistyped name stays nobody's fault for ever: corrected, its node and shard go to the right machine."""
    deployment = Deployment(name="lab", spec_hash="", options=Options(), hosts=[], nodes=[])
    for host in parse_hostfile("lab1\nlbb2\nlab3 slots=2", "hosts"):
        deployment.plan(host, 4)
    deployment.has_reached(["lab1", "lab3"])
    state = StateFolder(tmp_path, "lab")
    state.save(deployment)
    deployment = state.load()
    assert deployment.unreached == ["lbb2"]

    deployment.forget_unreached(but=["lbb2"])  # it still stands in the hostfile
    assert len(deployment.hosts) == 3
    deployment.forget_unreached(but=["lab1", "lab2", "lab3"])
    for host in parse_hostfile("lab1\nlab2\nlab3 slots=2", "hosts"):
        deployment.plan(host, 4)
    placed = {node.name: (node.host, node.slot, node.shard) for node in deployment.nodes}
    assert placed == {"n0": ("lab1", 0, 0), "n1": ("lab2", 0, 1), "n2": ("lab3", 0, 2), "n3": ("lab3", 1, 3)}
    assert deployment.unreached == ["lab2"]
