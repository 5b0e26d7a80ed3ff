"""Who is alive: SWIM with suspicion and incarnations (Das, Gupta, Motivala 2002).

Knows members, what they say of themselves and what is said about them. Probes go over open links
only; who those are is an argument. What others say about others is a hint: a reported death is no
more than a suspicion here, which our own probe confirms or the suspect refutes by raising its
incarnation. Direct contact wins.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gossip.protocol.events import Effect, Emit, Send
from gossip.protocol.messages import (
    UPDATES_MAX,
    Ack,
    Members,
    News,
    Phase,
    Ping,
    PingRequest,
    State,
    Status,
    Update,
)

PROBE_INTERVAL_S = 1.0
PROBE_TIMEOUT_S = 0.6  # direct, then the same again through others: inside two intervals
INDIRECT_PROBES = 3
# From suspicion to death. A crash is known within PROBE_INTERVAL + 2 PROBE_TIMEOUT + this = 5.2 s at
# worst and at once after a broken connection + this; a node that pauses for 2 s has time to refute.
SUSPICION_S = 3.0
INCARNATION_JUMP_MAX = 1_000  # higher jumps are nonsense or malice: ignored
MEMBERS_KNOWN_MAX = 4_096
# How often one piece of news is retold. SWIM asks for a small multiple of log(members).
RETELL_FACTOR = 3


@dataclass(slots=True)
class Member:
    """What we believe of one other node."""

    key: bytes
    address: str
    incarnation: int
    state: State
    status: Status
    heard_at: float  # when its status last grew, for extrapolating its samples
    suspect_since: float = 0.0
    tell_left: int = 0  # retellings still owed to others
    told_at: float = -1.0  # when its record last went out, for the rotation of statuses

    @property
    def is_alive(self) -> bool:
        """Alive as far as we know; a suspect still counts as alive."""
        return self.state <= State.SUSPECT

    def update(self) -> Update:
        return Update(self.key, self.address, self.incarnation, self.state, self.status)


@dataclass(slots=True)
class _Probe:
    target: bytes
    deadline: float
    asked_others: bool
    on_behalf_of: tuple[bytes, int] | None  # who asked us, and under which number


class Membership:
    """The member table, and the probes that keep it true."""

    def __init__(self, key: bytes, address: str, rng: random.Random, incarnation: int = 0) -> None:
        self.key = key
        self.address = address
        self.incarnation = incarnation
        self.status = Status()
        self.members: dict[bytes, Member] = {}
        self._rng = rng
        self._left = False
        self._probes: dict[int, _Probe] = {}
        self._probe_number = 0
        self._probe_order: list[bytes] = []
        self._next_probe_at = 0.0

    # -- What others ask of us -----------------------------------------------------------------------

    def alive(self) -> list[Member]:
        return [member for member in self.members.values() if member.is_alive]

    def is_alive(self, peer: bytes) -> bool:
        return peer in self.members and self.members[peer].is_alive

    def own_update(self) -> Update:
        state = State.LEFT if self._left else State.ALIVE
        return Update(self.key, self.address, self.incarnation, state, self.status)

    def set_status(self, **changes: object) -> None:
        """Say something new of ourselves; it travels with the next probes."""
        self.status = replace(self.status, sequence=self.status.sequence + 1, **changes)  # type: ignore[arg-type]

    def sample(self, count: int) -> Members:
        """Ourselves, then up to `count` others, the living first: what a joiner is told."""
        others = sorted(self.members.values(), key=lambda member: (member.state, member.key))
        living = [member for member in others if member.is_alive]
        if len(living) > count:
            others = self._rng.sample(living, count)
        return Members((self.own_update(), *(member.update() for member in others[:count])))

    def next_deadline(self) -> float:
        suspects = (m.suspect_since + SUSPICION_S for m in self.members.values() if m.state == State.SUSPECT)
        probes = (probe.deadline for probe in self._probes.values())
        return min((self._next_probe_at, *suspects, *probes))

    # -- Inputs --------------------------------------------------------------------------------------

    def on_tick(self, now: float, linked: Iterable[bytes]) -> list[Effect]:
        effects: list[Effect] = []
        for number, probe in list(self._probes.items()):
            if probe.deadline <= now:
                effects += self._on_probe_timeout(number, probe, now, linked)
        for member in list(self.members.values()):
            if member.state == State.SUSPECT and member.suspect_since + SUSPICION_S <= now:
                effects += self._change(
                    member, State.DEAD, now, "no answer, and nobody refuted the suspicion"
                )
        if now >= self._next_probe_at:
            self._next_probe_at = now + PROBE_INTERVAL_S
            effects += self._probe_next(now, linked)
        return effects

    def on_link_up(self, peer: bytes, now: float) -> list[Effect]:
        """Introduce ourselves. A link is no membership: the peer is a member once it says so itself."""
        return [Send(peer, News(self._updates_for(peer, now)))]

    def on_link_down(self, peer: bytes, now: float, reason: str) -> list[Effect]:
        """A broken connection is the earliest sign of a crash: suspect at once, and let others look."""
        member = self.members.get(peer)
        if member is None or member.state != State.ALIVE:
            return []
        return self._change(member, State.SUSPECT, now, f"link lost: {reason}")

    def on_ping(self, peer: bytes, message: Ping, now: float) -> list[Effect]:
        effects = self.on_updates(peer, message.updates, now)
        return [*effects, Send(peer, Ack(message.number, self._updates_for(peer, now)))]

    def on_ping_request(
        self, peer: bytes, message: PingRequest, now: float, linked: Iterable[bytes]
    ) -> list[Effect]:
        effects = self.on_updates(peer, message.updates, now)
        if message.target in set(linked):
            effects += self._ping(message.target, now, on_behalf_of=(peer, message.number))
        return effects

    def on_ack(self, peer: bytes, message: Ack, now: float) -> list[Effect]:
        effects = self.on_updates(peer, message.updates, now)
        probe = self._probes.get(message.number)
        if probe is None:
            return effects
        # The target itself answered, or a helper that reached it for us. Anybody else's word changes nothing.
        if peer != probe.target and not probe.asked_others:
            return effects
        del self._probes[message.number]
        if probe.on_behalf_of is not None:
            asker, number = probe.on_behalf_of
            return [*effects, Send(asker, Ack(number, self._updates_for(asker, now)))]
        return effects + self._on_contact(probe.target, now)

    def on_updates(self, peer: bytes, updates: Iterable[Update], now: float) -> list[Effect]:
        """Merge what `peer` says of itself (taken) and of others (a hint)."""
        effects: list[Effect] = []
        for update in updates:
            if update.key == self.key:
                effects += self._on_said_of_me(update, now)
            elif update.key not in self.members:
                effects += self._learn(update, now)
            else:
                effects += self._merge(self.members[update.key], update, now, first_hand=update.key == peer)
        return effects + self._on_contact(peer, now)

    def leave(self, linked: Iterable[bytes]) -> list[Effect]:
        """Say goodbye to everybody we have a link with; they tell the others."""
        self._left = True
        return [Send(peer, News((self.own_update(),))) for peer in linked]

    def tell_now(self, linked: Iterable[bytes], now: float) -> list[Effect]:
        """Spread our own record at once instead of with the next probes."""
        return [Send(peer, News(self._updates_for(peer, now))) for peer in linked]

    # -- Merging -------------------------------------------------------------------------------------

    def _on_said_of_me(self, update: Update, now: float) -> list[Effect]:
        """Somebody believes we are suspect, dead or gone: refute by a higher incarnation."""
        if self._left or update.incarnation > self.incarnation + INCARNATION_JUMP_MAX:
            return []
        if update.state == State.ALIVE and update.incarnation <= self.incarnation:
            return []
        if update.incarnation < self.incarnation:
            return []
        self.incarnation = update.incarnation + 1
        said = State(update.state).name.lower()
        return [Emit("refuted", {"said": said, "incarnation": self.incarnation})]

    def _learn(self, update: Update, now: float) -> list[Effect]:
        if len(self.members) >= MEMBERS_KNOWN_MAX:
            return [Emit("members_full", {"peer": update.key.hex()[:8]})]
        if update.incarnation > INCARNATION_JUMP_MAX:
            return [
                Emit("incarnation_ignored", {"peer": update.key.hex()[:8], "incarnation": update.incarnation})
            ]
        # The dead and the gone are learnt too: their samples belong to the swarm's clock.
        member = Member(
            update.key, update.address, update.incarnation, State(update.state), update.status, now,
            suspect_since=now, tell_left=self._retellings(),
        )  # fmt: skip
        self.members[update.key] = member
        return [
            Emit(
                "member_" + member.state.name.lower(),
                {"peer": member.key.hex()[:8], "address": member.address},
            )
        ]

    def _merge(self, member: Member, update: Update, now: float, first_hand: bool) -> list[Effect]:
        if update.status.sequence > member.status.sequence:
            member.status = update.status
            member.heard_at = now
        if update.incarnation > member.incarnation + INCARNATION_JUMP_MAX:
            return [
                Emit("incarnation_ignored", {"peer": member.key.hex()[:8], "incarnation": update.incarnation})
            ]
        newer = update.incarnation > member.incarnation
        if newer:
            member.incarnation = update.incarnation
            member.tell_left = self._retellings()
        if first_hand or newer:
            member.address = update.address or member.address
        if not newer and (update.incarnation < member.incarnation or update.state <= member.state):
            return []
        state = State(update.state)
        if state == State.DEAD and not first_hand:
            state = max(State.SUSPECT, member.state) if not newer else State.SUSPECT
        if state == State.LEFT and not first_hand and member.state == State.DEAD:
            return []
        return self._change(member, state, now, "said so itself" if first_hand else "reported")

    def _on_contact(self, peer: bytes, now: float) -> list[Effect]:
        """We hear from it: a suspicion ends here; others hear of it when the peer has refuted."""
        member = self.members.get(peer)
        if member is None or member.state not in (State.SUSPECT, State.DEAD):
            return []
        # It may not know that it was suspected: tell it, so that it raises its incarnation for everybody.
        tell = Send(peer, News((member.update(),)))
        if member.state == State.DEAD:
            return [tell]  # only its own higher incarnation brings it back
        return [tell, *self._change(member, State.ALIVE, now, "heard from it")]

    def _change(self, member: Member, state: State, now: float, why: str) -> list[Effect]:
        if member.state == state:
            return []
        member.state = state
        member.tell_left = self._retellings()
        if state == State.SUSPECT:
            member.suspect_since = now
            self._probe_order.append(member.key)  # look for ourselves, next and now
            self._next_probe_at = now
        if state == State.DEAD and self._probes:
            self._probes = {n: probe for n, probe in self._probes.items() if probe.target != member.key}
        return [Emit("member_" + state.name.lower(), {"peer": member.key.hex()[:8], "why": why})]

    # -- Probing -------------------------------------------------------------------------------------

    def _probe_next(self, now: float, linked: Iterable[bytes]) -> list[Effect]:
        """Round robin over a shuffled list, so that every link is looked at within one round."""
        able = [peer for peer in linked if self.is_alive(peer)]
        busy = {probe.target for probe in self._probes.values()}
        while self._probe_order and (self._probe_order[-1] not in able or self._probe_order[-1] in busy):
            self._probe_order.pop()
        if not self._probe_order:
            self._probe_order = [peer for peer in able if peer not in busy]
            self._rng.shuffle(self._probe_order)
        return self._ping(self._probe_order.pop(), now) if self._probe_order else []

    def _ping(self, target: bytes, now: float, on_behalf_of: tuple[bytes, int] | None = None) -> list[Effect]:
        self._probe_number = (self._probe_number + 1) % 2**32
        self._probes[self._probe_number] = _Probe(target, now + PROBE_TIMEOUT_S, False, on_behalf_of)
        return [Send(target, Ping(self._probe_number, self._updates_for(target, now)))]

    def _on_probe_timeout(
        self, number: int, probe: _Probe, now: float, linked: Iterable[bytes]
    ) -> list[Effect]:
        if probe.on_behalf_of is not None or probe.asked_others:
            del self._probes[number]
            member = self.members.get(probe.target)
            if probe.on_behalf_of is not None or member is None or member.state != State.ALIVE:
                return []
            return self._change(member, State.SUSPECT, now, "no answer, directly or through others")
        probe.asked_others = True
        probe.deadline = now + PROBE_TIMEOUT_S
        helpers = [peer for peer in linked if peer != probe.target and self.is_alive(peer)]
        helpers = self._rng.sample(helpers, min(INDIRECT_PROBES, len(helpers)))
        return [
            Send(peer, PingRequest(number, probe.target, self._updates_for(peer, now))) for peer in helpers
        ]

    def _updates_for(self, peer: bytes, now: float) -> tuple[Update, ...]:
        """Ourselves, then changes still to be told (least told first), then the statuses told longest ago."""
        others = [member for member in self.members.values() if member.key != peer]
        others.sort(key=lambda member: (-member.tell_left, member.told_at))
        told = others[: UPDATES_MAX // 2 - 1]
        suspected = self.members.get(peer)
        if suspected is not None and suspected.state != State.ALIVE:
            told = [suspected, *told[:-1]]
        for member in told:
            member.tell_left = max(0, member.tell_left - 1)
            member.told_at = now
        return (self.own_update(), *(member.update() for member in told))

    def _retellings(self) -> int:
        return RETELL_FACTOR * max(1, len(self.members)).bit_length()


def is_trained(member: Member) -> bool:
    """Does it hold a state of the swarm: can it exchange, can it give state?"""
    return member.is_alive and member.status.phase in (Phase.TRAINING, Phase.SETTLING)
