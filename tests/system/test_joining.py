"""A newcomer in mid-run: its donors die, or lie, and it trains all the same."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import GossipProcess

Start = Callable[..., GossipProcess]
WriteSpec = Callable[..., Path]
LIAR = (sys.executable, str(Path(__file__).with_name("lying_node.py")))


def key_of(node: GossipProcess) -> str:
    return node.all("started")[0]["key"][:8]


@pytest.mark.slow
def test_a_newcomer_outlives_the_donor_that_is_killed_while_it_gives(start_node: Start, write_spec: WriteSpec) -> None:
    """SIGKILL between two fragments: the rest comes from the other donor, and nothing is fetched twice."""
    # 3.3 million parameters: 50 fragments, 6.6 MB, some tenths of a second from two donors that train meanwhile.
    spec = write_spec(model_preset="", model_layers=["dense 4096", "relu", "dense 10"], data_shards=3, train_batch=64)
    first = start_node(spec, "--shard", 0, name="first")
    second = start_node("--join", first.ticket(), "--shard", 1, name="second")
    for node in (first, second):
        node.wait_for("training", 40.0)
        node.wait_for("status", 40.0, lambda event: event["step"] > 10 and event["members"] == 2)
    joiner = start_node("--join", second.ticket(), "--shard", 2, name="joiner")
    first.wait_for("fragment_given", 40.0, lambda event: event["peer"] != key_of(second))
    first.process.kill()
    received = joiner.wait_for("state_received", 40.0)
    joiner.wait_for("training")
    print(received["donors"], [event["why"] for event in joiner.all("fragment_lost")])
    assert received["donors"].get(key_of(second), 0) >= 25
    assert sum(received["donors"].values()) <= 50 + 2
    joiner.wait_for("status", 40.0, lambda event: event["step"] > 10)


@pytest.mark.slow
def test_a_donor_whose_state_is_garbage_is_distrusted(start_node: Start, write_spec: WriteSpec) -> None:
    """Its state a thousand times too large would ruin the newcomer, and through it the swarm: it is told from the
    other's by a look at held-out samples, before it is trained on or given on."""
    spec = write_spec(data_shards=3, train_warmup=0.0)
    honest = start_node(spec, "--shard", 0, name="honest")
    liar = start_node("--join", honest.ticket(), "--shard", 1, name="liar", prefix=LIAR)
    for node in (honest, liar):
        node.wait_for("status", 40.0, lambda event: event["step"] > 50 and event["members"] == 2)
    joiner = start_node("--join", honest.ticket(), "--shard", 2, name="joiner")
    distrusted = joiner.wait_for("donor_distrusted", 40.0)
    joiner.wait_for("training")
    print({name: distrusted[name] for name in ("loss", "loss_without", "loss_untrained", "fragments")})
    assert distrusted["peer"] == key_of(liar)
    assert list(joiner.all("state_received")[0]["donors"]) == [key_of(honest)]
    later = joiner.wait_for("status", 40.0, lambda event: event["step"] > 50)
    assert later["loss"] < distrusted["loss_untrained"]
