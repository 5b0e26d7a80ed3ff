"""[model] init and freeze in an experiment: what is shared, what is refused, and what a network is made of then."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gossip import beginning
from gossip.data.recipes import find_recipe
from gossip.errors import SpecError
from gossip.models.layers import resolve_layers
from gossip.models.layout import layout_of, named_parameters
from gossip.models.portable import pack
from gossip.runs import RunFolder
from gossip.spec import Experiment, from_canonical, load
from gossip.training.building import model_of

RECIPE = find_recipe("glyphs")
CHAIN = ("conv 4 5x5 stride 2", "relu", "dense 16", "relu", "dense classes")


def write_model(path: Path, classes: int = 10, seed: int = 1) -> np.ndarray:
    layers = resolve_layers(CHAIN, RECIPE.shape, classes)
    x = np.random.default_rng(seed).standard_normal(list(layout_of(layers).values())[-1].end, np.float32)
    path.write_bytes(pack(layers, [f"class {n}" for n in range(classes)], (0.25,), (0.5,), x))
    return x


def write_spec(folder: Path, extra: str = 'init = "trained.safetensors"', chain: tuple[str, ...] = CHAIN) -> Path:
    path = folder / "again.toml"
    path.write_text(f'[data]\nrecipe = "glyphs"\n[model]\nlayers = {json.dumps(chain)}\n{extra}\n')
    return path


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    write_model(tmp_path / "trained.safetensors")
    return load(write_spec(tmp_path))


def test_a_network_begins_with_the_file(tmp_path: Path, experiment: Experiment) -> None:
    x = write_model(tmp_path / "trained.safetensors")
    assert model_of(experiment).init(5).tobytes() == x.tobytes()
    told = beginning.story(experiment.model, experiment.recipe, model_of(experiment))
    assert told["fresh"] == [] and told["frozen"] == 0 and told["other"] == ["normalisation", "classes"]


def test_other_classes_begin_afresh_and_it_is_said(tmp_path: Path) -> None:
    x = write_model(tmp_path / "trained.safetensors", classes=7)
    experiment = load(write_spec(tmp_path, 'init = "trained.safetensors"\nfreeze = ["conv", "2.*"]'))
    model = model_of(experiment)
    told = beginning.story(experiment.model, experiment.recipe, model)
    assert told["fresh"] == ["4.dense.weight", "4.dense.bias"]
    kept = model.layout["4.dense.weight"].start
    assert told["frozen"] == kept and np.array_equal(model.init(1)[:kept], x[:kept])
    assert model.segments["start"].tolist() == [kept]


def test_the_digest_is_shared_and_the_path_is_not(tmp_path: Path, experiment: Experiment) -> None:
    """The same file in another folder is the same swarm; another file is not."""
    assert len(experiment.model.init_sha256) == 64 and str(tmp_path).encode() not in experiment.canonical()
    (tmp_path / "other").mkdir()
    write_model(tmp_path / "other" / "trained.safetensors")
    assert load(write_spec(tmp_path / "other")).hash == experiment.hash
    write_model(tmp_path / "other" / "trained.safetensors", seed=2)
    assert load(tmp_path / "other" / "again.toml").hash != experiment.hash
    assert load(write_spec(tmp_path, "")).hash != experiment.hash


def test_a_joiner_without_the_file_knows_that_it_lacks_it(experiment: Experiment) -> None:
    """It begins as the seed draws, which nobody will see: its state comes from donors."""
    joined = from_canonical(experiment.canonical())
    assert joined.hash == experiment.hash and joined.model.init == ""
    model = model_of(joined)
    assert not model.knows_start and model_of(experiment).knows_start
    assert "the file is not here" in beginning.story(joined.model, joined.recipe, model)["why"]


def test_no_peer_names_files_of_ours(experiment: Experiment) -> None:
    table = json.loads(experiment.canonical())
    table["model"]["init"] = "/etc/passwd"
    with pytest.raises(SpecError, match=r"model\.init = '/etc/passwd': a path of another machine"):
        from_canonical(json.dumps(table).encode())


def test_a_run_keeps_a_copy(tmp_path: Path, experiment: Experiment) -> None:
    """Whoever goes on with it needs no other file, and notices one that is not the same."""
    run = RunFolder.create(experiment, tmp_path / "run")
    (tmp_path / "trained.safetensors").unlink()
    again = load(run.path / "spec.toml")
    assert again.hash == experiment.hash == run.experiment().hash
    assert again.model.init == str(run.path / "init.safetensors")
    run.write_spec(again)
    assert model_of(again).knows_start
    write_model(run.path / "init.safetensors", seed=2)
    with pytest.raises(SpecError, match="is not the file it was"):
        load(run.path / "spec.toml")
    with pytest.raises(SpecError, match="has changed since"):
        model_of(again)


def test_the_run_of_one_who_lacks_it_can_be_gone_on_with(tmp_path: Path, experiment: Experiment) -> None:
    joined = from_canonical(experiment.canonical())
    run = RunFolder.create(joined, tmp_path / "run")
    assert load(run.path / "spec.toml").hash == experiment.hash
    assert not (run.path / "init.safetensors").exists()


@pytest.mark.parametrize(
    ("extra", "chain", "expected"),
    [
        ('init = "none.safetensors"', CHAIN, r"model\.init = '.*none\.safetensors': cannot be read \(No such file"),
        ('init = "again.toml"', CHAIN, r"again\.toml: not a safetensors file"),
        ('init = "trained.safetensors"', ("dense classes",), "has other layers: 5 of them, expected 1"),
        ('init = "trained.safetensors"', (CHAIN[0], "relu", "dense 17", *CHAIN[3:]), 'layer 3 is "dense 16", expected'),
        ('init = "trained.safetensors"\ninit_sha256 = "' + "0" * 64 + '"', CHAIN, "is not the file it was"),
        ('init_sha256 = "abc"', CHAIN, r"model\.init_sha256 = 'abc': expected 64 hex digits"),
        ('freeze = ["cnov*"]', CHAIN, r"model\.freeze = \['cnov\*'\]: 'cnov\*' is none of the parameters; there are"),
        ('freeze = ["*"]', CHAIN, r"model\.freeze = .*leaves nothing to learn"),
        ("freeze = [1]", CHAIN, r"model\.freeze = \[1\]: expected a list of patterns"),
        ('freeze = "conv"', CHAIN, r"model\.freeze = 'conv': expected a list of patterns"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_and_key(tmp_path: Path, extra: str, chain: tuple[str, ...], expected: str) -> None:
    write_model(tmp_path / "trained.safetensors")
    with pytest.raises(SpecError, match=expected) as caught:
        load(write_spec(tmp_path, extra, chain))
    assert str(caught.value).startswith(f"{tmp_path / 'again.toml'}: ")


def test_nobody_can_begin_a_swarm_without_the_file(tmp_path: Path, experiment: Experiment) -> None:
    from gossip.live.entering import enter

    lacking = msgspec.structs.replace(experiment, model=msgspec.structs.replace(experiment.model, init=""))
    with pytest.raises(SpecError, match=r"a model file that is not here: put its path into model\.init"):
        enter(None, lacking, None)  # type: ignore[arg-type]


def test_frozen_by_name_in_the_file_is_frozen_in_the_vector(tmp_path: Path) -> None:
    experiment = load(write_spec(tmp_path, 'freeze = ["conv"]'))
    model = model_of(experiment)
    frozen = named_parameters(np.arange(model.dim, dtype=np.float32), model.layout)
    assert model.segments["start"].tolist() == [frozen["2.dense.weight"].flat[0]]
