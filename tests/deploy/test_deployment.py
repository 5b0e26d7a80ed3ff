"""What is kept on the user's machine."""

from __future__ import annotations

from pathlib import Path

from deployment import StateFolder

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
