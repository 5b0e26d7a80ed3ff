"""F(2x2, 3x3) and F(4x4, 3x3) against float64, for images that no patch divides.

How far off each is: python -c "from gossip.models import accuracy, model; from gossip.kernels.compiling import link;
link(); print([(c, m, accuracy.error(m, c, c)) for c in (16, 64, 128) for m in (2, 4)])"
"""

from __future__ import annotations

import numpy as np
import pytest
from test_step import assert_agrees_with_twin, some_samples

from gossip.models.layers import resolve_layers
from gossip.models.model import build_model

TOLERANCE = {2: 1e-5, 4: 1e-4}


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("padding", ["", " same"], ids=["valid", "same"])
@pytest.mark.parametrize("size", [(3, 3), (4, 5), (6, 6), (7, 10), (11, 3), (9, 13)])
def test_any_size_of_image(size: tuple[int, int], padding: str, m: int) -> None:
    """Patches that stick out at the right and below, images smaller than a patch; 16 to 64 channels and filters."""
    channels, filters = (16, 48) if sum(size) % 2 else (64, 16)
    texts = (f"conv {channels} 1x1", f"conv {filters} 3x3{padding} nobias", "dense 5")
    layers = resolve_layers(texts, (*size, 2), 5)
    model = build_model(layers, [0.5] * 2, [0.3] * 2, winograd=m)
    assert model._table["winograd"].tolist() == [0, m, 0]
    images, labels = some_samples(sum(size), (*size, 2), 5, 37)
    assert_agrees_with_twin(model, images, labels, (images / 255 - 0.5) / 0.3, f"{texts} on {size}", TOLERANCE[m])


def test_the_larger_m_costs_digits_as_the_module_says() -> None:
    """Otherwise nothing was transformed: m = 4 is further off than m = 2, and both further than direct convolution."""
    layers = resolve_layers(("conv 64 1x1", "conv 64 3x3", "dense 5"), (12, 12, 2), 5)
    images, labels = some_samples(1, (12, 12, 2), 5, 32)
    gradients = {}
    for m in (0, 2, 4):
        model = build_model(layers, [0.5] * 2, [0.3] * 2, winograd=m)
        gradients[m] = np.zeros(model.dim, np.float32)
        model.loss_and_grad(model.init(1), images, labels, gradients[m])
    off = {m: np.linalg.norm(gradients[m] - gradients[0]) / np.linalg.norm(gradients[0]) for m in (2, 4)}
    assert 0 < off[2] < off[4] < 1e-5
