"""The best as an experiment file: the author's own file with other values, or at least the same experiment."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.models.layers import preset_layers, resolve_layers
from gossip.models.layout import layout_of
from gossip.models.portable import pack
from gossip.spec import load, parse
from gossip.sweep.plan import Base
from gossip.sweep.promote import edited, promoted

TEXT = """\
# Mine.
seed = 3            # lucky

[data]
recipe = "glyphs"   # drawn

[ model ]
layers = [          # as in the paper
    "dense 64",     # was 32
    "relu",
    "dense 10",
]

[train]             # tuned by hand
batch = 32   # "as # usual"
  learning_rate=0.1

# about exchanges
[exchange]
blocks = 0.25
"""


def written(tmp_path: Path, text: str, point: dict[str, Any]) -> tuple[str, bool]:
    return promoted(Base(text, tmp_path / "mine.toml", {"data.sample": "10%"}), point, tmp_path / "best.toml")


def test_values_change_and_comments_stay(tmp_path: Path) -> None:
    point = {"train.batch": 64, "train.learning_rate": 0.03, "train.momentum": 0.5}
    text, has_comments = written(tmp_path, TEXT, point)
    assert has_comments
    gone, new = (set(a.splitlines()) - set(b.splitlines()) for a, b in ((TEXT, text), (text, TEXT)))
    assert gone == {'batch = 32   # "as # usual"', "  learning_rate=0.1"}
    assert new == {'batch = 64   # "as # usual"', "  learning_rate=0.03", "momentum = 0.5"}
    experiment = parse(text, tmp_path / "best.toml")
    assert (experiment.train.batch, experiment.train.momentum, experiment.seed) == (64, 0.5, 3)
    assert experiment.data.sample == ""  # the sweep's, not the experiment's


def test_layers_make_way_for_a_preset_and_lists_for_lists(tmp_path: Path) -> None:
    text, has_comments = written(tmp_path, TEXT, {"model.preset": "lenet"})
    assert has_comments and "dense 64" not in text and parse(text, tmp_path / "x.toml").model.preset == "lenet"
    text, has_comments = written(tmp_path, TEXT, {"model.layers": ["dense 7", "relu", "dense 10"]})
    assert has_comments and parse(text, tmp_path / "x.toml").model.layers[0] == "dense 7"


def test_a_section_that_is_missing_is_added(tmp_path: Path) -> None:
    text, has_comments = written(tmp_path, '[model]\npreset = "mlp"  # small', {"train.batch": 8, "data.sample": "5%"})
    assert has_comments and "# small" in text
    experiment = parse(text, tmp_path / "x.toml")
    assert (experiment.train.batch, experiment.data.sample) == (8, "5%")


@pytest.mark.parametrize(
    "text",
    [
        'model.preset = "mlp"\ntrain.batch = 32\n',
        'model = { preset = "mlp" }\ntrain = { batch = 32 }\n',
        '[model]\npreset = "mlp"\n["train"]\n"batch" = 32\n',
    ],
)
def test_an_unusual_layout_loses_its_comments_but_not_its_meaning(tmp_path: Path, text: str) -> None:
    written_text, has_comments = written(tmp_path, text, {"train.batch": 8})
    assert not has_comments and parse(written_text, tmp_path / "x.toml").train.batch == 8


def test_a_recipe_beside_the_file_is_found_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    recipe = (Path(__file__).parents[2] / "datasets" / "glyphs.toml").read_text()
    (tmp_path / "here" / "own.toml").write_text(recipe)
    base = Base('[data]\nrecipe = "own.toml"  # ours\n[model]\npreset = "mlp"\n', tmp_path / "here" / "mine.toml")
    out = tmp_path / "there" / "best.toml"
    text, has_comments = promoted(base, {"train.batch": 8}, out)
    out.write_text(text)
    assert has_comments and "# ours" in text and load(out).recipe.name == "glyphs"


def test_a_model_to_begin_with_is_found_from_elsewhere(tmp_path: Path) -> None:
    """Whether the file names it or the sweep chose it."""
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    layers = resolve_layers(preset_layers("mlp"), (28, 28, 1), 10)
    numbers = np.zeros(list(layout_of(layers).values())[-1].end, np.float32)
    for seed, name in enumerate(("a", "b")):
        content = pack(layers, [f"class {n}" for n in range(10)], (0.2,), (1.0,), numbers + seed)
        (tmp_path / "here" / f"{name}.safetensors").write_bytes(content)
    base = Base('[model]\npreset = "mlp"\ninit = "a.safetensors"  # ours\n', tmp_path / "here" / "mine.toml")
    out = tmp_path / "there" / "best.toml"
    for point, name in (({"train.batch": 8}, "a"), ({"model.init": "b.safetensors"}, "b")):
        text, has_comments = promoted(base, point, out)
        assert has_comments and f'init = "../here/{name}.safetensors"  # ours' in text
        assert parse(text, out).model.init == str(tmp_path / "here" / f"{name}.safetensors")


values = st.integers(-9, 9) | st.text(max_size=9) | st.lists(st.text(max_size=5), max_size=3) | st.booleans()


@given(st.dictionaries(st.sampled_from(["a", "b.x", "b.y", "c.z"]), values), values, st.text("# \t'\"", max_size=6))
def test_what_is_edited_reads_as_it_was_meant(changes: dict[str, Any], old: Any, comment: str) -> None:
    """Whatever the values, and whatever a comment looks like."""
    text = f"a = {json.dumps(old, ensure_ascii=False)} #{comment}\n# [b]\n[b]\nx = 1 #{comment}\n[c] #{comment}\n"
    if any(ord(sign) < 32 or ord(sign) == 127 or 0xD800 <= ord(sign) <= 0xDFFF for sign in str(old)):
        return
    try:
        expected = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        (expected[section] if section else expected)[name] = value
    assert tomllib.loads(edited(text, changes)) == expected
