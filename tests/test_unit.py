"""The unit that keeps a node running: read by systemd itself, where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from gossip.cli import cli
from gossip.errors import RunIsFinishedError, SpecError
from gossip.runs import RunFolder
from gossip.spec import load
from gossip.swarmfile import SwarmFile, write_swarm_file
from gossip.unit import unit_name, unit_text

EXPERIMENT = load(Path(__file__).parents[1] / "deploy" / "experiments" / "two-machines.toml")
SECRET = "5a" * 32


def begun(folder: Path) -> RunFolder:
    run = RunFolder.create(EXPERIMENT, folder)
    write_swarm_file(run.path, SwarmFile(swarm_id="00" * 8, swarm_key=SECRET, spec_hash="00" * 8, key="01" * 32))
    return run


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", ["run", 'a folder, "50%" of it $HOME'])
def test_systemd_understands_it(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No directive it does not know, no word that falls apart, whatever the folder is called."""
    monkeypatch.setenv("GOSSIP_DATA", str(tmp_path / "data of mine"))
    run = begun(tmp_path / name)
    path = tmp_path / unit_name(run)
    path.write_text(unit_text(run))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", str(path)],
        capture_output=True, text=True, check=False, env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    if "Failed to initialize manager" in verified.stderr:
        pytest.skip(verified.stderr)
    assert (verified.returncode, verified.stderr) == (0, "")
    scored = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(path)], capture_output=True, text=True, check=False
    )
    if found := re.search(r"exposure level for .*: ([0-9.]+)", scored.stdout):
        assert float(found[1]) < 6, "of a service that may do everything: 9.6"


def test_it_resumes_from_the_folder_and_holds_no_secret(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    text = unit_text(run)
    assert f"-m gossip node --run-dir {run.path}\n" in text
    assert SECRET not in text
    assert "--join" not in text
    assert "RestartPreventExitStatus=2 3\n" in text and RunIsFinishedError.exit_status == 3
    assert "PrivateTmp=no" in text or not str(tmp_path).startswith("/tmp")
    (megabytes,) = re.findall(r"MemoryMax=(\d+)M", text)
    assert 800 < int(megabytes) < 2_000


def test_it_may_write_where_the_backups_go(tmp_path: Path) -> None:
    """ProtectSystem=strict makes all else read-only: each backup would fail, and training go on without them."""
    run = begun(tmp_path / "run")
    text = (run.path / "spec.toml").read_text()
    (run.path / "spec.toml").write_text(text.replace("[node]", '[node]\nbackup = "/mnt/safe place"'))
    assert '"-/mnt/safe place"' in unit_text(run)
    (run.path / "spec.toml").write_text(text.replace("[node]", '[node]\nbackup = "rclone copy {file} remote:models"'))
    assert "rclone" not in unit_text(run)


def test_a_folder_in_which_nobody_began_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no node has begun there"):
        unit_text(RunFolder.create(EXPERIMENT, tmp_path / "run"))


def test_installed_it_lies_where_the_users_systemd_looks(tmp_path: Path) -> None:
    run = begun(tmp_path / "my run")
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    result = CliRunner().invoke(cli, ["unit", str(run.path), "--install"], env=environment)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "config" / "systemd" / "user" / "gossip-my-run.service").read_text() == unit_text(run)
    assert "systemctl --user enable --now gossip-my-run.service" in result.output
