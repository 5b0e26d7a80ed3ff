"""gossip eval and gossip predict: a run's model, or a bare file that came from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gossip.cli import cli
from gossip.data.recipes import find_recipe
from gossip.models.layers import resolve_layers
from gossip.models.model import build_model
from gossip.models.portable import pack
from gossip.runs import RunFolder
from gossip.spec import load

RECIPE = find_recipe("glyphs")
DIGIT = Path(__file__).parents[1] / "docs" / "digit.png"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Of a model that nobody trained."""
    (tmp_path / "small.toml").write_text('[data]\nrecipe = "glyphs"\n[model]\nlayers = ["dense 10"]\n')
    experiment = load(tmp_path / "small.toml")
    run = RunFolder.create(experiment, tmp_path / "run")
    model = build_model(experiment.layers, RECIPE.mean, RECIPE.std)
    run.save_model(model, model.init(4), experiment)
    return run


def gossip(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def result(*words: str | Path) -> dict[str, Any]:
    ran = gossip(*words, "--json")
    assert ran.exit_code == 0, ran
    return json.loads(ran.output.splitlines()[-1])


def test_a_bare_file_is_as_good_as_its_run(run: RunFolder, tmp_path: Path) -> None:
    """It may be all that reached this machine."""
    bare = run.model.rename(tmp_path / "elsewhere.safetensors")
    run.model.write_bytes(bare.read_bytes())
    judged, seen = result("eval", bare), result("predict", bare, DIGIT)
    assert judged["samples"] == RECIPE.test_samples and seen["run"] == str(bare)
    assert judged | {"run": ""} == result("eval", run.path) | {"run": ""}
    assert seen | {"run": ""} == result("predict", run.path, DIGIT) | {"run": ""}
    assert sum(seen["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_a_file_that_does_not_say_what_it_learnt_from_is_judged_by_a_recipe(tmp_path: Path) -> None:
    layers = resolve_layers(("dense classes",), RECIPE.shape, 10)
    x = build_model(layers, RECIPE.mean, RECIPE.std).init(1)
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes(pack(layers, RECIPE.classes, RECIPE.mean, RECIPE.std, x))
    assert "choose a data set with --recipe" in str(gossip("eval", bare).exception)
    assert 0 <= result("eval", bare, "--recipe", "glyphs")["accuracy"] < 0.5
    assert set(result("predict", bare, DIGIT)["probabilities"]) == set(RECIPE.classes)


def test_a_recipe_of_other_images_is_refused(tmp_path: Path) -> None:
    layers = resolve_layers(("dense classes",), (8, 8, 1), 2)
    x = build_model(layers, (0.5,), (1,)).init(1)
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes(pack(layers, ("a", "b"), (0.5,), (1,), x))
    why = str(gossip("eval", bare, "--recipe", "glyphs").exception)
    assert "the model is for images of 8x8x1 in 2 classes, recipe glyphs has images of 28x28x1 in 10 classes" in why
