"""A visitor: gets into a swarm, asks who is there, and speaks for its owner. Never a member itself.

It says nothing of itself, so nobody counts it, exchanges with it or misses it. What it knows of the swarm is what
the members it has a link with know; where that is not enough it knocks at further ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gossip import spec, wire
from gossip.errors import NetworkError, PeerError
from gossip.ledger import Ledger
from gossip.live.security import KeyPair, Permit
from gossip.live.tickets import swarm_id
from gossip.live.transport import LINKS_DIALED_MAX, ZmqTransport
from gossip.owner import SwarmName, verifier
from gossip.protocol.commands import REGISTER_OF
from gossip.protocol.events import DIAL_PATIENCE_S
from gossip.protocol.messages import Command, MembersRequest, Message, State, Update
from gossip.protocol.wire_events import FramesReceived, LinkDown, LinkRefused, LinkUp, WireEvent

KNOCK_TIMEOUT_S = 4.0
ANSWER_TIMEOUT_S = 3.0
ASK_EVERY_S = 0.3
KNOCKS_AT_ONCE = 4  # at members that have not been heard of; each tells of its neighbours too
MEMBERS_MAX = 4_096
ADDRESSES_SHOWN = 3

Door = tuple[str, bytes]  # HOST:PORT, public key


@dataclass(frozen=True, slots=True)
class Seen:
    """A member, as somebody told us."""

    update: Update
    told_by: bytes
    at: float  # when, by the monotonic clock

    @property
    def is_alive(self) -> bool:
        return self.update.state <= State.SUSPECT

    @property
    def is_first_hand(self) -> bool:
        return self.told_by == self.update.key


class SwarmClient:
    """One visit. Use it as a context manager: leaving it ends the links."""

    def __init__(self, permit: Permit, doors: Iterable[Door]) -> None:
        """doors: where to knock, best first. Raises NetworkError, one sentence, where nobody opens."""
        self.members: dict[bytes, Seen] = {}
        self.registers: dict[str, Command] = {}  # what the owner wants, checked
        self._linked: dict[bytes, None] = {}
        self._knocked: dict[bytes, float] = {}
        self._saying: Command | None = None
        self._transport = ZmqTransport(KeyPair.new(), Ledger())
        self._transport.use_permit(permit)
        try:
            self._get_in(list(doors)[:LINKS_DIALED_MAX])
        except BaseException:
            self._transport.close()
            raise

    def __enter__(self) -> SwarmClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    # -- What it knows -------------------------------------------------------------------------------

    @property
    def is_linked(self) -> bool:
        """Is there a member that can be asked?"""
        return bool(self._linked)

    def living(self) -> list[Seen]:
        return [seen for seen in self.members.values() if seen.is_alive]

    def look(self, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Ask everybody we have a link with, and wait for an answer. Raises NetworkError where none comes."""
        asked_at = time.monotonic()
        self._ask()
        if not self._wait(lambda: any(seen.at > asked_at for seen in self.members.values()), timeout_s):
            raise NetworkError(f"the member we reached did not answer within {timeout_s:g} s; is its machine busy?")

    def listen(self, seconds: float) -> None:
        """Take what comes for so long, or until nobody is linked with us any more."""
        self._wait(lambda: not self._linked, seconds)

    def say(self, command: Command, within_s: float) -> list[Seen]:
        """Give the swarm a command and see who knows it. Returns the living members that have not said so in time."""
        self._saying = command
        began = time.monotonic()
        self._send(self._linked, command)

        def missing() -> list[Seen]:
            return [seen for seen in self.living() if seen.update.status.command < command.sequence]

        def everybody_knows() -> bool:
            if time.monotonic() > began + ASK_EVERY_S:
                self._knock(missing())
            return not missing() or not self._linked

        self._wait(everybody_knows, within_s, ask=True)
        return missing()

    # -- The way in ----------------------------------------------------------------------------------

    def _get_in(self, doors: Sequence[Door]) -> None:
        """Knock everywhere at once, at each door's addresses in turn; the first to open is enough."""
        refused: dict[bytes, LinkRefused] = {}
        untried = {key: address.split(",") for address, key in doors}
        for key, addresses in untried.items():
            if key not in self._knocked:
                self._knocked[key] = time.monotonic()
                self._transport.dial(key, addresses.pop(0), DIAL_PATIENCE_S / (1 + len(addresses)))
        deadline = time.monotonic() + KNOCK_TIMEOUT_S
        while not self._linked and len(refused) < len(self._knocked) and time.monotonic() < deadline:
            for event in self._transport.poll(deadline - time.monotonic()):
                if isinstance(event, LinkRefused):
                    if untried.get(event.peer):
                        self._transport.dial(event.peer, untried[event.peer].pop(0))
                    else:
                        refused[event.peer] = event
                    continue
                if isinstance(event, LinkUp) and not self._linked:
                    self._on_let_in(event.peer)
                self._on_event(event)
        if not self._linked:
            raise NetworkError(_why_not(doors, refused))

    def _on_let_in(self, peer: bytes) -> None:
        """What we know from now on: the experiment, and whose commands are obeyed."""
        welcome = self._transport.welcome_from(peer)
        if welcome is None:
            raise NetworkError("the member that let us in is gone; try again")
        self.experiment = spec.from_canonical(welcome.spec)
        self.swarm = SwarmName(self.experiment.hash, swarm_id(welcome.swarm_key))
        self._verify = verifier(self.experiment.owner, self.swarm)
        self._transport.become_member(welcome.swarm_key, welcome.spec)

    # -- How it listens ------------------------------------------------------------------------------

    def _wait(self, is_so: Callable[[], bool], timeout_s: float, ask: bool = False) -> bool:
        """Listen until something holds (True) or time is up. ask: everybody, again and again."""
        deadline = time.monotonic() + timeout_s
        ask_at = time.monotonic() + ASK_EVERY_S
        while not is_so():
            now = time.monotonic()
            if now >= deadline:
                return False
            if ask and now >= ask_at:
                ask_at = now + ASK_EVERY_S
                self._ask()
            for event in self._transport.poll(min(deadline, ask_at) - now if ask else deadline - now):
                self._on_event(event)
        return True

    def _on_event(self, event: WireEvent) -> None:
        match event:
            case LinkUp(peer=peer):
                self._linked[peer] = None
                self._send((peer,), MembersRequest())
                if self._saying is not None:
                    self._send((peer,), self._saying)
            case LinkDown(peer=peer):
                self._linked.pop(peer, None)
            case FramesReceived(peer=peer, frames=(frame,)):
                try:
                    self._on_message(peer, wire.decode_message(frame))
                except PeerError:
                    return  # a visitor has nobody to complain to: the answer just does not come

    def _on_message(self, peer: bytes, message: Message) -> None:
        if isinstance(message, Command):
            self._on_command(message)
        for update in getattr(message, "updates", ()):
            self._hear(peer, update)

    def _hear(self, peer: bytes, update: Update) -> None:
        """What is later of a member counts; of two equally late words the newer."""
        known = self.members.get(update.key)
        if known is None and len(self.members) >= MEMBERS_MAX:
            return
        if known is None or known.told_by == peer or _age(update) >= _age(known.update):
            self.members[update.key] = Seen(update, peer, time.monotonic())

    def _on_command(self, command: Command) -> None:
        register = REGISTER_OF.get(command.name)
        if register is None or not self._verify(command):
            return
        held = self.registers.get(register)
        if held is None or command.sequence > held.sequence:
            self.registers[register] = command

    # -- How it speaks -------------------------------------------------------------------------------

    def _ask(self) -> None:
        self._send(self._linked, MembersRequest())

    def _knock(self, silent: Iterable[Seen]) -> None:
        """At some of those nobody has good news of: they may know what we want to hear."""
        now = time.monotonic()
        under_way = sum(now - at < KNOCK_TIMEOUT_S for key, at in self._knocked.items() if key not in self._linked)
        for seen in silent:
            key, address = seen.update.key, seen.update.address.partition(",")[0]
            if under_way >= KNOCKS_AT_ONCE or len(self._linked) >= LINKS_DIALED_MAX // 2:
                return
            if address and key not in self._knocked:
                self._knocked[key] = now
                under_way += 1
                self._transport.dial(key, address)

    def _send(self, peers: Iterable[bytes], message: Message) -> None:
        frame, kind = wire.encode_message(message), wire.kind_of_message(message)
        for peer in list(peers):
            self._transport.send(peer, (frame,), kind)


def _age(update: Update) -> tuple[int, int]:
    return update.incarnation, update.status.sequence


def _why_not(doors: Sequence[Door], refused: dict[bytes, LinkRefused]) -> str:
    """One sentence: whom we knocked at, and what they said, each reason once."""
    addresses: dict[str, list[str]] = {}
    for address, key in doors:
        refusal = refused.get(key)
        reason = f"{refusal.code}, {refusal.reason}" if refusal else "no answer"
        addresses.setdefault(reason, []).append(address)
    return "no member answers: " + "; ".join(f"{_few(where)}: {reason}" for reason, where in addresses.items())


def _few(addresses: Sequence[str]) -> str:
    more = len(addresses) - ADDRESSES_SHOWN
    return ", ".join(addresses[:ADDRESSES_SHOWN]) + (f" and {more} more" if more > 0 else "")
