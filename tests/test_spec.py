"""The experiment file: what it means, what is shared, and how a mistake is explained."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.errors import SpecError
from gossip.spec import CANONICAL_BYTES_MAX, Experiment, from_canonical, load, without_owner

CHECKOUT = Path(__file__).parents[1]
SMALL = '[data]\nrecipe = "glyphs"\n[model]\npreset = "mlp"\n'


def written(tmp_path: Path, text: str, name: str = "small.toml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def with_node(experiment: Experiment, **settings: str) -> Experiment:
    """The same experiment on a machine with other settings of its own."""
    return msgspec.structs.replace(experiment, node=msgspec.structs.replace(experiment.node, **settings))


@pytest.mark.parametrize("path", sorted((CHECKOUT / "deploy" / "experiments").glob("*.toml")), ids=lambda p: p.stem)
def test_every_experiment_we_ship_loads_and_travels(path: Path) -> None:
    """What a joiner is sent is the same experiment, by the only measure that counts: its hash."""
    experiment = load(path)
    assert experiment.name == path.stem
    assert from_canonical(experiment.canonical()).hash == experiment.hash


def test_what_is_left_out_has_a_default_and_the_file_names_the_experiment(tmp_path: Path) -> None:
    experiment = load(written(tmp_path, '[model]\npreset = "mlp"\n', "night-run.toml"))
    assert experiment.name == "night-run"
    assert experiment.seed == 1
    assert experiment.recipe.name == "glyphs"
    assert [layer.text for layer in experiment.layers][-1] == "dense 10"


def test_an_owner_makes_it_another_experiment_and_is_all_that_does(tmp_path: Path) -> None:
    """Commands for one owner's swarm are not for another's; the file everybody has is still recognised."""
    experiment = load(written(tmp_path, SMALL))
    owned = experiment.owned_by("0f" * 32)
    assert owned.hash != experiment.hash
    assert without_owner(owned.canonical()) == experiment.canonical() == without_owner(experiment.canonical())
    assert from_canonical(owned.canonical()).owner == owned.owner
    assert load(written(tmp_path, owned.to_toml())) == owned
    for wrong in ("0f", "0F" * 32, "x" * 64, "0f" * 32 + "\n"):
        with pytest.raises(SpecError, match="64 hex digits"):
            load(written(tmp_path, f"owner = {json.dumps(wrong)}\n" + SMALL))


def test_a_written_out_experiment_is_the_same_experiment(tmp_path: Path) -> None:
    """A run keeps its spec as a file with every default spelled out."""
    text = SMALL + '[train]\nsamples = 5\nwarmup = 0.5\n[node]\nadvertise = "a.example:1"\n'
    experiment = load(written(tmp_path, text))
    again = load(written(tmp_path, experiment.to_toml(), "again.toml"))
    assert again == experiment


def test_any_folder_can_be_written_down(tmp_path: Path) -> None:
    """TOML knows no surrogate pairs and no bare DEL; JSON writes both."""
    experiment = with_node(load(written(tmp_path, SMALL)), data_dir='/🐢/\x7f\x1b\t"\\\n#')
    assert load(written(tmp_path, experiment.to_toml(), "small.toml")) == experiment


def test_what_a_node_decides_for_itself_is_not_shared(tmp_path: Path) -> None:
    """Another address or data folder is the same swarm; another learning rate is not."""
    experiment = load(written(tmp_path, SMALL))
    private = with_node(experiment, listen="tcp://127.0.0.1:1", data_dir="/secret/place")
    assert private.node.data_dir == "/secret/place"
    assert private.hash == experiment.hash
    assert b"secret" not in private.canonical()
    assert load(written(tmp_path, SMALL + "[train]\nlearning_rate = 0.2\n")).hash != experiment.hash


def test_a_preset_and_its_layers_written_out_differ_only_in_words(tmp_path: Path) -> None:
    preset = load(written(tmp_path, SMALL))
    layers = json.dumps([layer.text for layer in preset.layers])
    written_out = load(written(tmp_path, SMALL.replace('preset = "mlp"', f"layers = {layers}")))
    assert written_out.layers == preset.layers


def test_a_recipe_beside_the_experiment_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.toml").write_text((CHECKOUT / "datasets" / "glyphs.toml").read_text())
    path = written(tmp_path, SMALL.replace('"glyphs"', '"own.toml"'))
    monkeypatch.chdir("/")
    assert load(path).recipe.shape == (28, 28, 1)


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "a\\n", "x" * 65, "a\\u0000"])
def test_a_name_that_would_not_make_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    """Among them one that ends in a line break, which `$` lets through."""
    with pytest.raises(SpecError, match=r"name = .*: expected up to 64 letters"):
        load(written(tmp_path, f'name = "{name}"\n{SMALL}'))


@pytest.mark.parametrize("line", ["preset", ""])
def test_a_model_is_a_preset_or_layers_not_both_and_not_neither(tmp_path: Path, line: str) -> None:
    text = '[model]\npreset = "mlp"\nlayers = ["dense 10"]\n' if line else "[model]\n"
    with pytest.raises(SpecError, match="either preset or layers"):
        load(written(tmp_path, text))


def test_a_table_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"model = 3: expected a table \[model\]"):
        load(written(tmp_path, "model = 3\n"))


def test_more_than_a_joiner_can_be_sent_is_refused_before_anybody_joins(tmp_path: Path) -> None:
    layers = ["dense 10", "relu"] * 100 + ["dense 10"]
    assert len(load(written(tmp_path, f"[model]\nlayers = {json.dumps(layers)}\n")).canonical()) < CANONICAL_BYTES_MAX
    wide = [layer.replace(" ", " " * 200) for layer in layers]
    with pytest.raises(SpecError, match="exceed 16384 bytes; shorten them"):
        load(written(tmp_path, f"[model]\nlayers = {json.dumps(wide)}\n"))
    with pytest.raises(SpecError, match="bytes, expected at most"):
        from_canonical(b"{" + b" " * CANONICAL_BYTES_MAX + b"}")


@given(st.binary(max_size=300) | st.recursive(
    st.none() | st.integers() | st.text(max_size=9),
    lambda values: st.lists(values, max_size=3)
    | st.dictionaries(st.sampled_from(["layers", "recipe", "name", "data", "model", "train"]), values, max_size=4),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_no_bytes_of_a_peer_break_the_reader(text: bytes) -> None:
    """A swarm's spec comes from a stranger until we are in: SpecError, and nothing else."""
    with pytest.raises(SpecError):
        from_canonical(text)


