"""A ticket made from a run's folder alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

from click.testing import CliRunner

from gossip.cli import cli
from gossip.live.tickets import parse_ticket
from gossip.runs import RunFolder
from gossip.spec import load
from gossip.swarmfile import Door, SwarmFile, write_swarm_file

EXPERIMENT = load(Path(__file__).parents[1] / "deploy" / "experiments" / "two-machines.toml")


def test_a_run_folder_lets_others_in(tmp_path: Path) -> None:
    """Its own node first, then whom it knew last; as long as asked for."""
    run = RunFolder.create(EXPERIMENT, tmp_path / "run")
    write_swarm_file(run.path, SwarmFile(
        swarm_id="00" * 8, swarm_key="5a" * 32, spec_hash="00" * 8, key="01" * 32, address="192.0.2.1:7700",
        members=(Door("192.0.2.2:7700", "02" * 32),),
    ))  # fmt: skip
    result = CliRunner().invoke(cli, ["ticket", str(run.path), "--valid", "3 days", "--json"])
    assert result.exit_code == 0, result.output
    line, found = result.stdout.splitlines()
    ticket = parse_ticket(line.removeprefix("gossip node --join "))
    assert (
        [address for address, _ in ticket.seeds] == ["192.0.2.1:7700", "192.0.2.2:7700"] == json.loads(found)["doors"]
    )
    assert 3 * 86_400 - 60 < ticket.expiry - time.time() <= 3 * 86_400


def test_a_folder_that_knows_nobody_says_so(tmp_path: Path) -> None:
    run = RunFolder.create(EXPERIMENT, tmp_path / "run")
    result = CliRunner().invoke(cli, ["ticket", str(run.path)])
    assert "knows nobody who listens" in str(result.exception)
