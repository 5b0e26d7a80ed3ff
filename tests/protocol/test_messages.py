"""A message that breaks a limit cannot be made, so it can be neither sent nor received."""

from __future__ import annotations

import math

import pytest

from gossip.protocol import messages as msg

KEY = b"k" * 32
UPDATE = msg.Update(KEY, "x:1", 0, msg.State.ALIVE, msg.Status())


@pytest.mark.parametrize(
    "make",
    [
        lambda: msg.Status(phase=9),
        lambda: msg.Status(samples=-1),
        lambda: msg.Status(samples=msg.COUNT_MAX + 1),
        lambda: msg.Status(samples_per_s=math.inf),
        lambda: msg.Status(samples_per_s=math.nan),
        lambda: msg.Status(loss=math.nan),
        lambda: msg.Status(accuracy=1.1),
        lambda: msg.Update(b"short", "x:1", 0, 0, msg.Status()),
        lambda: msg.Update(KEY, "x" * 129, 0, 0, msg.Status()),
        lambda: msg.Update(KEY, "bell\a", 0, 0, msg.Status()),
        lambda: msg.Update(KEY, "x:1", 2**32, 0, msg.Status()),
        lambda: msg.Update(KEY, "x:1", 0, 4, msg.Status()),
        lambda: msg.Ping(-1),
        lambda: msg.Ack(2**32),
        lambda: msg.Ping(1, (UPDATE,) * (msg.UPDATES_MAX + 1)),
        lambda: msg.News((UPDATE,) * (msg.UPDATES_MAX + 1)),
        lambda: msg.Members((UPDATE,) * (msg.MEMBERS_MAX + 1)),
        lambda: msg.PingRequest(1, b"short"),
        lambda: msg.FragmentRequest(2**16),
        lambda: msg.Refusal(9, 1, "BUSY"),
        lambda: msg.Refusal(1, 1, "x" * 33),
        lambda: msg.Refusal(1, 1, "\x1b[2J"),
        lambda: msg.Header(msg.PayloadKind.OFFER, 0, 2**32, 0),
        lambda: msg.Header(msg.PayloadKind.OFFER, 0, 0, -1),
        lambda: msg.Header(msg.PayloadKind.OFFER, 0, 0, 0, 2**32),
        lambda: msg.Header(msg.PayloadKind.OFFER, 0, 0, 0, 0, -1),
    ],
)
def test_limits_hold(make) -> None:  # type: ignore[no-untyped-def]
    """A number from a peer is a memory size, a deadline or a terminal escape until it is checked."""
    with pytest.raises(ValueError):
        make()


def test_the_worse_state_has_the_higher_number() -> None:
    """Precedence at one incarnation leans on this order."""
    assert msg.State.ALIVE < msg.State.SUSPECT < msg.State.DEAD < msg.State.LEFT
