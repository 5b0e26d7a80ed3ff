"""What a run leaves on disk, and what is said when that cannot be read again."""

from __future__ import annotations

import errno
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gossip.data.recipes import find_recipe
from gossip.errors import SpecError
from gossip.models.model import build_model
from gossip.runs import RunFolder, strict_json
from gossip.spec import from_canonical, load, recipe_to_toml

EXPERIMENT = load(Path(__file__).parents[1] / "deploy" / "experiments" / "two-machines.toml")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(EXPERIMENT, tmp_path / "run")


def test_a_second_run_of_an_experiment_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    names = [RunFolder.create(EXPERIMENT, under=tmp_path).path.name for _ in range(3)]
    assert names == ["two-machines", "two-machines-2", "two-machines-3"]


def test_a_run_says_what_it_takes_to_run_it_again(run: RunFolder) -> None:
    notes = run.notes()
    assert {"gossip", "commit", "machine", "versions", "spec"} <= notes.keys()
    assert notes["versions"]["numpy"] == np.__version__
    assert run.experiment().hash == EXPERIMENT.hash
    assert load(run.path / "spec.toml").hash == EXPERIMENT.hash


def test_notes_add_up(run: RunFolder) -> None:
    run.note(result={"steps": 3})
    run.note(nodes=[1, 2])
    assert (run.notes()["result"], run.notes()["nodes"]) == ({"steps": 3}, [1, 2])
    assert not [path.name for path in run.path.iterdir() if path.name.startswith(".")], "a temporary file stayed"


def test_a_model_comes_back_bit_for_bit(run: RunFolder) -> None:
    model = build_model(EXPERIMENT.layers, EXPERIMENT.recipe.mean, EXPERIMENT.recipe.std)
    x = model.init(3)
    run.save_model(model, x, EXPERIMENT)
    assert run.load_model(model).tobytes() == x.tobytes()


def test_a_damaged_or_foreign_model_is_refused(run: RunFolder) -> None:
    """Cut short, not a number, another architecture, not there at all."""
    model = build_model(EXPERIMENT.layers, EXPERIMENT.recipe.mean, EXPERIMENT.recipe.std)
    with pytest.raises(SpecError, match=r"no such file; expected a model\.safetensors"):
        run.load_model(model)
    x = model.init(3)
    x[5] = np.nan
    run.save_model(model, x, EXPERIMENT)
    with pytest.raises(SpecError, match=r"0\.conv\.weight is not finite"):
        run.load_model(model)
    run.model.write_bytes(run.model.read_bytes()[:-10])
    with pytest.raises(SpecError, match="truncated, 10 bytes are missing"):
        run.load_model(model)
    other = load(Path(__file__).parents[1] / "deploy" / "experiments" / "mnist-mlp.toml")
    other_model = build_model(other.layers, other.recipe.mean, other.recipe.std)
    run.save_model(other_model, other_model.init(1), other)
    with pytest.raises(SpecError, match="another architecture"):
        run.load_model(model)


def test_a_run_is_found_by_its_name_and_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RunFolder.create(EXPERIMENT)
    assert RunFolder.open("two-machines").path == RunFolder.open("runs/two-machines").path
    with pytest.raises(SpecError, match="no run there; expected a folder with"):
        RunFolder.open("other")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"spec": 3}', '{"spec": {"layers": []}}', "\xff"])
def test_a_damaged_run_json_is_explained(run: RunFolder, text: str) -> None:
    (run.path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(SpecError):
        run.experiment()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpecError, match="cannot make the run's folder"):
        RunFolder.create(EXPERIMENT, tmp_path / "file" / "run")


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path: Path) -> None:
    """The launcher's own nodes get a folder that is there already, with no run in it."""
    (tmp_path / "nodes" / "n0").mkdir(parents=True)
    RunFolder.create(EXPERIMENT, tmp_path / "nodes" / "n0").note(result=3)
    with pytest.raises(SpecError, match="holds a run already; choose another --run-dir or remove it"):
        RunFolder.create(EXPERIMENT, tmp_path / "nodes" / "n0")
    assert RunFolder.open(tmp_path / "nodes" / "n0").notes()["result"] == 3


def test_two_starts_at_once_get_a_folder_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: RunFolder.create(EXPERIMENT, under=tmp_path), range(8)))
    assert len({run.path for run in runs}) == 8


def test_a_full_disk_is_one_line(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gossip.runs.write_atomically", full)
    model = build_model(EXPERIMENT.layers, EXPERIMENT.recipe.mean, EXPERIMENT.recipe.std)
    for name, save in {
        "model.safetensors": lambda: run.save_model(model, model.init(1), EXPERIMENT),
        "accuracy.svg": lambda: run.save_picture("<svg/>"),
        "run.json": lambda: run.note(a=1),
    }.items():
        with pytest.raises(SpecError, match=f"{name}: cannot be written .No space left on device.; make room"):
            save()


CUSTOM_CLASSES = ("0", "[/x]", '"', "\\", "\x7f", "\x1b", "🐢", "a\nb", "#", "'")


def test_a_run_with_a_recipe_of_ones_own_can_be_run_again(tmp_path: Path) -> None:
    """Whoever wrote the recipe has it in a file; a joiner has it from the swarm alone. Both keep it with the run."""
    recipe = msgspec.structs.replace(find_recipe("glyphs"), name="mine", classes=CUSTOM_CLASSES)
    folder = tmp_path / "🐢 \x7f"
    folder.mkdir()
    (folder / "mine.toml").write_text(recipe_to_toml(recipe), encoding="utf-8")
    (folder / "spec.toml").write_text('[data]\nrecipe = "mine.toml"\n[model]\npreset = "mlp"\n', encoding="utf-8")
    ours = load(folder / "spec.toml")
    assert ours.recipe == recipe
    for experiment in (ours, from_canonical(ours.canonical())):
        run = RunFolder.create(experiment, under=tmp_path / "runs")
        assert load(run.path / "spec.toml").hash == ours.hash
        again = RunFolder.create(load(run.path / "spec.toml"), run.path / "nodes" / "n0")
        assert load(again.path / "spec.toml").hash == ours.hash


def test_a_recipe_with_the_name_of_ours_and_other_contents_is_kept(tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(find_recipe("glyphs"), seed=77)
    experiment = msgspec.structs.replace(EXPERIMENT, recipe=recipe)
    run = RunFolder.create(experiment, tmp_path / "run")
    assert load(run.path / "spec.toml").hash == experiment.hash
    assert not (RunFolder.create(EXPERIMENT, tmp_path / "other").path / "recipe.toml").exists()


@pytest.mark.parametrize("name", ["glyphs", "mnist"])
def test_a_recipe_survives_being_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "copy.toml").write_text(recipe_to_toml(find_recipe(name)), encoding="utf-8")
    assert find_recipe("copy.toml", tmp_path) == find_recipe(name)


def test_what_is_not_finite_becomes_null(run: RunFolder) -> None:
    assert strict_json({"a": [math.nan, 1.5], "b": (math.inf,)}) == '{"a":[null,1.5],"b":[null]}'
    run.note(loss=math.nan)
    assert run.notes()["loss"] is None


def test_run_json_is_plain_json(run: RunFolder) -> None:
    """Others read it too, and NaN is no JSON."""
    json.loads((run.path / "run.json").read_text(), parse_constant=pytest.fail)
