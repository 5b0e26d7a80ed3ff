"""When momentum travels with an exchange, and which settings are refused before a run begins."""

from __future__ import annotations

import random

import pytest

from gossip.protocol import events as ev
from gossip.protocol.exchange import Exchanges
from gossip.protocol.messages import Phase
from gossip.protocol.momentum import momentum_is_wanted, momentum_refusal
from gossip.protocol.node import Node, NodeSettings
from tests.protocol.test_node import ME, A, meet, of


@pytest.mark.parametrize(
    ("setting", "momentum", "every_steps", "wanted"),
    [
        ("auto", 0.9, 4, True),
        ("auto", 0.9, 5, False),  # by then it is mostly forgotten, and the bytes are better spent on parameters
        ("auto", 0.0, 1, False),
        ("on", 0.9, 100, True),
        ("on", 0.0, 1, False),  # the spec refuses it; a node that gets it all the same sends nothing
        ("off", 0.9, 1, False),
    ],
)
def test_when_momentum_is_averaged(setting: str, momentum: float, every_steps: int, wanted: bool) -> None:
    assert momentum_is_wanted(setting, momentum, every_steps) is wanted


def test_only_momentum_that_is_demanded_and_missing_is_refused() -> None:
    assert "train.momentum = 0" in momentum_refusal("on", 0.0)
    assert "adamw keeps moments" in momentum_refusal("on", 0.0, "adamw")
    assert not any(momentum_refusal(*given) for given in (("auto", 0.0), ("off", 0.0), ("on", 0.9)))


@pytest.mark.parametrize(("every_steps", "wanted"), [(4, True), (8, False)])
def test_a_node_asks_for_momentum_while_it_steps_and_not_in_the_last_rounds(every_steps: int, wanted: bool) -> None:
    """Once the steps are over nothing will ever be done with it."""
    settings = NodeSettings(
        key=ME, address="m:1", seeds=(), fragments=2, samples_total=1_000, every_steps=every_steps, blocks=0.1,
        average_momentum="auto", momentum=0.9,
    )  # fmt: skip
    me = Node(settings, random.Random(1))
    me.start(0.0)
    meet(me, A)
    (pick,) = of(me.handle(ev.StepsDone(every_steps, 256, 0.5, 0.01, 0.02), 1.0), ev.PickBlocks)
    assert pick.with_momentum is wanted
    me.handle(ev.OfferReady(pick.exchange_id, None), 1.0)
    me.handle(ev.StepsDone(2 * every_steps, 1_000, 0.5, 0.01, 0.02), 2.0)
    assert me.phase == Phase.SETTLING
    (pick,) = of(me.handle(ev.Tick(), me.life.settling.next_deadline()), ev.PickBlocks)
    assert pick.with_momentum is False


def test_an_exchange_says_how_many_blocks_gave_momentum() -> None:
    exchanges = Exchanges()
    (pick,) = exchanges.begin(A, 0.5, 1.0, 0.0, with_momentum=True)
    assert pick == ev.PickBlocks(pick.exchange_id, 0.5, False, with_momentum=True)
    exchanges.on_offer_ready(pick.exchange_id, b"body", 4, 0.0)
    (mixed,) = exchanges.on_mixed(pick.exchange_id, blocks=9, failed=2, now=1.0, momentum_mixed=6)
    assert (mixed.name, mixed.fields["momentum_mixed"]) == ("exchange_mixed", 6)
