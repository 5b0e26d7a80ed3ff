"""The 8-16 open links, rotated slowly; probes and exchanges use them.

Fresh connections are dear (a CURVE handshake moves about 1 kB), so a node keeps a few open and
changes one now and then: over time that still mixes like random peers. Knows peers and addresses,
not sockets: dialing is an effect, and a link exists when LinkUp says so.

A link that is given up on purpose is announced first (Parting), because one that breaks without a
word is taken for a crash. Whoever was lost, a seed or a member declared dead, is dialed again for
ever, ever more rarely; those that were lost together, twice a second for ten minutes (severed.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gossip.protocol.events import DIAL_PATIENCE_S, Dial, Effect, Emit, HangUp, Send
from gossip.protocol.membership import Membership, is_trained
from gossip.protocol.messages import MembersRequest, Parting, State, Update
from gossip.protocol.reachability import Reachability
from gossip.protocol.severed import Severed
from gossip.protocol.twins import Twins
from gossip.protocol.views import Views
from gossip.protocol.wire_events import REPLACED

LINKS_WANTED = 8
LINKS_MAX = 16
ROTATE_EVERY_S = 30.0
LOOK_EVERY_S = 0.5
# Of two nodes that can reach each other the one with the lower key dials; the other waits this long
# before it dials too. Without that rule every pair of a small swarm opens two connections. A newcomer with
# hardly a link waits for nobody: it needs a second donor.
GRACE_S = 2.0
LINKS_FEW = 2
RETRY_FIRST_S = 0.5
RETRY_MAX_S = 30.0
LOST_EVERY_S = 2.0  # at most one dial to somebody lost per this time, however many are
RESEED_EVERY_S = 180.0  # a seed that said goodbye may be started again: somebody has to find it
# For the TCP connection, where there is another address to try or we shall be back in a moment.
CONNECT_QUICKLY_S = 1.0
# The same refusal of the same peer is told again after this long; strangers refused: so many remembered.
TELL_REFUSAL_AGAIN_S = 600.0
REFUSALS_TOLD_MAX = 1_024


@dataclass(slots=True)
class _Retry:
    not_before: float
    wait_s: float
    turn: int = 0  # which of its addresses is next


@dataclass(slots=True)
class _Told:
    code: str
    at: float
    since: int = 0  # the same again, untold


class Links:
    """Which peers we are connected to, and whom to dial next."""

    def __init__(self, membership: Membership, rng: random.Random) -> None:
        self._membership = membership
        self._rng = rng
        self.up: dict[bytes, float] = {}  # peer -> since when; without those we hung up on
        self.spared: Callable[[], list[bytes]] = list  # peers a state is on its way to or from: not to be rotated
        self._parting: dict[bytes, None] = {}  # their LinkDown will be no surprise
        self._seeds: dict[bytes, str] = {}
        self._dialing: dict[bytes, str] = {}
        self._retry: dict[bytes, _Retry] = {}
        self._severed = Severed(membership)
        self._twins = Twins()
        self._views = Views(membership)
        self.reachability = Reachability(membership, rng)
        self._told: dict[tuple[bytes, str], _Told] = {}
        self._rotate_at: float | None = None
        self._next_look_at = 0.0
        self._next_lost_at = 0.0

    def next_deadline(self) -> float:
        return self._next_look_at

    def look_soon(self, now: float) -> None:
        """There is news of members: do not wait for the next look."""
        self._next_look_at = min(self._next_look_at, now)

    def on_members(self, peer: bytes, updates: Iterable[Update], now: float) -> None:
        """`peer` says whom it knows: whoever is alive for it is dialed, however long it has been lost to us."""
        for lost in self._views.on_members(peer, updates):
            self._retry.pop(lost, None)
            self._next_lost_at = now
        self.look_soon(now)

    def dial_seed(self, peer: bytes, address: str) -> list[Effect]:
        """A ticket's seed: not a member yet, worth a link."""
        if peer == self._membership.key:
            return []  # a ticket of our own
        self._seeds[peer] = address
        return [] if peer in self.up or peer in self._dialing else [self._dial(peer, address)]

    def seek(self, peers: Iterable[bytes], now: float) -> list[Effect]:
        """Dial members somebody here needs now, beyond LINKS_WANTED; where a dial failed its back-off holds."""
        effects: list[Effect] = []
        for peer in peers:
            address, retry = self._membership.members[peer].address, self._retry.get(peer)
            may_dial = retry is None or retry.wait_s == RETRY_FIRST_S or now >= retry.not_before
            if address and may_dial and peer not in self.up and peer not in self._dialing:
                effects.append(self._dial(peer, address))
        return effects

    def on_link_up(self, peer: bytes, dialed: bool, now: float, address: str = "") -> list[Effect]:
        """`address`: where it was dialed, or where it says that it listens."""
        self._dialing.pop(peer, None)
        self._parting.pop(peer, None)
        self._retry.pop(peer, None)
        self._told = {place: told for place, told in self._told.items() if place[0] != peer}
        if peer in self.up:
            return []
        self.up[peer] = now
        effects: list[Effect] = [Emit("link_up", {"peer": peer.hex()[:8], "dialed": dialed})]
        effects += self.reachability.on_link_up(peer, dialed, address, now)
        member = self._membership.members.get(peer)
        if member is not None and member.state == State.DEAD:
            effects.append(Send(peer, MembersRequest()))  # back from the other half of a network: who else is there?
        return effects + self._drop_oldest(keep=peer) if len(self.up) > LINKS_MAX else effects

    def on_parting(self, peer: bytes) -> list[Effect]:
        """`peer` is about to close our link, and is well."""
        if peer in self.up:
            self._parting[peer] = None
        return []

    def on_link_down(self, peer: bytes, now: float, reason: str) -> list[Effect]:
        self._parting.pop(peer, None)
        self._dialing.pop(peer, None)
        self.reachability.on_link_down(peer)
        if self.up.pop(peer, None) is None:
            return []
        self._back_off(peer, now)
        effects: list[Effect] = [Emit("link_down", {"peer": peer.hex()[:8], "reason": reason})]
        return effects + self._twins.on_replaced(peer, now) if reason == REPLACED else effects

    def is_surprise(self, peer: bytes) -> bool:
        """Would the end of our link to `peer` be unannounced? Ask before `on_link_down`."""
        return peer in self.up and peer not in self._parting

    def on_link_refused(self, peer: bytes, address: str, code: str, reason: str, now: float) -> list[Effect]:
        if self._dialing.pop(peer, None) is not None:
            self._back_off(peer, now)
        told = self._told.get((peer, address))
        if told is not None and told.code == code and now < told.at + TELL_REFUSAL_AGAIN_S:
            told.since += 1  # the lost are dialed for ever: one line says it
            return []
        fields: dict[str, object] = {"peer": peer.hex()[:8], "address": address, "code": code, "reason": reason}
        if told is not None:
            fields |= {"is_known": told.code == code, "untold": told.since}
        self._told.pop((peer, address), None)
        self._told[peer, address] = _Told(code, now)
        if len(self._told) > REFUSALS_TOLD_MAX:
            del self._told[next(iter(self._told))]
        return [Emit("link_refused", fields)]

    def on_tick(self, now: float) -> list[Effect]:
        if now < self._next_look_at:
            return []
        self._next_look_at = now + LOOK_EVERY_S
        candidates = self._due(((m.key, m.address) for m in self._membership.alive()), now)
        missing = max(0, LINKS_WANTED - len(self.up) - len(self._dialing))
        effects: list[Effect] = [self._dial(peer, address) for peer, address in candidates[:missing]]
        if self._rotate_at is None or now >= self._rotate_at:
            if self._rotate_at is not None:
                effects += self._rotate(candidates[missing:])
                self._forget_strangers()
            self._rotate_at = now + ROTATE_EVERY_S * self._rng.uniform(0.5, 1.5)
        effects += self._views.on_tick(now, self.up) + self.reachability.on_tick(now) + self._severed.on_look(now)
        for peer, address in self._severed.next_of(self._undialed(self._severed.addresses()), now):
            effects.append(self._dial(peer, address, CONNECT_QUICKLY_S))
        if now >= self._next_lost_at:
            for peer, address in self._due(self._lost(), now)[:1]:
                self._next_lost_at = now + LOST_EVERY_S
                effects.append(self._dial(peer, address))
        return effects

    def hang_up(self, peer: bytes, reason: str) -> list[Effect]:
        """Close our link, politely: the peer keeps us for alive."""
        if self.up.pop(peer, None) is None:
            return []
        note = Emit("link_down", {"peer": peer.hex()[:8], "reason": reason})
        return [note, Send(peer, Parting()), HangUp(peer)]

    # -- How it is decided ---------------------------------------------------------------------------

    def _dial(self, peer: bytes, addresses: str, connect_s: float = DIAL_PATIENCE_S) -> Effect:
        """One of its addresses; after a refusal the next."""
        choices = addresses.split(",")
        turn = self._retry[peer].turn if peer in self._retry else 0
        address = choices[turn % len(choices)]
        self._dialing[peer] = addresses
        return Dial(peer, address, CONNECT_QUICKLY_S if len(choices) > 1 else connect_s)

    def _lost(self) -> list[tuple[bytes, str]]:
        """Seeds that are no members, and members that may be dead only as far as we can see."""
        members = self._membership.members
        dead = [(m.key, m.address) for m in members.values() if m.state == State.DEAD]
        gone = (peer for peer in self._seeds if peer not in members or members[peer].state == State.LEFT)
        return dead + [(peer, self._seeds[peer]) for peer in gone]

    def _undialed(self, known: Iterable[tuple[bytes, str]]) -> list[tuple[bytes, str]]:
        return [(p, address) for p, address in known if address and p not in self.up and p not in self._dialing]

    def _due(self, known: Iterable[tuple[bytes, str]], now: float) -> list[tuple[bytes, str]]:
        """Those worth a dial now, in random order."""
        found = []
        for peer, address in self._undialed(known):
            retry = self._retry.setdefault(peer, self._first_retry(peer, now))
            if now >= retry.not_before:
                found.append((peer, address))
        self._rng.shuffle(found)
        return found

    def _first_retry(self, peer: bytes, now: float) -> _Retry:
        if self._has_left(peer):
            return _Retry(now + RESEED_EVERY_S, RESEED_EVERY_S)
        we_wait = bool(self._membership.address) and peer < self._membership.key and len(self.up) >= LINKS_FEW
        return _Retry(now + (GRACE_S if we_wait else 0.0), RETRY_FIRST_S)

    def _back_off(self, peer: bytes, now: float) -> None:
        """Exponential, with jitter so that a healed network is not stormed by everybody at once.

        Of several addresses the next is tried at once; only after the last of them do we wait.
        """
        retry = self._retry.get(peer) or _Retry(now, RETRY_FIRST_S)
        member = self._membership.members.get(peer)
        addresses = self._seeds.get(peer, "") if member is None else member.address
        retry.turn += 1
        if retry.turn % len(addresses.split(",")) == 0:
            longest_s = RESEED_EVERY_S if self._has_left(peer) else RETRY_MAX_S
            retry.not_before = now + retry.wait_s * self._rng.uniform(0.5, 1.5)
            retry.wait_s = min(longest_s, 2 * retry.wait_s)
        self._retry[peer] = retry

    def _has_left(self, peer: bytes) -> bool:
        member = self._membership.members.get(peer)
        return member is not None and member.state == State.LEFT

    def _forget_strangers(self) -> None:
        """Whom the member table has forgotten, we forget too."""
        members = self._membership.members
        self._retry = {p: retry for p, retry in self._retry.items() if p in members or p in self._seeds}

    def _rotate(self, fresh: list[tuple[bytes, str]]) -> list[Effect]:
        """One new link for an old one, where there are more members than links."""
        if not fresh or len(self.up) < LINKS_WANTED:
            return []
        return [*self._drop_oldest(), self._dial(*fresh[0])]

    def _drop_oldest(self, keep: bytes | None = None) -> list[Effect]:
        """The oldest; but first those that can neither exchange nor get a state here, and never one that is spared.

        A storm of newcomers would otherwise push out the links training lives on, and each other before any is served.
        """
        spared, members = self.spared(), self._membership.members

        def worth(peer: bytes) -> tuple[bool, float, bytes]:
            return peer in members and is_trained(members[peer]), self.up[peer], peer

        return self.hang_up(min((p for p in self.up if p != keep and p not in spared), key=worth), "rotated")
