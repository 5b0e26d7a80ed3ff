"""What a run leaves on disk, and what is said when that cannot be read again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gossip.errors import SpecError
from gossip.models.model import build_model
from gossip.runs import RunFolder
from gossip.spec import load

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
    with pytest.raises(SpecError, match="cannot read the model"):
        run.load_model(model)
    x = model.init(3)
    x[5] = np.nan
    run.save_model(model, x, EXPERIMENT)
    with pytest.raises(SpecError, match="not finite float32; the file is damaged"):
        run.load_model(model)
    run.model.write_bytes(run.model.read_bytes()[:-10])
    with pytest.raises(SpecError, match="cannot read the model"):
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


def test_run_json_is_plain_json(run: RunFolder) -> None:
    """Others read it too, and NaN is no JSON."""
    json.loads((run.path / "run.json").read_text(), parse_constant=pytest.fail)
