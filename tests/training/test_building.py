"""What the spec says of the network's numbers must reach it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gossip.errors import InvariantError
from gossip.protocol.batching import BATCH_MAX
from gossip.spec import load
from gossip.training.building import model_of


@pytest.mark.parametrize(("batch", "room"), [("48", 48), ('"auto"', BATCH_MAX)])
def test_smoothing_and_the_largest_step_reach_the_model(tmp_path: Path, batch: str, room: int) -> None:
    """A batch normalisation sees a whole step at once, so there must be room for it, and no more is wasted."""
    path = tmp_path / "small.toml"
    layers = '["conv 4 3x3 stride 2", "batchnorm", "relu", "avgpool all", "dense classes"]'
    path.write_text(
        f'[data]\nrecipe = "glyphs"\n[model]\nlayers = {layers}\n[train]\nbatch = {batch}\nlabel_smoothing = 0.2\n'
    )
    model = model_of(load(path))
    assert (model.smoothing, model.batch) == (0.2, room)
    images, labels = np.zeros((room + 1, 28, 28, 1), np.uint8), np.zeros(room + 1, np.uint8)
    x = model.init(1)
    assert np.isfinite(model.loss_and_grad(x, images[1:], labels[1:], np.zeros_like(x)))
    with pytest.raises(InvariantError, match=f"a batch of {room + 1} for a model built for {room}"):
        model.loss_and_grad(x, images, labels, np.zeros_like(x))
    assert len(model.evaluate(x, images, labels).predictions) == room + 1