@given(st.data())
def test_no_damage_to_a_real_spec_breaks_the_reader(data: st.DataObject) -> None:
    table = json.loads(EXPERIMENT.canonical())
    section = data.draw(st.sampled_from([table, *(table[name] for name in ("data", "model", "train", "recipe"))]))
    section[data.draw(st.sampled_from(sorted(section)))] = data.draw(
        st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
    )
    with contextlib.suppress(SpecError):
        assert isinstance(from_canonical(json.dumps(table).encode()), Experiment)


EXPERIMENT = load(CHECKOUT / "deploy" / "experiments" / "two-machines.toml")


def test_momentum_that_does_not_exist_cannot_be_averaged(tmp_path: Path) -> None:
    text = SMALL + '[train]\nmomentum = 0\n[exchange]\nmomentum = "{}"\n'
    with pytest.raises(SpecError, match=r"exchange\.momentum = 'on': train\.momentum = 0 leaves nothing to average"):
        load(written(tmp_path, text.format("on")))
    assert load(written(tmp_path, text.format("auto"))).exchange.momentum == "auto"


def test_what_an_optimizer_cannot_do_is_refused(tmp_path: Path) -> None:
    adamw = SMALL + '[train]\noptimizer = "adamw"\n'
    with pytest.raises(SpecError, match=r"expected a learning_rate beside it, such as 0\.001"):
        load(written(tmp_path, adamw))
    adamw += "learning_rate = 0.001\n"
    with pytest.raises(SpecError, match=r"exchange\.momentum = 'on': adamw keeps moments that must not be averaged"):
        load(written(tmp_path, adamw + '[exchange]\nmomentum = "on"\n'))
    assert load(written(tmp_path, adamw)).train.shared_momentum == 0.0
    with pytest.raises(SpecError, match=r"train\.momentum = 0\.0: expected a number above 0 with nesterov"):
        load(written(tmp_path, SMALL + '[train]\noptimizer = "nesterov"\nmomentum = 0\n'))
    with pytest.raises(SpecError, match=r"train\.optimizer = 'adam': expected .sgd., .nesterov. or .adamw."):
        load(written(tmp_path, SMALL + '[train]\noptimizer = "adam"\n'))


