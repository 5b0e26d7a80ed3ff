"""The table that kernels walk, and their memory: nothing that is needed lies under anything else."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.errors import SpecError
from gossip.kernels import table as kinds
from gossip.kernels.lanes import LANES
from gossip.kernels.tile import ADD, MASKED, PLAIN, ZEROS
from gossip.models.layers import Layer, Shape, preset_layers, resolve_layers, size
from gossip.models.layout import layout_of
from gossip.models.model import build_model
from gossip.models.operations import operations
from gossip.models.placing import Lifetime, place
from gossip.models.plan import memory_bytes, plan

RESIDUAL = ("conv 4 3x3 same", "mark a", "relu", "conv 4 3x3 same", "batchnorm", "add a", "relu", "dense 3")


def direct(channels: int, filters: int) -> int:
    return 0


def table_of(texts: tuple[str, ...], shape: Shape = (6, 6, 2)) -> np.ndarray:
    layers = resolve_layers(texts, shape, 3)
    return plan(layers, layout_of(layers), 32, direct)[0]


# -- Rows --------------------------------------------------------------------------------------------------


def test_a_relu_costs_no_row_where_its_layer_can_do_it() -> None:
    """Nor does a sum behind a normalisation, and the relu behind that: one pass over the tensor instead of three."""
    table = table_of(("conv 4 3x3", "relu", "mark a", "conv 4 3x3 same", "batchnorm", "add a", "relu", "dense 3"))
    assert table["kind"].tolist() == [kinds.CONV, kinds.CONV, kinds.BATCHNORM, kinds.DENSE]
    assert table["has_relu"].tolist() == [1, 0, 1, 0] and table["adds"].tolist() == [0, 0, 1, 0]


def test_what_is_marked_is_not_changed_behind_its_back() -> None:
    """The relu after the mark is a row of its own, or the shortcut would carry max(0, x)."""
    table = table_of(RESIDUAL)
    assert table["kind"].tolist() == [kinds.CONV, kinds.RELU_ALONE, kinds.CONV, kinds.BATCHNORM, kinds.DENSE]
    assert table["other_at"][3] == table["output_at"][0]


@pytest.mark.parametrize(
    ("texts", "count"),
    [
        (("maxpool 2", "relu", "dense 3"), 3),
        (("conv 2 1x1", "relu", "relu", "dense 3"), 3),
        (("mark a", "groupnorm 1", "relu", "add a", "dense 3"), 3),
        (("mark a", "groupnorm 1", "add a", "add a", "dense 3"), 3),
        (("mark a", "conv 2 1x1", "add a", "relu", "dense 3"), 3),
        (("conv 4 1x1", "mark a", "conv 4 3x3 same stride 2", "batchnorm", "add a", "dense 3"), 5),
    ],
)
def test_what_cannot_be_done_at_once_is_a_row(texts: tuple[str, ...], count: int) -> None:
    """A pool cannot store max(0, x), a row does one sum and one relu, a smaller image takes more than an addition."""
    assert len(table_of(texts)) == count


def test_slopes_are_begun_once_and_added_to_after_that() -> None:
    """The shortcut is reached first on the way back: it writes, the relu then adds; what a relu gave is masked."""
    _, relu, conv, norm, dense = table_of(RESIDUAL)
    assert (norm["other_start"], relu["start"]) == (ZEROS, ADD)
    assert (dense["finish"], norm["finish"], conv["finish"], norm["other_finish"]) == (MASKED, PLAIN, PLAIN, PLAIN)


def test_an_image_gets_no_slopes() -> None:
    """Nothing before it learns; a third of a convolution's work is saved at the largest layer."""
    table = table_of(("mark a", "conv 2 3x3 same", "add a", "dense 3"))
    assert table["needs_input_slopes"].tolist() == [0, 1, 1] and not table["needs_other_slopes"].any()


# -- Places ------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 20), st.integers(0, 20)), max_size=30))
def test_nothing_overlaps_what_lives_at_the_same_time(drawn: list[tuple[int, int, int]]) -> None:
    """Two tensors in one place would give wrong gradients, and only for the chains where it happens."""
    lives = [Lifetime(numbers, min(a, b), max(a, b)) for numbers, a, b in drawn]
    end = place(lives, 100)
    for one, two in itertools.combinations(lives, 2):
        if one.birth <= two.death and two.birth <= one.death:
            assert one.at + one.numbers <= two.at or two.at + two.numbers <= one.at
    assert all(100 <= life.at and life.at + life.numbers <= end for life in lives)
    assert end <= 100 + sum(life.numbers for life in lives)


