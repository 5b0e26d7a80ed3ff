"""Networks by name: what people compare with."""

from __future__ import annotations


def _residual_20() -> tuple[str, ...]:
    """ResNet-20 for CIFAR-10 (He et al. 2015, arXiv 1512.03385, section 4.2), shortcuts without parameters."""
    texts = ["conv 16 3x3 same nobias", "batchnorm", "relu"]
    for filters in (16, 32, 64):
        for block in range(3):
            stride = " stride 2" if filters > 16 and block == 0 else ""
            texts += ["mark shortcut", f"conv {filters} 3x3 same{stride} nobias", "batchnorm", "relu"]
            texts += [f"conv {filters} 3x3 same nobias", "batchnorm", "add shortcut", "relu"]
    return (*texts, "avgpool all", "dense classes")


PRESETS: dict[str, tuple[str, ...]] = {
    "mlp": ("dense 128", "relu", "dense classes"),
    "mlp2": ("dense 256", "relu", "dense 128", "relu", "dense classes"),
    # LeCun et al., "Gradient-Based Learning Applied to Document Recognition" (1998), with relu and largest values.
    "lenet": (
        *("conv 6 5x5", "relu", "maxpool 2"),
        *("conv 16 5x5", "relu", "maxpool 2"),
        *("dense 120", "relu", "dense 84", "relu", "dense classes"),
    ),
    "cifar": (
        *("conv 32 3x3 same", "relu", "conv 32 3x3 same", "relu", "maxpool 2"),
        *("conv 64 3x3 same", "relu", "conv 64 3x3 same", "relu", "maxpool 2"),
        *("dense 128", "relu", "dense classes"),
    ),
    # The network of Caffe's CIFAR-10 tutorial; its pools overlap (3 by 3, every 2), ours do not.
    "cifar10-quick": (
        *("conv 32 5x5 same", "maxpool 2", "relu"),
        *("conv 32 5x5 same", "relu", "avgpool 2"),
        *("conv 64 5x5 same", "relu", "avgpool 2"),
        *("dense 64", "dense classes"),
    ),
    "resnet20": _residual_20(),
    # The convnet of the HIPS autograd examples, with relu where that has tanh.
    "autograd-convnet": (
        *("conv 6 5x5", "maxpool 2", "conv 16 5x5", "maxpool 2"),
        *("dense 120", "relu", "dense 84", "relu", "dense classes"),
    ),
}
