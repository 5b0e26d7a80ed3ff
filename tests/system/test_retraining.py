"""A trained model's last layer is retrained by a swarm, one member of which has nothing but a ticket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from processes import GossipProcess

from gossip.models.portable import PortableModel, read

Start = Callable[..., GossipProcess]
CHAIN = ["conv 8 5x5", "relu", "maxpool 2", "dense 64", "relu", "dense classes"]
KEPT = ["0.conv.weight", "0.conv.bias", "3.dense.weight", "3.dense.bias"]


@pytest.mark.slow
def test_the_last_layer_is_retrained_and_nothing_else(
    start: Start, start_node: Start, write_spec: Callable[..., Path], tmp_path: Path
) -> None:
    """Whoever has the file ends with its layers to the bit; whoever came by ticket has them in 8 bits, and says so."""
    layers = {"model_preset": "", "model_layers": CHAIN, "data_shards": 3}
    assert start_node(write_spec(train_samples=30_000, **layers), name="teacher").wait(60) == 0
    before = read(tmp_path / "teacher" / "model.safetensors")
    again = layers | {"model_init": "teacher/model.safetensors", "model_freeze": ["conv", "3.*"]}
    spec = write_spec("again.toml", train_warmup=0.0, **again)
    first = start_node(spec, "--shard", 0, name="first")
    first.wait_for("status", 40.0, lambda event: event["step"] > 0)
    second = start_node(spec, "--join", first.ticket(), "--shard", 1, name="second")
    guest = start_node("--join", first.ticket(), "--shard", 2, name="guest")
    told = guest.wait_for("started_from", 40.0)
    assert told["file"] == "" and "comes from donors" in told["why"] and told["frozen"] > 70_000
    assert second.wait_for("started_from", 40.0)["fresh"] == []
    for node in (second, guest):
        node.wait_for("status", 40.0, lambda event: event["step"] > 300 and event["members"] == 3)
    for node in (guest, second, first):
        node.interrupt()
        assert node.wait() == 0, node.story()
    ended = {node.run.name: read(node.run / "model.safetensors") for node in (first, second, guest)}
    for name in KEPT:
        original = before.parameters[name]
        assert np.array_equal(ended["first"].parameters[name], original), name
        assert np.array_equal(ended["second"].parameters[name], original), name
        assert ended["guest"].parameters[name] == pytest.approx(original, abs=0.01), name
    assert not np.array_equal(ended["first"].parameters["5.dense.weight"], before.parameters["5.dense.weight"])
    print({name: accuracy(start, model, tmp_path / name) for name, model in ended.items()})
    assert min(accuracy(start, model, tmp_path / name) for name, model in ended.items()) > 0.9


def accuracy(start: Start, model: PortableModel, run: Path) -> float:
    """Of the bare file."""
    return start("eval", run / "model.safetensors", "--json").result()["accuracy"]