def test_a_chain_needs_room_for_the_slopes_of_two_neighbours() -> None:
    """What makes memory half of keeping them all."""
    lives = [Lifetime(10, birth=time - 1, death=time) for time in range(9)]
    assert place(lives, 0) == 20


@pytest.mark.parametrize("seed", range(60))
def test_in_a_random_chain_no_living_tensor_is_written_over(seed: int) -> None:
    """Walks the table as the kernels do: what a row reads is what the last writer of that place meant for it."""
    from test_step import a_random_chain

    layers, *_ = a_random_chain(np.random.default_rng(seed))
    table, sizes = plan(layers, layout_of(layers), 32, lambda channels, filters: 4)
    steps = operations(layers, layout_of(layers))
    owner = np.full(sizes.values, -1)
    names = {
        tensor: name for name, tensor in enumerate({id(t): t for s in steps for t in (s.source, s.output)}.values())
    }

    def write(tensor, at) -> None:
        assert at + LANES * tensor.features <= sizes.values - LANES * LANES
        owner[at : at + LANES * tensor.features] = names[tensor]

    def holds(tensor, at) -> bool:
        return bool((owner[at : at + LANES * tensor.features] == names[tensor]).all())

    write(steps[0].source, table[0]["input_at"])
    for row, step in zip(table, steps, strict=True):
        assert holds(step.source, row["input_at"])
        assert step.other is None or holds(step.other, row["other_at"])
        assert row["kept_at"] + 2 * row["parts"] * LANES <= row["output_at"] or not row["parts"]
        write(step.output, row["output_at"])
    values = owner.copy()
    write(steps[-1].output, table[-1]["output_slopes_at"])
    for row, step in zip(table[::-1], reversed(steps), strict=True):
        assert not step.learns or holds(step.output, row["output_slopes_at"])
        for prefix, tensor in (("other_", step.other), ("", step.source)):
            if tensor is not None and tensor.needs_slopes:
                at = row[f"{prefix or 'input_'}slopes_at"]
                assert holds(step.output, row["output_slopes_at"])
                assert row[f"{prefix}start"] == ZEROS or holds(tensor, at) or step.other is step.source
                write(tensor, at)
    kept = values >= 0
    assert (owner[kept] == values[kept]).all(), "slopes lie over values"


# -- Memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [32, 128])
@pytest.mark.parametrize("preset", ["mlp", "lenet", "cifar", "resnet20"])
def test_memory_is_what_is_said(preset: str, batch: int) -> None:
    """Within a tenth of what a model and its three vectors take: x, gradient, momentum."""
    shape: Shape = (32, 32, 3) if preset in ("cifar", "resnet20") else (28, 28, 1)
    layers = resolve_layers(preset_layers(preset), shape, 10)
    build_model(layers, [0.5] * shape[2], [0.3] * shape[2], batch=batch)  # what a process needs once
    tracemalloc.start()
    model = build_model(layers, [0.5] * shape[2], [0.3] * shape[2], batch=batch)
    vectors = np.zeros((3, model.dim), np.float32)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sizes = plan(layers, model.layout, batch, lambda channels, filters: 4)[1]
    said = memory_bytes(model.dim, len(vectors), [sizes])
    assert said == pytest.approx(taken, rel=0.1), f"{said / 2**20:.1f} MiB said, {taken / 2**20:.1f} MiB taken"


def test_values_are_what_a_reader_can_add_up() -> None:
    """All tensors and the slopes of two neighbours, 16 samples each: the sum that the documentation gives."""
    layers: tuple[Layer, ...] = resolve_layers(preset_layers("cifar"), (32, 32, 3), 10)
    sizes = plan(layers, layout_of(layers), 32, direct)[1]
    tensors = [size(layers[0].input), *(size(layer.output) for layer in layers if layer.kind != "relu")]
    neighbours = max(a + b for a, b in itertools.pairwise(tensors[1:]))
    assert sizes.values == LANES * (sum(tensors) + neighbours + LANES)


def test_a_batch_that_no_memory_holds_is_refused_before_it_is_taken() -> None:
    """A batchnorm sees all samples at once, so the limit on values per sample does not protect a joiner."""
    layers = resolve_layers(("conv 256 3x3", "batchnorm", "dense 10"), (64, 64, 3), 10)
    with pytest.raises(SpecError, match=r"needs \d+ GiB .* 4096 samples at once, more than 8 GiB; .* or groupnorm"):
        plan(layers, layout_of(layers), 4096, direct)
