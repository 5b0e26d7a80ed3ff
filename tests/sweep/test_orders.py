"""What is asked for is checked whole, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gossip.errors import SpecError
from gossip.sweep.orders import Orders, read_orders

SPEC = 'seed = 4\n[data]\nrecipe = "glyphs"\n[model]\npreset = "mlp"\n'
SWEEP = """\
spec = "../small.toml"
sample = "10%"
seeds = 2
[grid]
train.learning_rate = [0.1, 0.2]
train.batch = [32]
"""


def read(tmp_path: Path, *words: str, sweep: str = "", **options: Any) -> Orders:
    (tmp_path / "small.toml").write_text(SPEC)
    (tmp_path / "sweeps").mkdir(exist_ok=True)
    (tmp_path / "sweeps" / "s.toml").write_text(sweep)
    return read_orders(tmp_path / ("sweeps/s.toml" if sweep else "small.toml"), words, options)


def test_a_sweep_file_and_options_that_win(tmp_path: Path) -> None:
    orders = read(tmp_path, sweep=SWEEP)
    assert len(orders.points) == 2 and orders.seeds == 2 and orders.seed == 4
    assert orders.base.shared().data.sample == "10%"
    wider = read(tmp_path, "train.batch=16,64", sweep=SWEEP, seeds=1, sample=500, stop_early=True)
    assert len(wider.points) == 4 and (wider.seeds, wider.stop_early) == (1, True)
    assert wider.base.shared().data.sample == 500


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        ((), {}, "nothing to sweep over"),
        (("train.batch=32,x",), {}, "train.batch = 'x': expected a whole number"),
        (("train.learning_rate=0.1,200",), {}, "train.learning_rate = 200: expected a number above 0"),
        (("model.preset=mlp,lenett",), {}, "lenet"),
        (("data.sample=10%,11000",), {}, "less validation: expected at most 10,800"),
        (("train.batch=16..1000000",), {"random": 20}, "expected a whole number from 1 to 65536"),
        (("train.batch=32",), {"sample": "0%"}, "data.sample = '0%'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_the_files_own_error(
    tmp_path: Path, words: tuple[str, ...], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError) as error:
        read(tmp_path, *words, **options)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds = 2", "seed = 2", "did you mean seeds?"),
        ("seeds = 2", "seeds = 0", "expected a whole number from 1 to 100"),
        ('spec = "../small.toml"', "", "spec: missing"),
        ("../small.toml", "none.toml", "cannot read the experiment file"),
        ("[0.1, 0.2]", "0.1", "expected a list, or a range"),
        ("[0.1, 0.2]", "[]", "expected a list, or a range"),
        ("train.batch", "train.bach", "did you mean train.batch?"),
        ("[grid]", "grid = 3\n[x]", "grid = 3: expected a table"),
        ("[grid]", "[grid", "not valid TOML"),
    ],
)
def test_a_mistake_in_a_sweep_file_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(SpecError) as error:
        read(tmp_path, sweep=SWEEP.replace(old, new))
    assert said in str(error.value)


def test_the_grid_may_give_what_the_file_needs_to_be_whole(tmp_path: Path) -> None:
    """AdamW has no default rate: that is what somebody sweeps for."""
    (tmp_path / "adam.toml").write_text(SPEC + '[train]\noptimizer = "adamw"\n')
    orders = read_orders(tmp_path / "adam.toml", ("train.learning_rate=0.001,0.01",), {})
    assert [orders.base.experiment(point).train.learning_rate for point in orders.points] == [0.001, 0.01]
    other = read_orders(tmp_path / "adam.toml", ("train.learning_rate=0.1",), {})
    assert other.base.identity() == orders.base.identity()