@pytest.mark.parametrize(
    ("augment", "complaint"),
    [
        ('["flop"]', r"train\.augment = \['flop'\]: .flop. is unknown; did you mean .flip."),
        ('["crop 20"]', r"train\.augment = \['crop 20'\]: .crop 20. would move images of 28x28 by more than half"),
        ('"flip"', r"train\.augment = 'flip': expected a list of"),
    ],
)
def test_augmentation_that_makes_no_sense(tmp_path: Path, augment: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        load(written(tmp_path, SMALL + f"[train]\naugment = {augment}\n"))


def test_whether_momentum_is_averaged_is_the_swarms_business(tmp_path: Path) -> None:
    text = SMALL + '[exchange]\nmomentum = "{}"\n'
    assert load(written(tmp_path, text.format("on"))).hash != load(written(tmp_path, text.format("off"))).hash


# -- Part of the data, and changes from outside ----------------------------------------------------------


def test_a_sample_is_dealt_out_and_shared(tmp_path: Path) -> None:
    """Two nodes that sample differently would train on each other's data, so it is another experiment."""
    whole = load(written(tmp_path, SMALL))
    part = load(written(tmp_path, SMALL), {"data.sample": "10%"})
    assert part.hash != whole.hash
    assert from_canonical(part.canonical()) == part
    labels = (np.arange(whole.recipe.train_samples) % 10).astype(np.uint8)
    shards = [part.indices_of(shard, labels) for shard in range(part.data.shards)]
    assert sorted(np.concatenate(shards)) == part.sample.take(labels, 10, part.seed).tolist()
    assert sum(map(len, shards)) == 1200


@pytest.mark.parametrize("sample", ['"0%"', '"130%"', "9", "12_001", "true", '"some"'])
def test_an_impossible_sample_is_refused_before_anything_starts(tmp_path: Path, sample: str) -> None:
    text = SMALL.replace("[model]", f"sample = {sample}\n[model]")
    with pytest.raises(SpecError, match=r"small.toml: data.sample = .*: .*expected"):
        load(written(tmp_path, text))


def test_a_sample_smaller_than_the_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="50 samples leave some of 100 shards empty; expected fewer shards"):
        load(written(tmp_path, SMALL), {"data.sample": 50, "data.shards": 100})


def test_changes_win_over_the_file_and_are_checked_like_it(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL + "[train]\nbatch = 16\n")
    changed = load(path, {"train.batch": 64, "seed": 9, "exchange.blocks": "auto", "model.layers": ["dense 10"]})
    assert (changed.train.batch, changed.seed, changed.exchange.blocks) == (64, 9, "auto")
    assert changed.model.preset == ""
    with pytest.raises(SpecError, match=r"did you mean train\.batch"):
        load(path, {"train.bach": 64})
    with pytest.raises(SpecError, match=r"train\.batch = 'x': expected"):
        load(path, {"train.batch": "x"})
