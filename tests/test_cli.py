"""The command line around the work: names, what is printed at the end, exit status."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from gossip import cli
from gossip.commands.background import words_of
from gossip.errors import GossipError
from gossip.inspect import _print_confusion
from gossip.launcher import Launcher

SPEC = '[data]\nrecipe = "glyphs"\n[model]\npreset = "mlp"\n'


def run(*words: str) -> Result:
    return CliRunner().invoke(cli.cli, list(words))


@pytest.mark.parametrize("name", ["[/x]", "", "a" * 33, "a b", "ü", "a\n"])
def test_a_node_has_a_plain_name(name: str) -> None:
    result = run("node", "--name", name)
    assert result.exit_code == 2
    assert "expected 1 to 32 letters, digits, '.', '_' or '-'" in " ".join(result.output.split())


def test_the_json_is_read_by_everybody(capsys: pytest.CaptureFixture[str]) -> None:
    cli._print_json({"loss": math.nan, "gap": [math.inf]}, True)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"loss": None, "gap": [None]}
    cli._print_json({}, False)
    assert not capsys.readouterr().out


def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failed: list[str]) -> Result:
    """`gossip train --json` of a swarm that has already ended."""
    ended = {"failed": failed, "nodes": [{}, {}], "run": "runs/small"}

    def run_it(self: Launcher, alone_steps: int) -> dict[str, Any]:
        return ended

    monkeypatch.setattr(Launcher, "run", run_it)
    (tmp_path / "small.toml").write_text(SPEC)
    return run("train", str(tmp_path / "small.toml"), "--run-dir", str(tmp_path / "run"), "--json")


def test_a_node_that_failed_is_the_commands_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """After everything is told, --json too."""
    result = played(monkeypatch, tmp_path, ["n1"])
    assert isinstance(result.exception, GossipError)
    assert str(result.exception) == "1 of 2 nodes failed: n1; more in runs/small/nodes/"
    assert json.loads(result.stdout.splitlines()[-1])["failed"] == ["n1"]


def test_a_swarm_that_did_well_exits_with_zero(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert played(monkeypatch, tmp_path, []).exit_code == 0


def test_a_node_says_where_its_model_is_and_what_to_do_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli._print_whereabouts(str(tmp_path))
    assert not capsys.readouterr().out, "it never trained"
    (tmp_path / "model.safetensors").touch()
    cli._print_whereabouts(str(tmp_path))
    assert capsys.readouterr().out.splitlines() == [
        f"model    {tmp_path}/model.safetensors",
        "look at it with",
        f"  gossip eval {tmp_path}",
    ]


def test_class_names_of_a_swarm_are_taken_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """They come with the recipe, from whoever began the swarm."""
    _print_confusion(np.array([[3, 0], [1, 0]]), ("[/x]", "b\x1b[2J"))
    text = click.unstyle(capsys.readouterr().out)
    assert "[/x]" in text
    assert "b?[2J" in text
    assert "\x1b" not in text


def test_the_background_gets_every_word_that_was_given() -> None:
    """Shard 0 is a shard, though Python's 0 equals False: without it a detached node drew one from its key."""
    given = ["a.toml", "--shard", "0", "--fresh", "--upload", "1 mbit/s"]
    context = cli.node.make_context("node", [*given, "--detach"])
    assert sorted(words_of(context)) == sorted(given)
