"""What gossip export writes is the same network to somebody else's runtime. Without onnxruntime this is skipped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gossip.cli import cli
from gossip.errors import MissingExtraError, SpecError
from gossip.models.layers import Shape, resolve_layers
from gossip.models.layout import layout_of, named_parameters
from gossip.models.portable import PortableModel, pack
from gossip.models.presets import PRESETS

IMAGES = 3
CHAINS: dict[str, tuple[str, ...]] = {
    **PRESETS,
    "strides": ("conv 4 5x5 same stride 3", "relu", "conv 6 3x3 stride 2 nobias", "avgpool 5", "dense classes"),
    "norms": (
        *("conv 8 3x3", "groupnorm 4", "relu", "batchnorm", "maxpool 2"),
        *("dense 12", "groupnorm 3", "batchnorm", "relu", "dense classes"),
    ),
    "sums": (
        *("conv 4 3x3 same", "mark a", "conv 4 3x3 same", "add a", "relu", "mark b"),
        *("conv 10 3x3 same stride 2", "add b", "relu", "mark c", "dense 16", "add c", "dense 16", "mark d"),
        *("relu", "dense 20", "add d", "dense classes"),
    ),
}


def random_model(texts: tuple[str, ...], shape: Shape, classes: int = 10) -> PortableModel:
    """Every parameter drawn; weights small enough to keep signals alive, variances above 0."""
    rng = np.random.default_rng(len(texts))
    layers = resolve_layers(texts, shape, classes)
    layout = layout_of(layers)
    x = rng.standard_normal(list(layout.values())[-1].end, np.float32)
    for name, parameter in named_parameters(x, layout).items():
        if parameter.ndim > 1:
            parameter *= np.sqrt(2 / parameter[0].size)
        elif name.endswith("variance"):
            parameter[:] = 0.5 + np.abs(parameter)
    channels = shape[2]
    names = tuple(f"class {number}" for number in range(classes))
    return PortableModel(layers, names, (0.4, 0.5, 0.3)[:channels], (0.9, 0.5, 1.0)[:channels], x, b"")


def log_probabilities(found: PortableModel, images: np.ndarray) -> np.ndarray:
    """float64[images, classes], from the loss of every label: what our own kernels make of the images."""
    model = found.build()
    labels = range(len(found.classes))
    return np.array(
        [[-model.evaluate(found.x, image[None], np.array([k], np.uint8)).loss for k in labels] for image in images]
    )


@pytest.mark.parametrize("name", CHAINS)
def test_onnxruntime_sees_what_we_see(name: str, tmp_path: Path) -> None:
    """From bytes to logits, within 1e-4, for a batch of any size; oblong images keep rows and columns apart."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the export is not checked")
    pytest.importorskip("onnx", reason="onnx is not installed: nothing can be exported")
    from gossip.exporting import save_onnx

    shapes = {"lenet": (28, 28, 1), "mlp": (9, 28, 1), "autograd-convnet": (28, 28, 1), "cifar": (16, 24, 3)}
    found = random_model(CHAINS[name], shapes.get(name, (32, 32, 3)))
    save_onnx(found, tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).integers(0, 256, (IMAGES, *found.shape), np.uint8)
    (logits,) = session.run(["logits"], {"images": images})
    (alone,) = session.run(["logits"], {"images": images[:1]})
    theirs = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    ours = log_probabilities(found, images)
    assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-4)
    assert alone == pytest.approx(logits[:1], rel=1e-4, abs=1e-4)
    assert np.ptp(ours) > 0.1, "all classes alike: nothing was compared"
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(found.classes)


def test_the_command(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed: nothing can be exported")
    found = random_model(("conv 2 3x3", "relu", "dense classes"), (8, 9, 1), 3)
    model, out = tmp_path / "model.safetensors", tmp_path / "out.onnx"
    model.write_bytes(pack(found.layers, found.classes, found.mean, found.std, found.x))
    ran = CliRunner().invoke(cli, ["export", "--onnx", str(model), str(out), "--json"])
    assert ran.exit_code == 0, ran
    told = json.loads(ran.output.splitlines()[-1])
    assert (told["onnx"], told["bytes"], told["input"]) == (str(out), out.stat().st_size, ["n", 8, 9, 1])
    ran = CliRunner().invoke(cli, ["export", "--onnx", str(model), str(tmp_path / "out.onnx" / "x.onnx")])
    assert isinstance(ran.exception, SpecError) and "cannot be written" in str(ran.exception)


def test_without_onnx_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from gossip.exporting import to_onnx

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gossip-sgd\[onnx\]'"):
        to_onnx(random_model(("dense classes",), (2, 2, 1), 2))


def test_nobody_else_needs_onnx() -> None:
    """The command line, and every way to use a model, load without it."""
    code = "import sys, gossip.cli, gossip.inspect, gossip.exporting; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
