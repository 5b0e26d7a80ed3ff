"""The owner's registers: the last writer wins everywhere, whatever order commands come in."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.protocol.commands import CHECKS_AT_ONCE, CHECKS_PER_S, REGISTER_OF, TELL_AGAIN_S, Checks, Commands
from gossip.protocol.commands import checked_value as checked
from gossip.protocol.events import Effect, Emit, Send
from gossip.protocol.membership import Membership
from gossip.protocol.messages import Command, Status, Update

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


def machine() -> tuple[Commands, Membership]:
    membership = Membership(b"m" * 32, "m:1", random.Random(1))
    return Commands(membership), membership


def command(sequence: int, name: str, value: str = "") -> Command:
    return Command(sequence, name, value, bytes(64))


def sent(effects: list[Effect]) -> list[tuple[bytes, int]]:
    return [(e.peer, e.message.sequence) for e in effects if isinstance(e, Send) and isinstance(e.message, Command)]


def said(effects: list[Effect]) -> list[str]:
    return [effect.name for effect in effects if isinstance(effect, Emit)]


def test_a_new_command_is_kept_named_and_passed_on_but_not_back() -> None:
    commands, membership = machine()
    effects = commands.on_command(A, command(3, "pause"), 0.0, (A, B, C))
    assert sent(effects) == [(B, 3), (C, 3)]
    assert said(effects) == ["command"]
    assert commands.is_paused
    assert membership.status.command == 3, "others learn from our status that we know"


def test_a_command_counts_once() -> None:
    """A replay changes nothing, goes nowhere, and is named."""
    commands, _ = machine()
    commands.on_command(A, command(3, "pause"), 0.0, (A, B))
    commands.on_command(A, command(4, "resume"), 0.0, (A, B))
    for old in (command(4, "resume"), command(3, "pause"), command(2, "stop")):
        assert not commands.is_news(old)
        effects = commands.on_command(B, old, 1.0, (A, B))
        assert said(effects) == ["command_ignored"] and not sent(effects)
    assert not commands.is_paused and not commands.is_stopped


def test_an_invalid_value_is_ignored_by_name() -> None:
    """Even the owner's own: an old client must not be able to break a run."""
    commands, _ = machine()
    for name, value in (("set lr", "-1"), ("set lr", "nan"), ("set samples", "1.5"), ("dance", ""), ("pause", "5")):
        assert said(commands.on_command(A, command(9, name, value), 0.0, (A, B))) == ["command_ignored"]
    assert commands.sequence == 0


@pytest.mark.parametrize(
    ("name", "value"), [("set lr", "0"), ("set lr", "101"), ("set lr", "inf"), ("set lr", ""), ("set samples", "0"),
                        ("set samples", str(10**16)), ("set samples", "many"), ("stop", "now")],
)  # fmt: skip
def test_values_that_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        checked(name, value)


written = st.builds(
    command,
    st.integers(1, 5),
    st.sampled_from(["pause", "resume", "stop", "set lr"]),
).map(lambda c: command(c.sequence, c.name, "0.5") if c.name == "set lr" else c)


@given(st.lists(written, max_size=5))
def test_every_order_ends_in_the_same_registers(given_commands: list[Command]) -> None:
    """Two ways through the swarm are never equally long."""
    ends = []
    for order in itertools.permutations(given_commands):
        commands, _ = machine()
        for each in order:
            commands.on_command(A, each, 0.0, ())
        ends.append(dict(sorted(commands.notes().items())))
        assert commands.held <= len(REGISTER_OF)
    assert all(end == ends[0] for end in ends)


def test_a_link_brings_everything_in_the_order_it_was_said() -> None:
    commands, _ = machine()
    commands.on_command(A, command(5, "set lr", "0.5"), 0.0, ())
    commands.on_command(A, command(2, "pause"), 0.0, ())
    assert sent(commands.on_link_up(B, 0.0)) == [(B, 2), (B, 5)]


def test_who_knows_less_is_told_but_not_at_every_word() -> None:
    """What it says of itself may be older than what we have just sent it."""
    commands, membership = machine()
    commands.on_command(A, command(2, "pause"), 0.0, ())
    commands.on_command(A, command(5, "set lr", "0.5"), 0.0, ())
    membership.on_updates(B, (Update(B, "b:1", 0, 0, Status(1, command=2)),), 0.0)
    assert sent(commands.on_contact(B, 10.0)) == [(B, 5)]
    assert not sent(commands.on_contact(B, 10.0 + TELL_AGAIN_S - 0.1))
    assert sent(commands.on_contact(B, 10.0 + TELL_AGAIN_S)) == [(B, 5)]
    membership.on_updates(B, (Update(B, "b:1", 0, 0, Status(2, command=5)),), 12.0)
    assert not sent(commands.on_contact(B, 20.0))


def test_registers_survive_a_restart() -> None:
    before, _ = machine()
    before.on_command(A, command(2, "pause"), 0.0, ())
    before.on_command(A, command(5, "set lr", "0.5"), 0.0, ())
    after, membership = machine()
    after.restore(before.notes())
    assert after.is_paused and after.learning_rate == 0.5 and membership.status.command == 5
    assert after.notes() == before.notes()


def test_a_peer_can_make_us_check_so_many_signatures() -> None:
    """16 at once, then 2 a second: 0.1 ms of each second, whatever it sends; and others pay nothing for it."""
    checks = Checks()
    assert sum(checks.take(A, 0.0) for _ in range(1000)) == CHECKS_AT_ONCE
    assert checks.take(B, 0.0)
    assert sum(checks.take(A, 10.0) for _ in range(1000)) == min(CHECKS_AT_ONCE, 10 * CHECKS_PER_S)
    assert sum(checks.take(A, 11.0) for _ in range(1000)) == CHECKS_PER_S
