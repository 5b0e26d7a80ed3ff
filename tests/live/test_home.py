"""Where a node lives: the folder it is given, or one it finds."""

from __future__ import annotations

from pathlib import Path

from gossip.live.home import find_home
from gossip.runs import RunFolder, RunLock
from gossip.spec import load
from gossip.swarmfile import SwarmFile, write_swarm_file

EXPERIMENT = load(Path(__file__).parents[2] / "deploy" / "experiments" / "two-machines.toml")


def test_who_looks_for_a_run_to_go_on_with_locks_none_that_does_not_fit(tmp_path: Path) -> None:
    """Not even for a moment: somebody who names that folder just then would be told that it is taken."""
    run = RunFolder.create(EXPERIMENT, tmp_path / "finished")
    write_swarm_file(run.path, SwarmFile(swarm_id="00" * 8, swarm_key="5a" * 32, spec_hash="00" * 8, key="01" * 32))
    run.note(result={"outcome": "finished"})
    home = find_home(EXPERIMENT, None, run_dir=None, key_file=None, fresh=False, under=tmp_path)
    assert home.past is None and not (run.path / RunLock.NAME).exists()
