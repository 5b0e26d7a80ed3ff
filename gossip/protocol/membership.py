"""Who is alive: SWIM with suspicion and incarnations (Das, Gupta, Motivala 2002).

Knows members, what they say of themselves and what is said about them. Probes go over open links
only; who those are is an argument. What others say about others is a hint: a reported death is no
more than a suspicion here, which our own probe confirms or the suspect refutes by raising its
incarnation. Direct contact wins: what a peer says of itself over its own link is taken as it is.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gossip.protocol.events import Effect, Emit, Send
from gossip.protocol.forgetting import GONE_KEPT, forgettable
from gossip.protocol.member import Member, is_trained
from gossip.protocol.messages import (
    UPDATES_MAX,
    Ack,
    Members,
    News,
    Ping,
    PingRequest,
    State,
    Status,
    Update,
)

__all__ = ["Member", "Membership", "is_trained"]

PROBE_INTERVAL_S = 1.0
PROBE_TIMEOUT_S = 0.6  # direct, then the same again through others: inside two intervals
INDIRECT_PROBES = 3
# From suspicion to death among up to 8; it grows with log(members) because a refutation has further to go.
# A crash is known this long after a broken connection, and where silence is all there is within 5 s: whoever has
# been silent longest is asked first, and a suspicion is told to all we are linked with at once. A node that pauses
# for 2 s is suspected after 1.2 s at the earliest, and has 1.7 s to refute.
SUSPICION_S = 2.5
# Our own tick comes later than this: we were stopped, or the machine is overloaded, and who did not answer us is
# not to blame.
LATE_S = 0.3
# Links are few, so a member may die while nobody is linked to it. The last resort: suspect one of whose
# status nothing new has come for this long. News of a member comes about every members/6 seconds, and the
# tail is long (64 nodes: 10 s on average, 44 s at worst of 4,032 pairs).
SILENT_S = 15.0
SILENT_S_PER_MEMBER = 4.0
INCARNATION_JUMP_MAX = 1_000  # of one we know; higher jumps are nonsense or malice: ignored
INCARNATION_MAX = 2**32 - 1  # what an update can say
REFUTED_MAX = INCARNATION_MAX - 2**20  # lies may drive us up to here; the rest is for restarts
REFUTE_EVERY_S = 0.1  # a liar that suspects us in a loop must not drive our incarnation up past that
MEMBERS_KNOWN_MAX = 4_096
PROBES_MAX = 64  # probes under way, those for others included
# Others in a message that has no news to tell: 0.9 kB per second and node at 64 nodes. With news it is filled.
STATUSES_PER_MESSAGE = 3
# A status number of any life is above all of the lives before: one life would have to speak this often.
STATUSES_PER_LIFE = 2**28
# How often one piece of news is retold. SWIM asks for a small multiple of log(members).
RETELL_FACTOR = 3


_Asker = tuple[bytes, int] | None  # who asked us to look, and under which number


@dataclass(slots=True)
class _Probe:
    target: bytes
    deadline: float
    helpers: tuple[bytes, ...] | None  # who looks for us; None while only the target is asked
    on_behalf_of: _Asker


class Membership:
    """The member table, and the probes that keep it true."""

    def __init__(self, key: bytes, address: str, rng: random.Random, incarnation: int = 0) -> None:
        self.key = key
        self.address = address
        self.incarnation = min(incarnation, INCARNATION_MAX)
        self.status = Status(sequence=self.incarnation * STATUSES_PER_LIFE)
        self.members: dict[bytes, Member] = {}
        self._rng = rng
        self._left = False
        self._probes: dict[int, _Probe] = {}
        self._probe_number = 0
        self._contact_at: dict[bytes, float] = {}  # linked peers: when we last heard from them, or asked
        self._next_probe_at = 0.0
        self._is_urgent = False  # we suspect somebody, as of now
        self._refute_again_at = -math.inf

    # -- What others ask of us -----------------------------------------------------------------------

    @property
    def probes(self) -> int:
        """How many probes are under way, those for others included."""
        return len(self._probes)

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

    def set_address(self, address: str) -> None:
        """We are reached elsewhere from now on ("": not at all). The incarnation carries it to those far away."""
        self.address = address
        self.incarnation = min(self.incarnation + 1, INCARNATION_MAX)

    def sample(self, count: int) -> Members:
        """Ourselves, then up to `count` others, the living first: what a joiner is told."""
        others = sorted(self.members.values(), key=lambda member: (member.state, member.key))
        living = [member for member in others if member.is_alive]
        if len(living) > count:
            others = self._rng.sample(living, count)
        return Members((self.own_update(), *(member.update() for member in others[:count])))

    def next_deadline(self) -> float:
        patience_s = self._suspicion_s()
        suspects = (m.since + patience_s for m in self.members.values() if m.state == State.SUSPECT)
        return min((self._next_probe_at, *suspects, *(probe.deadline for probe in self._probes.values())))

    # -- Inputs --------------------------------------------------------------------------------------

    def on_tick(self, now: float, linked: Iterable[bytes]) -> list[Effect]:
        effects: list[Effect] = []
        if now - self._next_probe_at > LATE_S:
            self._excuse(now - self._next_probe_at)
        for number, probe in list(self._probes.items()):
            if probe.deadline <= now:
                effects += self._on_probe_timeout(number, probe, now, linked)
        for member in list(self.members.values()):
            if member.state == State.SUSPECT and member.since + self._suspicion_s() <= now:
                effects += self._change(member, State.DEAD, now, "no answer, and nobody refuted the suspicion")
        if now >= self._next_probe_at:
            effects += self._suspect_the_silent(now)
            # Not in step with the others: four nodes that probe at the same instant see no more than one does.
            self._next_probe_at = now + PROBE_INTERVAL_S * self._rng.uniform(0.8, 1.2)
            effects += self._probe_next(now, linked)
            self._make_room(now)
        if self._is_urgent:
            self._is_urgent = False
            effects += self.tell_now(linked)
        return effects

    def on_heard(self, peer: bytes, now: float) -> list[Effect]:
        """Something came from `peer`, a payload maybe: a suspicion ends here."""
        self._contact_at[peer] = now
        is_suspect = peer in self.members and self.members[peer].state == State.SUSPECT
        return self._on_contact(peer, now) if is_suspect else []

    def on_link_up(self, peer: bytes) -> list[Effect]:
        """Introduce ourselves. A link is no membership: the peer is a member once it says so itself."""
        return [Send(peer, News(self._updates_for(peer)))]

    def on_link_closed(self, peer: bytes) -> list[Effect]:
        """No link, no answer: what we asked over it says nothing about the peer."""
        self._contact_at.pop(peer, None)
        self._probes = {n: probe for n, probe in self._probes.items() if probe.target != peer}
        return []

    def on_link_broken(self, peer: bytes, now: float, reason: str) -> list[Effect]:
        """A connection that ends without a word is the earliest sign of a crash: suspect, and let others look."""
        member = self.members.get(peer)
        if member is None or member.state != State.ALIVE:
            return []
        return self._suspect(member, now, f"link lost: {reason}")

    def on_ping(self, peer: bytes, message: Ping, now: float) -> list[Effect]:
        effects = self.on_updates(peer, message.updates, now)
        return [*effects, Send(peer, Ack(message.number, self._updates_for(peer) if message.updates else ()))]

    def on_ping_request(self, peer: bytes, message: PingRequest, now: float, linked: Iterable[bytes]) -> list[Effect]:
        effects = self.on_updates(peer, message.updates, now)
        if message.target in set(linked):
            effects += self._ping(message.target, now, on_behalf_of=(peer, message.number))
        return effects

    def on_ack(self, peer: bytes, message: Ack, now: float) -> list[Effect]:
        effects = self.on_updates(peer, message.updates, now)
        probe = self._probes.get(message.number)
        if probe is None:
            return effects
        if peer != probe.target and peer not in (probe.helpers or ()):
            return effects  # nobody asked it
        del self._probes[message.number]
        if probe.on_behalf_of is not None:
            asker, number = probe.on_behalf_of
            return [*effects, Send(asker, Ack(number, self._updates_for(asker)))]
        return effects + self._on_contact(probe.target, now)

    def on_updates(self, peer: bytes, updates: Sequence[Update], now: float) -> list[Effect]:
        """Merge what `peer` says of itself (taken) and of others (a hint)."""
        effects: list[Effect] = []
        for update in updates:
            if update.key == self.key:
                effects += self._on_said_of_me(update, now)
            elif update.key not in self.members:
                effects += self._learn(update, now, first_hand=update.key == peer)
            else:
                effects += self._merge(self.members[update.key], update, now, first_hand=update.key == peer)
        said_goodbye = any(update.key == peer and update.state == State.LEFT for update in updates)
        return effects if said_goodbye else effects + self._on_contact(peer, now)

    def leave(self, linked: Iterable[bytes]) -> list[Effect]:
        """Say goodbye to everybody we have a link with; they tell the others."""
        self._left = True
        return [Send(peer, News((self.own_update(),))) for peer in linked]

    def tell_now(self, linked: Iterable[bytes]) -> list[Effect]:
        """Spread our own record at once instead of with the next probes."""
        return [Send(peer, News(self._updates_for(peer))) for peer in linked]

    # -- Merging -------------------------------------------------------------------------------------

    def _on_said_of_me(self, update: Update, now: float) -> list[Effect]:
        """Somebody believes we are suspect, dead or gone, or remembers a former life: raise the incarnation."""
        is_past = update.incarnation < self.incarnation
        is_what_we_say = update.state == State.ALIVE and update.incarnation == self.incarnation
        if self._left or is_past or is_what_we_say or now < self._refute_again_at:
            return []
        if update.incarnation > min(self.incarnation + INCARNATION_JUMP_MAX, REFUTED_MAX):
            return [self._ignored(update)]
        self.incarnation = update.incarnation + 1
        self._refute_again_at = now + REFUTE_EVERY_S
        return [Emit("refuted", {"said": State(update.state).name.lower(), "incarnation": self.incarnation})]

    def _learn(self, update: Update, now: float, first_hand: bool) -> list[Effect]:
        if update.state >= State.DEAD and not first_hand and len(self.members) - len(self.alive()) >= GONE_KEPT:
            return []  # from somebody who has not forgotten it yet
        if len(self.members) >= MEMBERS_KNOWN_MAX:
            self._make_room(now, room_for=1)
        if len(self.members) >= MEMBERS_KNOWN_MAX:
            return [Emit("members_full", {"peer": update.key.hex()[:8]})]
        # The dead and the gone are learnt too: their samples belong to the swarm's clock.
        member = Member(
            update.key, update.address, update.incarnation, State(update.state), update.status, now,
            is_first_hand=first_hand, since=now, tell_left=self._retellings(),
        )  # fmt: skip
        self.members[update.key] = member
        why = "said so itself" if first_hand else "reported"
        fields = {"peer": member.key.hex()[:8], "address": member.address, "why": why}
        return [Emit("member_" + member.state.name.lower(), fields)]

    def _merge(self, member: Member, update: Update, now: float, first_hand: bool) -> list[Effect]:
        newer = update.incarnation > member.incarnation
        if not first_hand and update.incarnation > member.incarnation + INCARNATION_JUMP_MAX:
            return [self._ignored(update)]
        member.hear(update, now, first_hand)
        if first_hand or newer:
            member.address = update.address  # "" too: it has found out that nobody can dial it
        if update.incarnation == member.incarnation:
            return self._merge_state(member, update, now, first_hand)
        if not first_hand and not newer:
            return []
        # A higher incarnation, or a lower one said by the peer itself: what we held was never true of this life.
        member.incarnation = update.incarnation
        member.tell_left = self._retellings()
        return self._change(member, self._believed(update), now, "said so itself" if first_hand else "reported")

    def _merge_state(self, member: Member, update: Update, now: float, first_hand: bool) -> list[Effect]:
        """Same incarnation: the worse state wins, and nobody is called back from the dead."""
        state = self._believed(update)
        if state <= member.state or (state == State.LEFT and not first_hand and member.state == State.DEAD):
            return []
        return self._change(member, state, now, "said so itself" if first_hand else "reported")

    def _believed(self, update: Update) -> State:
        """Death is nothing one says of oneself, and from others no more than a suspicion."""
        return State.SUSPECT if update.state == State.DEAD else State(update.state)

    def _ignored(self, update: Update) -> Emit:
        return Emit("incarnation_ignored", {"peer": update.key.hex()[:8], "incarnation": update.incarnation})

    def _on_contact(self, peer: bytes, now: float) -> list[Effect]:
        """We hear from it: a suspicion ends here; others hear of it when the peer has refuted."""
        member = self.members.get(peer)
        if member is None or member.state == State.ALIVE:
            return []
        # It may not know that it was suspected: tell it, so that it raises its incarnation for everybody.
        tell = Send(peer, News((member.update(),)))
        if member.state != State.SUSPECT:
            return [tell]  # only its own higher incarnation brings it back
        return [tell, *self._change(member, State.ALIVE, now, "heard from it")]

    def _change(self, member: Member, state: State, now: float, why: str) -> list[Effect]:
        if member.state == state:
            return []
        member.state = state
        member.since = now
        member.tell_left = self._retellings()
        if state == State.SUSPECT:
            self._next_probe_at = now  # look for ourselves
        if state == State.DEAD and self._probes:
            self._probes = {n: probe for n, probe in self._probes.items() if probe.target != member.key}
        return [Emit("member_" + state.name.lower(), {"peer": member.key.hex()[:8], "why": why})]

    def _suspect(self, member: Member, now: float, why: str) -> list[Effect]:
        """By our own look. Told at once, so that all wait for its answer together, and it hears of it itself."""
        self._is_urgent = True
        return self._change(member, State.SUSPECT, now, why)

    def _excuse(self, late_s: float) -> None:
        """It was we who were away."""
        for probe in self._probes.values():
            probe.deadline += late_s
        for suspect in (member for member in self.members.values() if member.state == State.SUSPECT):
            suspect.since += late_s

    def _make_room(self, now: float, room_for: int = 0) -> None:
        for key in forgettable(self.members.values(), now, room_for) if len(self.members) > GONE_KEPT else ():
            del self.members[key]

    def _suspect_the_silent(self, now: float) -> list[Effect]:
        patience_s = SILENT_S + SILENT_S_PER_MEMBER * len(self.members)
        effects: list[Effect] = []
        for member in self.members.values():
            if member.state == State.ALIVE and now - member.heard_at > patience_s:
                member.heard_at = now  # one suspicion per silence
                effects += self._suspect(member, now, f"nothing new of it for {patience_s:.0f} s")
        return effects

    # -- Probing -------------------------------------------------------------------------------------

    def _probe_next(self, now: float, linked: Iterable[bytes]) -> list[Effect]:
        """Suspects first, then whoever has been silent longest; briefly a second one that has been quiet for a while.

        The dead and the unknown too, if a link leads there: their answer is what brings them back.
        """
        able = [p for p in linked if p not in self.members or self.members[p].state != State.LEFT]
        busy = {probe.target for probe in self._probes.values()}
        free = [peer for peer in able if peer not in busy]
        self._rng.shuffle(free)
        suspects = [peer for peer in free if peer in self.members and self.members[peer].state == State.SUSPECT]
        asked = heapq.nsmallest(2, suspects or free, key=lambda peer: self._contact_at.get(peer, -math.inf))
        if len(asked) == 2 and now - self._contact_at.get(asked[1], -math.inf) < PROBE_INTERVAL_S:
            del asked[1]
        return [effect for turn, peer in enumerate(asked) for effect in self._ping(peer, now, is_brief=turn > 0)]

    def _ping(self, target: bytes, now: float, *, on_behalf_of: _Asker = None, is_brief: bool = False) -> list[Effect]:
        if len(self._probes) >= PROBES_MAX:
            return [Emit("probe_skipped", {"peer": target.hex()[:8], "under_way": len(self._probes)})]
        self._contact_at[target] = now
        self._probe_number = (self._probe_number + 1) % 2**32
        self._probes[self._probe_number] = _Probe(target, now + PROBE_TIMEOUT_S, None, on_behalf_of)
        updates = () if is_brief else self._updates_for(target)
        return [Send(target, Ping(self._probe_number, updates))]

    def _on_probe_timeout(self, number: int, probe: _Probe, now: float, linked: Iterable[bytes]) -> list[Effect]:
        if probe.on_behalf_of is not None or probe.helpers is not None:
            del self._probes[number]
            member = self.members.get(probe.target)
            if probe.on_behalf_of is not None or member is None or member.state != State.ALIVE:
                return []
            return self._suspect(member, now, "no answer, directly or through others")
        able = [peer for peer in linked if peer != probe.target and self.is_alive(peer)]
        probe.helpers = tuple(self._rng.sample(able, min(INDIRECT_PROBES, len(able))))
        probe.deadline = now + PROBE_TIMEOUT_S
        return [Send(peer, PingRequest(number, probe.target, self._updates_for(peer))) for peer in probe.helpers]

    def _updates_for(self, peer: bytes) -> tuple[Update, ...]:
        """Ourselves, then changes still to be told (least told first), then statuses.

        Statuses are drawn: in any fixed order the same members would go to the same neighbours each time.
        """
        others = [member for member in self.members.values() if member.key != peer]
        news = heapq.nlargest(UPDATES_MAX - 1, (m for m in others if m.tell_left), key=lambda m: m.tell_left)
        rest = self._evenly([member for member in others if not member.tell_left])
        drawn = self._rng.sample(rest, min(len(rest), max(0, STATUSES_PER_MESSAGE - len(news))))
        told = news + drawn
        suspected = self.members.get(peer)
        if suspected is not None and suspected.state != State.ALIVE:
            told = [suspected, *told[: UPDATES_MAX - 2]]
        for member in told:
            member.tell_left = max(0, member.tell_left - 1)
        return (self.own_update(), *(member.update() for member in told))

    def _evenly(self, members: list[Member]) -> list[Member]:
        """No more of the gone than of the living: after a while there are far more of them."""
        gone = [member for member in members if not member.is_alive]
        alive = len(members) - len(gone)
        gone = gone if len(gone) <= alive else self._rng.sample(gone, alive)
        return [member for member in members if member.is_alive] + gone

    def _suspicion_s(self) -> float:
        return SUSPICION_S * max(1.0, math.log2(len(self.members) + 1) / 3)

    def _retellings(self) -> int:
        return RETELL_FACTOR * max(1, len(self.members)).bit_length()
