"""What the swarm's owner wants of everybody: a few registers, and how each new command reaches every node.

A command writes one register; of two that write the same the later sequence number counts, in whatever order
they come. A new one is passed on at once over every link. Whoever comes later, or was cut off, is sent all the
registers when a link opens, and again when it says of itself that it knows less. Signatures are checked where
bytes are parsed: what comes in here is the owner's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gossip.protocol.events import Effect, Emit, Send
from gossip.protocol.membership import Membership
from gossip.protocol.messages import Command

REGISTER_OF = {"pause": "run", "resume": "run", "stop": "run", "set lr": "lr", "set samples": "samples"}
SAMPLES_MAX = 10**15
LEARNING_RATE_MAX = 100.0
TELL_AGAIN_S = 2.0  # what a peer says of itself may be as old as a probe and its answer
# A check costs about 60 us. A link's start brings a few commands at once; more than that is somebody's malice, and
# the owner's own command still comes by the other links.
CHECKS_AT_ONCE = 16
CHECKS_PER_S = 2.0
STOPPED = "stopped by the owner"


def checked_value(name: str, value: str) -> float:
    """The number a command carries; 0 for one that carries none. Raises ValueError, one sentence."""
    match name:
        case "pause" | "resume" | "stop":
            if value:
                raise ValueError(f"{name} {value}: expected no value")
            return 0
        case "set lr":
            rate = _number(value, float)
            if not 0 < rate <= LEARNING_RATE_MAX:  # what is no number compares as false
                raise ValueError(f"lr={value}: expected a number above 0, at most {LEARNING_RATE_MAX:g}")
            return rate
        case "set samples":
            samples = _number(value, int)
            if not 1 <= samples <= SAMPLES_MAX:
                raise ValueError(f"samples={value}: expected a whole number from 1 to {SAMPLES_MAX}")
            return int(samples)
    raise ValueError(f"{name}: unknown command; expected {', '.join(REGISTER_OF)}")


def _number(text: str, kind: type[float] | type[int]) -> float:
    try:
        return kind(text)
    except ValueError:
        return math.nan


class Commands:
    """The registers of one node."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._held: dict[str, Command] = {}  # by register
        self._told_at: dict[bytes, float] = {}  # by linked peer: when it was last sent what we hold

    # -- What the owner wants --------------------------------------------------------------------------

    @property
    def sequence(self) -> int:
        """The highest known; 0 before the first."""
        return max((command.sequence for command in self._held.values()), default=0)

    @property
    def held(self) -> int:
        """How many registers are written."""
        return len(self._held)

    @property
    def is_paused(self) -> bool:
        return self._name_in("run") == "pause"

    @property
    def is_stopped(self) -> bool:
        return self._name_in("run") == "stop"

    @property
    def learning_rate(self) -> float | None:
        """The schedule's peak from now on; None for the spec's."""
        return self._value_in("lr")

    @property
    def samples(self) -> int | None:
        """How many samples the whole run shall take; None for the spec's."""
        value = self._value_in("samples")
        return None if value is None else int(value)

    # -- Inputs ----------------------------------------------------------------------------------------

    def is_news(self, command: Command) -> bool:
        """Would it change anything? What would not need not be verified."""
        return not self._why_not(command)

    def on_command(self, peer: bytes, command: Command, now: float, linked: Iterable[bytes]) -> list[Effect]:
        """A verified command: keep it and pass it on, or say why not."""
        fields: dict[str, Any] = {
            "sequence": command.sequence, "name": command.name, "value": command.value, "from": peer.hex()[:8]
        }  # fmt: skip
        if why := self._why_not(command):
            return [Emit("command_ignored", fields | {"why": why})]
        self._held[REGISTER_OF[command.name]] = command
        self._membership.set_status(command=self.sequence)
        others = [other for other in linked if other != peer]
        return [Emit("command", fields), *(Send(other, command) for other in others)]

    def on_link_up(self, peer: bytes, now: float) -> list[Effect]:
        return self._tell(peer, 0, now)

    def on_link_down(self, peer: bytes) -> None:
        self._told_at.pop(peer, None)

    def on_contact(self, peer: bytes, now: float) -> list[Effect]:
        """`peer`, to which there is a link, has just spoken: does it know what we know?"""
        member = self._membership.members.get(peer)
        if member is None or member.status.command >= self.sequence:
            return []
        if now < self._told_at.get(peer, -math.inf) + TELL_AGAIN_S:
            return []
        return self._tell(peer, member.status.command, now)

    # -- Over a restart --------------------------------------------------------------------------------

    def notes(self) -> dict[str, Any]:
        """Plain data for a checkpoint; `restore` reads it."""
        return {
            register: [command.sequence, command.name, command.value, command.signature.hex()]
            for register, command in self._held.items()
        }

    def restore(self, notes: dict[str, Any]) -> None:
        """What an earlier start of this node had noted. Raises ValueError, TypeError where it is not that."""
        for sequence, name, value, signature in notes.values():
            command = Command(sequence, name, value, bytes.fromhex(signature))
            if self.is_news(command):
                self._held[REGISTER_OF[name]] = command
        self._membership.set_status(command=self.sequence)

    # -- How it is decided -----------------------------------------------------------------------------

    def _why_not(self, command: Command) -> str:
        """Why a command changes nothing; "" where it does."""
        try:
            checked_value(command.name, command.value)
        except ValueError as error:
            return str(error)
        held = self._held.get(REGISTER_OF[command.name])
        if held is None or _order(command) > _order(held):
            return ""
        return "known already" if command == held else f"older than command {held.sequence}, which holds"

    def _tell(self, peer: bytes, known: int, now: float) -> list[Effect]:
        """Everything later than `known`, in the order it was said."""
        self._told_at[peer] = now
        later = sorted((c for c in self._held.values() if c.sequence > known), key=_order)
        return [Send(peer, command) for command in later]

    def _name_in(self, register: str) -> str:
        return self._held[register].name if register in self._held else ""

    def _value_in(self, register: str) -> float | None:
        if register not in self._held:
            return None
        return checked_value(self._held[register].name, self._held[register].value)


def _order(command: Command) -> tuple[int, str, str]:
    """Later is greater; two of one number (an owner at two terminals) are told apart the same way everywhere."""
    return command.sequence, command.name, command.value


@dataclass(slots=True)
class _Allowance:
    left: float
    since: float


class Checks:
    """How many signatures of each linked peer are looked at: so many at once, then so many a second."""

    def __init__(self) -> None:
        self._by_peer: dict[bytes, _Allowance] = {}

    def take(self, peer: bytes, now: float) -> bool:
        """False where `peer` has used up its share."""
        allowance = self._by_peer.setdefault(peer, _Allowance(CHECKS_AT_ONCE, now))
        allowance.left = min(CHECKS_AT_ONCE, allowance.left + (now - allowance.since) * CHECKS_PER_S)
        allowance.since = now
        if allowance.left < 1:
            return False
        allowance.left -= 1
        return True

    def forget(self, peer: bytes) -> None:
        self._by_peer.pop(peer, None)
