"""Ticket -> hello -> members -> state -> comparison -> training: a newcomer's way in.

The state comes as fragments: any fragment from any donor, two donors at a time, a lost donor's rest
from another. Whatever has come is kept for as long as the process lives. Donors train on meanwhile, so
the result is a patchwork on purpose (measured: mostly better than one donor's snapshot).

AUDITED fragments, drawn here and told to nobody, come from two donors. When all is loaded the trainer
looks at the state with and without what each donor gave (`trust`), and only what passes becomes ours:
until then a node is JOINING, gives nothing and exchanges nothing.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gossip.protocol.events import CompareDonors, DonorsCompared, Effect, Emit, LoadFragment, Send
from gossip.protocol.membership import Membership, is_trained
from gossip.protocol.messages import FragmentRequest, Header, MembersRequest, Update
from gossip.protocol.progress import Progress
from gossip.protocol.trust import liars

DONORS = 2
WINDOW = 3  # fragments asked of one donor at once: covers a round trip, bounds what it queues
AUDITED = 2
COPIES = 2  # of each of them
AUDIT_PATIENCE_S = 10.0  # a second donor that is busy for longer is not waited for
# Of a donor's silence: a first guess (a quarter of 1 Mbit/s), then from the time between its fragments (RFC 6298).
PATIENCE_FIRST_S = 5.0
PATIENCE_MIN_S = 1.0
PATIENCE_MAX_S = 60.0
REST_FIRST_S = 0.5  # how long a donor that refused or went silent is left alone, at first
REST_MAX_S = 10.0
LOOK_EVERY_S = 1.0  # whether there are donors, and second donors, still
LATE_MAX = 64  # fragments given up on that are still welcome
ASK_MEMBERS_FIRST_S = 1.0
ASK_MEMBERS_MAX_S = 10.0
# Without anybody alive who holds a state: a restart from a checkpoint comes back within a minute, and who has spent
# time on part of a state waits out a longer partition too.
ALONE_MAX_S = 60.0
ALONE_WITH_PART_MAX_S = 600.0
SAY_FIRST_S = 5.0
SAY_EVERY_S = 20.0


@dataclass(slots=True)
class _Giver:
    """How one member fares as our donor."""

    asked: dict[int, float] = field(default_factory=dict)  # fragment -> when, in that order
    progress_at: float = 0.0  # when something last came, or was first asked for
    patience_s: float = PATIENCE_FIRST_S
    fragment_s: float = 0.0  # smoothed time between its fragments, and deviation
    deviation_s: float = 0.0
    rest_until: float = -math.inf
    rest_s: float = REST_FIRST_S
    is_distrusted: bool = False

    def on_fragment(self, asked_at: float, now: float) -> None:
        """One came: measure (a first fragment from when it was asked for), and forgive."""
        seconds = now - max(asked_at, self.progress_at)
        if self.fragment_s == 0.0:
            self.fragment_s, self.deviation_s = seconds, seconds / 2
        else:
            self.deviation_s += (abs(seconds - self.fragment_s) - self.deviation_s) / 4
            self.fragment_s += (seconds - self.fragment_s) / 8
        patience_s = 2 * self.fragment_s + 4 * self.deviation_s
        self.patience_s = min(PATIENCE_MAX_S, max(PATIENCE_MIN_S, patience_s))
        self.progress_at, self.rest_until, self.rest_s = now, -math.inf, REST_FIRST_S

    def rest(self, now: float, rng: random.Random) -> None:
        """Leave it alone, twice as long each time; with jitter, or a storm comes back as one."""
        if self.rest_until <= now:
            self.rest_until = now + self.rest_s * rng.uniform(0.5, 1.5)
            self.rest_s = min(REST_MAX_S, 2 * self.rest_s)


class Joiner:
    """Collects the fragments of the swarm's state; `is_done` once they are compared and trusted."""

    def __init__(self, fragments: int, membership: Membership, rng: random.Random) -> None:
        self._membership = membership
        self._rng = rng
        self._audited = sorted(rng.sample(range(fragments), min(AUDITED, fragments)))
        self._missing = deque(index for index in range(fragments) if index not in self._audited)
        self._copies: list[list[bytes]] = [[] for _ in range(fragments)]  # who gave each fragment we have
        self._left = fragments  # without any copy yet
        self._loading: dict[tuple[bytes, int], None] = {}
        self._late: dict[tuple[bytes, int], None] = {}
        self._givers: dict[bytes, _Giver] = {}
        self._hinted: tuple[bytes, ...] = ()
        self._is_comparing = False
        self._complete_since = math.inf
        self._alone_since = math.inf
        self._say_at = math.inf
        self._ask_members_at = -math.inf
        self._ask_members_s = ASK_MEMBERS_FIRST_S
        self._ticked_at = -math.inf
        self.is_done = fragments == 0

    @property
    def donors(self) -> dict[bytes, int]:
        """Donor -> fragments it gave."""
        return dict(Counter(peer for copies in self._copies for peer in copies))

    def in_use(self) -> list[bytes]:
        """Donors that owe us something."""
        return [peer for peer, giver in self._givers.items() if giver.asked]

    def why_hopeless(self, progress: Progress, now: float, is_stopped: bool = False) -> str:
        """One sentence, where nobody will give us a state any more; "" while there is hope."""
        if self.is_done or self._alone_since == math.inf:
            return ""
        if progress.is_over or is_stopped:
            return "the run ended before this node had its state"
        has_part = self._left < len(self._copies)
        alone_s = now - self._alone_since
        if alone_s < (ALONE_WITH_PART_MAX_S if has_part else ALONE_MAX_S):
            return ""
        distrusted = sum(giver.is_distrusted for giver in self._givers.values())
        if distrusted:
            return f"no member gave a state better than an untrained one ({distrusted} tried, {alone_s:.0f} s waited)"
        return f"for {alone_s:.0f} s nobody alive in this swarm has held a state to give: join when a member has one"

    def next_deadline(self) -> float:
        if self.is_done:
            return math.inf
        silences = [giver.progress_at + giver.patience_s for giver in self._givers.values() if giver.asked]
        rests = [giver.rest_until for giver in self._givers.values() if giver.rest_until > self._ticked_at]
        return min((self._ticked_at + LOOK_EVERY_S, *silences, *rests))

    # -- Inputs --------------------------------------------------------------------------------------

    def on_tick(self, now: float, linked: Iterable[bytes]) -> list[Effect]:
        if self.is_done:
            return []
        self._ticked_at = now
        linked = list(linked)
        effects: list[Effect] = []
        for peer, giver in self._givers.items():
            if giver.asked and giver.progress_at + giver.patience_s <= now:
                effects += self._silent(peer, giver, now)
        return effects + self._ask_members(now, linked) + self._look_around(now) + self._go_on(now, linked)

    def on_link_up(self, peer: bytes, now: float, linked: Iterable[bytes]) -> list[Effect]:
        if self.is_done:
            return []
        knows_few = sum(map(self._may_give, self._membership.members)) < DONORS
        effects: list[Effect] = [Send(peer, MembersRequest())] if knows_few else []
        return effects + self._go_on(now, linked)

    def on_members(self, now: float, linked: Iterable[bytes]) -> list[Effect]:
        """There is news of members."""
        return [] if self.is_done else self._go_on(now, linked)

    def on_fragment(self, peer: bytes, header: Header, body: bytes, now: float) -> list[Effect]:
        index = header.number
        giver = self._givers.get(peer)
        was_asked = giver is not None and index in giver.asked
        is_late = (peer, index) in self._late
        self._late.pop((peer, index), None)
        effects = self._overtaken(peer, giver, index) if giver is not None and was_asked else []
        if giver is not None and was_asked:
            giver.on_fragment(giver.asked.pop(index), now)
        if not (was_asked or is_late) or not self._needs(peer, index):
            return [*effects, Emit("fragment_dropped", {"peer": peer.hex()[:8], "index": index})]
        if is_late and index in self._missing:
            self._missing.remove(index)
        if index not in self._audited:
            for other in self._givers.values():
                other.asked.pop(index, None)
        self._loading[peer, index] = None
        return [*effects, LoadFragment(peer, header, body, keep=index in self._audited)]

    def on_loaded(self, peer: bytes, index: int, now: float, linked: Iterable[bytes]) -> list[Effect]:
        if self._loading.pop((peer, index), self) is self:
            return []  # asked for by a joiner that gave up
        self._left -= not self._copies[index]
        self._copies[index].append(peer)
        return self._go_on(now, linked)

    def on_refusal(
        self, peer: bytes, index: int, code: str, others: Sequence[Update], now: float, linked: Iterable[bytes]
    ) -> list[Effect]:
        """others: whom the donor names in its place; membership has heard of them already."""
        if self.is_done:
            return []
        self._hinted = tuple(update.key for update in others)
        giver = self._givers.setdefault(peer, _Giver())
        if giver.asked.pop(index, None) is not None:
            self._miss(index)
        giver.rest(now, self._rng)
        return [Emit("donor_refused", {"peer": peer.hex()[:8], "code": code}), *self._go_on(now, linked)]

    def on_unreadable(self, peer: bytes, index: int, code: str, now: float) -> list[Effect]:
        if self._loading.pop((peer, index), self) is self:
            return []
        self._givers[peer].rest(now, self._rng)
        return self._lost(peer, index, code)

    def on_link_down(self, peer: bytes, now: float, linked: Iterable[bytes]) -> list[Effect]:
        """What it owed is free at once."""
        giver = self._givers.get(peer)
        if self.is_done or giver is None:
            return []
        asked, giver.asked = giver.asked, {}
        effects = [effect for index in asked for effect in self._lost(peer, index, "link lost")]
        return effects + self._go_on(now, linked)

    def on_compared(self, compared: DonorsCompared, now: float, linked: Iterable[bytes]) -> list[Effect]:
        if not self._is_comparing:
            return []
        self._is_comparing = False
        fields = {
            "losses": {entry.peer.hex()[:8]: _shown(entry.loss) for entry in compared.losses},
            "losses_without": {entry.peer.hex()[:8]: _shown(entry.loss_without) for entry in compared.losses},
            "loss_untrained": _shown(compared.untrained),
        }
        effects: list[Effect] = [Emit("donors_compared", fields)]
        distrusted = liars(compared)
        if not distrusted:
            self.is_done = True
            donors = {peer.hex()[:8]: count for peer, count in self.donors.items()}
            audited = [index for index in self._audited if len(self._copies[index]) == COPIES]
            return [*effects, Emit("state_received", {"donors": donors, "audited": len(audited)})]
        for entry in compared.losses:
            if entry.peer in distrusted:
                without = {"loss": _shown(entry.loss), "loss_without": _shown(entry.loss_without)}
                effects += self._distrust(entry.peer, without | {"loss_untrained": _shown(compared.untrained)})
        return effects + self._look_around(now) + self._go_on(now, linked)

    # -- Whom to ask, whom to dial -------------------------------------------------------------------

    def sought(self, now: float, linked: Iterable[bytes]) -> list[bytes]:
        """Members worth a link now: we have fewer donors than we could use. Those last named to us first."""
        if self.is_done or self._is_comparing:
            return []
        linked = dict.fromkeys(linked)
        short = DONORS - len([peer for peer in linked if self._is_able(peer, now) and self._has_use_for(peer)])
        if short <= 0:
            return []
        able = [
            peer for peer in self._membership.members
            if peer not in linked and self._is_able(peer, now) and self._wants(peer)
        ]  # fmt: skip
        self._rng.shuffle(able)
        return sorted(able, key=lambda peer: peer not in self._hinted)[:short]

    def _is_able(self, peer: bytes, now: float) -> bool:
        giver = self._givers.get(peer)
        return self._may_give(peer) and (giver is None or giver.rest_until <= now)

    def _may_give(self, peer: bytes) -> bool:
        giver, member = self._givers.get(peer), self._membership.members.get(peer)
        return member is not None and is_trained(member) and (giver is None or not giver.is_distrusted)

    def _has_use_for(self, peer: bytes) -> bool:
        giver = self._givers.get(peer)
        return self._wants(peer) or (giver is not None and bool(giver.asked))

    def _wants(self, peer: bytes) -> bool:
        return bool(self._missing) or any(self._wants_copy(peer, index) for index in self._audited)

    def _wants_copy(self, peer: bytes, index: int) -> bool:
        """A copy from `peer` of an audited fragment, those that are under way counted."""
        under_way = [giver for giver, owed in self._givers.items() if index in owed.asked]
        return len(under_way) + self._held(index) < COPIES and peer not in under_way and self._needs(peer, index)

    def _needs(self, peer: bytes, index: int) -> bool:
        is_here = peer in self._copies[index] or (peer, index) in self._loading
        wanted = COPIES if index in self._audited else 1
        return not self._is_comparing and not is_here and self._held(index) < wanted

    def _held(self, index: int) -> int:
        return len(self._copies[index]) + sum(loading == index for _, loading in self._loading)

    def _ask(self, now: float, linked: Iterable[bytes]) -> list[Effect]:
        """Fill the windows of up to DONORS trained members."""
        able = [peer for peer in linked if self._is_able(peer, now) and self._has_use_for(peer)]
        in_use = self.in_use()
        others = [peer for peer in able if peer not in in_use]
        self._rng.shuffle(others)
        donors = ([peer for peer in able if peer in in_use] + others)[:DONORS]
        effects: list[Effect] = []
        for turn in range(WINDOW * len(donors)):
            donor = donors[turn % len(donors)]
            giver = self._givers.setdefault(donor, _Giver())
            window = WINDOW if giver.fragment_s else 1  # the first tells whether it serves us
            if len(giver.asked) < window and self._wants(donor):
                copies = [index for index in self._audited if self._wants_copy(donor, index)]
                index = copies[0] if copies else self._missing.popleft()
                giver.progress_at = giver.progress_at if giver.asked else now
                giver.asked[index] = now
                effects.append(Send(donor, FragmentRequest(index)))
        return effects

    def _ask_members(self, now: float, linked: list[bytes]) -> list[Effect]:
        """Of one link, ever more rarely, and only while we know too few that hold a state: the reply is long."""
        if now < self._ask_members_at + self._ask_members_s:
            return []
        self._ask_members_at = now
        if not linked or sum(map(self._may_give, self._membership.members)) >= DONORS:
            return []
        self._ask_members_s = min(ASK_MEMBERS_MAX_S, 1.5 * self._ask_members_s)
        return [Send(self._rng.choice(linked), MembersRequest())]

    # -- How far we are ------------------------------------------------------------------------------

    def _go_on(self, now: float, linked: Iterable[bytes]) -> list[Effect]:
        """Compare if there is nothing more to come, else ask for what is missing."""
        if self._is_comparing or self.is_done:
            return []
        if self._loading or self._left:
            self._complete_since = math.inf
            return self._ask(now, linked)
        self._complete_since = min(self._complete_since, now)
        short = [index for index in self._audited if len(self._copies[index]) < COPIES]
        others = [peer for peer in self._membership.members if self._may_give(peer)]
        can_come = any(peer not in self._copies[index] for index in short for peer in others)
        if can_come and now < self._complete_since + AUDIT_PATIENCE_S:
            return self._ask(now, linked)
        self._is_comparing = True
        for giver in self._givers.values():
            giver.asked.clear()
        return [CompareDonors(tuple(self.donors))]

    def _look_around(self, now: float) -> list[Effect]:
        """Is anybody alive who could give us a state? If not, say so, and then again now and then."""
        if any(map(self._may_give, self._membership.members)):
            self._alone_since = self._say_at = math.inf
            return []
        if self._alone_since == math.inf:
            self._alone_since, self._say_at = now, now + SAY_FIRST_S
        if now < self._say_at:
            return []
        self._say_at = now + SAY_EVERY_S
        total = len(self._copies)
        fields = {"seconds": round(now - self._alone_since, 1), "fragments": total - self._left, "of": total}
        return [Emit("no_donor", fields)]

    def _silent(self, peer: bytes, giver: _Giver, now: float) -> list[Effect]:
        asked, giver.asked = giver.asked, {}
        giver.patience_s = min(PATIENCE_MAX_S, 2 * giver.patience_s)
        giver.rest(now, self._rng)
        for index in asked:
            self._still_welcome(peer, index)
        return [effect for index in asked for effect in self._lost(peer, index, "no answer in time")]

    def _overtaken(self, peer: bytes, giver: _Giver, index: int) -> list[Effect]:
        """A link keeps the order: what was asked before `index` and is not here was dropped on the way."""
        effects: list[Effect] = []
        for earlier in list(giver.asked):
            if earlier == index:
                break
            del giver.asked[earlier]
            self._still_welcome(peer, earlier)
            effects += self._lost(peer, earlier, "overtaken by a later one")
        return effects

    def _still_welcome(self, peer: bytes, index: int) -> None:
        self._late[peer, index] = None
        if len(self._late) > LATE_MAX:
            del self._late[next(iter(self._late))]

    def _miss(self, index: int) -> None:
        if index not in self._audited:
            self._missing.append(index)

    def _lost(self, peer: bytes, index: int, why: str) -> list[Effect]:
        self._miss(index)
        return [Emit("fragment_lost", {"peer": peer.hex()[:8], "index": index, "why": why})]

    def _distrust(self, peer: bytes, fields: dict[str, float | None]) -> list[Effect]:
        """Throw away what it gave, and never ask it again."""
        gone = [index for index, copies in enumerate(self._copies) if peer in copies]
        for index in gone:
            self._copies[index].remove(peer)
            if index not in self._audited:
                self._missing.append(index)
            self._left += not self._copies[index]
        self._givers[peer].is_distrusted = True
        self._complete_since = math.inf
        return [Emit("donor_distrusted", {"peer": peer.hex()[:8], "fragments": len(gone), **fields})]


def _shown(loss: float) -> float | None:
    return round(loss, 4) if math.isfinite(loss) else None
