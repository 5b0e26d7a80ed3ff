"""gossip lr-find, as somebody types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gossip.cli import cli
from gossip.errors import GossipError

SPEC = '[data]\nrecipe = "glyphs"\n[model]\npreset = "mlp"\n'


def find(tmp_path: Path, *words: str) -> Result:
    (tmp_path / "small.toml").write_text(SPEC)
    picture = str(tmp_path / "new" / "small.svg")
    return CliRunner().invoke(cli, ["lr-find", str(tmp_path / "small.toml"), "--picture", picture, *words])


def test_it_suggests_a_rate_says_why_and_draws(tmp_path: Path) -> None:
    result = find(tmp_path, "--sample", "2000", "--json")
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["samples"] == 2000 and 0.01 < told["learning_rate"] < 1
    assert f"learning_rate = {told['learning_rate']:.2g}   # {told['reason']}" in result.stdout
    assert (tmp_path / "new" / "small.svg").read_text().startswith("<svg")
    again = json.loads(find(tmp_path, "--sample", "2000", "--json").stdout.splitlines()[-1])
    assert again == told  # the seed decides


def test_where_nothing_is_learnt_it_says_so_and_fails(tmp_path: Path) -> None:
    """Rates far too low: a script must not go on with a made-up one."""
    result = find(tmp_path, "--to", "1e-4", "--steps", "40")
    assert isinstance(result.exception, GossipError) and "the loss never fell" in str(result.exception)
    assert (tmp_path / "new" / "small.svg").exists()


@pytest.mark.parametrize("words", [("--sample", "0%"), ("--to", "1e-6"), ("--steps", "3"), ("--sample", "200%")])
def test_mistakes_are_named_before_anything_is_trained(tmp_path: Path, words: tuple[str, str]) -> None:
    result = find(tmp_path, *words)
    assert result.exit_code != 0 and not (tmp_path / "new").exists()
    assert "expected" in str(result.exception) or "range" in result.output


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adamw"])
def test_every_optimizer_has_a_rate(tmp_path: Path, optimizer: str) -> None:
    """AdamW's file is not even whole without one."""
    (tmp_path / "o.toml").write_text(SPEC + f'[train]\noptimizer = "{optimizer}"\n')
    words = ["lr-find", str(tmp_path / "o.toml"), "--picture", str(tmp_path / "o.svg"), "--json"]
    told = json.loads(CliRunner().invoke(cli, words).stdout.splitlines()[-1])
    assert 0.002 < told["learning_rate"] < (0.05 if optimizer == "adamw" else 0.5)
