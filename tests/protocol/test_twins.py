"""One key, two processes."""

from __future__ import annotations

from gossip.protocol.events import Emit
from gossip.protocol.twins import TELL_AGAIN_S, WITHIN_S, Twins

A, B = b"a" * 32, b"b" * 32


def test_two_processes_on_one_key_are_told_of() -> None:
    """They push each other out every second or so; told once, with what to do about it."""
    twins = Twins()
    effects = [twins.on_replaced(A, float(second)) for second in range(20)]
    assert effects[:2] == [[], []] and isinstance(effects[2][0], Emit) and effects[2][0].name == "same_key_elsewhere"
    assert not any(effects[3:])
    assert any(twins.on_replaced(A, TELL_AGAIN_S + second) for second in range(10))


def test_a_restart_is_no_twin() -> None:
    """Nor are many nodes that restart once each, nor one that does so every half hour."""
    twins = Twins()
    assert not any(twins.on_replaced(bytes([n]) * 32, 1.0) for n in range(50))
    assert not any(twins.on_replaced(B, 30 * WITHIN_S * n) for n in range(50))
