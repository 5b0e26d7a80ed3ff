"""The swarm's clock: how many samples everybody together has trained on, and for how long, as one member reads it.

A grow-only sum: every member raises its own count, counts travel with membership, the dead and the gone keep
theirs. No server, no agreement; late news only make the sum late. Two rules keep one liar from moving it. Who claims
what nobody could have done is credited as an ordinary node, judged on totals, since late news make increments
bursty. And a clock that strays from the median of what the others read is drawn back to it, at most twice or half as
fast as the swarm trains, never back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gossip.protocol.membership import MEMBERS_KNOWN_MAX, Member, Membership, is_trained
from gossip.protocol.messages import COUNT_MAX, Phase

ADVANCE_EVERY_S = 0.1  # a recount looks at every member: not at every event of a busy node
# News of a member are 20 s old on average among 64 nodes, 80 s at worst: whoever is believed to be alive is believed to
# step. A death is known within seconds, so little is counted that was never trained on. With 30 s the clock of 64
# nodes ran 4-10 % late.
EXTRAPOLATE_MAX_S = 120.0
TIMELY_S = 3.0  # who is further off tells nothing by its time: its status is as old as its hearing
RELAY_MAX_S = 60.0  # how much older than its hearing a relayed status is believed to be, by its own run time
# Times the ordinary node: a member may be this much faster and is believed. The slack covers news that were late when
# we first heard of somebody; it is no multiple of the above, or a burst of lies could buy a quarter of an hour at once.
PLAUSIBLE = 32.0
SLACK_S = 30.0
DEAD_BAND_S = 0.5  # of the swarm's samples: clocks closer than this to the median go by their own sum
RUN_DEAD_BAND_S = 0.3  # what is first-hand is as old as a recount and a one-way delay
# Of the swarm's speed: so a clock goes back to its own sum once the median lets it. Without that what a median of late
# news took from everybody while a swarm of 64 formed was missing for good (2 % at 60 s; each one's own sum: 0.05 %).
RETURN = 0.1
MAJORITY = 3  # reports, of which one may be a lie
PLACE_S = 5.0  # so long a newcomer that knew fewer is silent on the clock, and jumps if it is as much as this off
SPEED_OVER_S = 5.0  # own speed is measured over this long: one period of a slow node says little


@dataclass(slots=True)
class _Entry:
    """What we hold of one other member's count."""

    base: float  # its count when our own clock began to count it
    met_at: float  # the ordinary node's samples (see SwarmClock._ordinary) at that moment
    credited: float = 0.0  # grow-only
    is_timely: bool = True  # what it says of the run's time, over its own link, is what we hold
    counted: float = 0.0  # the same and what it is believed to have done since: what it adds to our clock


class _Speed:
    """Our own samples per second, measured from one report of the trainer to another."""

    def __init__(self) -> None:
        self.guess = 0.0  # until measured
        self.samples = 0
        self._at = self._gap_s = 0.0
        self._has_counted = False
        self._anchors: deque[tuple[float, int]] = deque()

    def restart(self, samples: int, now: float) -> None:
        self.samples, self._at, self._gap_s = samples, now, 0.0
        self._anchors = deque([(now, samples)])

    def on_count(self, samples: int, now: float) -> None:
        self._has_counted = True
        self._gap_s, self._at, self.samples = now - self._at, now, samples
        while len(self._anchors) > 1 and self._anchors[1][0] <= now - SPEED_OVER_S:
            self._anchors.popleft()
        if not self._anchors or now - self._anchors[-1][0] >= SPEED_OVER_S / 10:
            self._anchors.append((now, samples))

    @property
    def is_measured(self) -> bool:
        return self._has_counted  # stays true over a pause: the guess is what was measured before it

    def per_s(self, now: float) -> float:
        """The last seconds' rate; it fades where the trainer has fallen silent."""
        if not self._anchors:
            return self.guess
        since, before = self._anchors[0]
        elapsed_s = self._at - since
        if elapsed_s <= 0:
            return self.guess
        is_silent = now - self._at > max(SPEED_OVER_S, 2 * elapsed_s)
        return (self.samples - before) / (now - since if is_silent else elapsed_s)

    def in_hand(self, now: float) -> float:
        """Samples trained on since the trainer's last report, as far as the period before tells."""
        return min(now - self._at, self._gap_s) * self.per_s(now)


class SwarmClock:
    """One member's reading. `begin` once it holds a state, then `advance` with time. Never goes back."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._speed = _Speed()
        self._entries: dict[bytes, _Entry] = {}
        self._samples = 0.0
        self._run_s = 0.0
        self._start = 0.0  # what the sum of own samples and entries is added to
        self._pulled = 0.0  # by the median, so far
        self._own_base = 0
        self._ordinary = 0.0  # samples an ordinary node would have done: the integral of the lower median rate
        self._ordinary_per_s = 0.0
        self._swarm_per_s = 0.0
        self._floor = (0.0, 0.0)  # samples and run time of an earlier life
        self.has_begun = False
        self._begun_at = 0.0
        self._begun_from = 0  # reports
        self.is_finding_its_place = False
        self._is_stepping = False
        self._paused_at: float | None = None
        self._resumed_at = -math.inf
        self._at = 0.0

    @property
    def samples(self) -> float:
        return self._samples

    @property
    def run_s(self) -> float:
        """How long the run has gone on, pauses left out."""
        return self._run_s

    def telling(self, now: float) -> dict[str, Any]:
        """What our status says of it; no samples of the swarm mean: no reading yet."""
        reading = 0 if self.is_finding_its_place else min(int(self._samples), COUNT_MAX)
        swarm = {"swarm_samples": reading, "run_s": self._run_s}
        if not self.has_begun:
            return swarm
        rate = self._speed.per_s(now) if self._is_stepping else 0.0
        return swarm | {"samples": self._speed.samples, "samples_per_s": min(rate, 1e11)}

    def told(self) -> tuple[float, float] | None:
        """Samples and run time as the members that hold a state read them, the lower medians; None without any."""
        trained = self._trained()
        if not trained:
            return None
        samples = _lower_median(member.status.swarm_samples for member in trained)
        return samples, _lower_median(member.status.run_s for member in trained)

    # -- Inputs ----------------------------------------------------------------------------------------

    def begin(self, own_samples: int, now: float) -> None:
        """We begin to step: from the lower median of what the trained members read, or from where we were.

        The very same reports are the entries' bases, so that nothing is counted twice. Who begins once more, with a
        newer state, goes not back either.
        """
        if self.has_begun:
            self._floor = self._samples, self._run_s
        self._speed.restart(own_samples, now)
        self._take_over(now)
        self.has_begun = self._is_stepping = True
        self.is_finding_its_place = 0 < self._begun_from < MAJORITY
        self._at = self._begun_at = now

    def _take_over(self, now: float) -> None:
        trained = self._trained()
        self._begun_from = len(trained)
        rates = self._rates(now, own=self.has_begun)
        told = [rate for rate in rates if rate > 0]
        self._speed.guess = _lower_median(told) if len(told) > 1 else 0.0  # one alone may lie, and we would repeat it
        self._ordinary_per_s = _lower_median(rates) if len(rates) > 1 else 0.0
        if trained:
            swarm_per_s = sum(map(self._believed_rate, trained))
            self._run_s = max(self._floor[1], self._run_s_of(trained, now))
            read = [m.status.swarm_samples + self._age_s(m, now) * swarm_per_s for m in trained]
            self._samples = max(self._floor[0], _lower_median(read))
            self._entries.clear()
            for member in self._membership.members.values():
                ahead = self._age_s(member, now) * self._believed_rate(member)
                base = member.status.samples + ahead if self._is_possible(member) else 0.0
                self._entries[member.key] = _Entry(base, self._ordinary)
        else:
            self._samples, self._run_s = self._floor
        self._start = self._samples - sum(entry.counted for entry in self._entries.values())
        self._pulled, self._own_base = 0.0, self._speed.samples

    def _find_place(self, now: float) -> None:
        """A newcomer that began by the word of one or two: one of them may lie, and others are still being met."""
        reports = self._trained()
        if len(reports) > self._begun_from:
            off_s = abs(self._run_s - self._run_s_of(reports, now))
            off = abs(self._samples - _lower_median(m.status.swarm_samples for m in reports))
            if off_s > PLACE_S or off > 2 * PLACE_S * self._swarm_per_s:
                self._take_over(now)
        self.is_finding_its_place = len(reports) < MAJORITY and now < self._begun_at + PLACE_S

    def on_steps(self, own_samples: int, now: float) -> None:
        self._speed.on_count(own_samples, now)

    def stop(self) -> None:
        """We step no more."""
        self._is_stepping = False

    def pause(self, now: float) -> None:
        """Neither samples of our own nor the run's time go on until `resume`."""
        self.advance(now, at_once=True)
        self._speed.guess = self._speed.per_s(now)
        self._is_stepping, self._paused_at = False, now

    def resume(self, now: float) -> None:
        if self._paused_at is None:
            return
        self.advance(now, at_once=True)
        self._speed.restart(self._speed.samples, now)
        self._is_stepping, self._paused_at, self._resumed_at = True, None, now

    def advance(self, now: float, at_once: bool = False) -> bool:
        """Recount, where it is time to. True if it was."""
        elapsed_s = now - self._at
        if elapsed_s < ADVANCE_EVERY_S and not at_once:
            return False
        self._at = now
        if not self.has_begun:
            self._listen()
            return True
        self._advance_run(elapsed_s, now)
        self._ordinary_per_s = _lower_median(self._rates(now, own=True))
        self._ordinary += elapsed_s * self._ordinary_per_s
        if self.is_finding_its_place:
            self._find_place(now)
        self._advance_samples(elapsed_s, now)
        return True

    # -- Samples ---------------------------------------------------------------------------------------

    def _advance_samples(self, elapsed_s: float, now: float) -> None:
        own = self._speed.samples - self._own_base
        total, swarm_per_s = float(own), 0.0
        if self._is_stepping:
            total += self._speed.in_hand(now)
            swarm_per_s += self._speed.per_s(now)
        read: list[tuple[Member, float]] = []
        for member in self._membership.members.values():
            age_s = self._age_s(member, now)
            self._count(member, age_s, elapsed_s, now)
            swarm_per_s += self._believed_rate(member)
            if has_reading(member):
                read.append((member, age_s))
        if len(self._entries) > MEMBERS_KNOWN_MAX:
            self._fold()
        total += sum(entry.counted for entry in self._entries.values())  # of a former life's members too
        here = max(self._samples, self._start + self._pulled + total)
        median = _lower_median((here, *(m.status.swarm_samples + age_s * swarm_per_s for m, age_s in read)))
        self._swarm_per_s = swarm_per_s
        done = swarm_per_s * elapsed_s
        pull = _pull(here, median, DEAD_BAND_S * swarm_per_s, done)
        self._pulled += pull or -math.copysign(min(abs(self._pulled), RETURN * done), self._pulled)
        self._samples = max(self._samples, self._start + self._pulled + total)

    def _count(self, member: Member, age_s: float, elapsed_s: float, now: float) -> None:
        """What this member adds to the clock, from what it says."""
        entry = self._entries.get(member.key)
        if entry is None and self._ordinary_per_s <= 0:
            return  # what is possible is not known yet, and nothing is lost: totals are judged
        if entry is None:
            # Its count began after ours, or else it is part of what our clock began with.
            is_old = member.status.samples > SLACK_S * self._ordinary_per_s and self._is_possible(member)
            base = float(member.status.samples) if is_old else 0.0
            entry = self._entries[member.key] = _Entry(base, self._ordinary)
        if member.is_first_hand:
            entry.is_timely = abs(member.status.run_s + now - member.heard_at - self._run_s) < TIMELY_S
        claimed = member.status.samples - entry.base
        limit = PLAUSIBLE * (self._ordinary - entry.met_at) + SLACK_S * self._ordinary_per_s
        if claimed <= max(limit, entry.credited):
            entry.credited = max(entry.credited, claimed)
            ahead = claimed + age_s * self._believed_rate(member)
            entry.counted = max(entry.credited, min(ahead, limit))
        else:
            if is_stepping(member):
                entry.credited += elapsed_s * self._ordinary_per_s
            entry.counted = entry.credited

    def _fold(self) -> None:
        """What forgotten members did stays in the sum, without their names; who comes back is counted from there on."""
        for key in [key for key in self._entries if key not in self._membership.members]:
            self._start += self._entries.pop(key).counted

    def _is_possible(self, member: Member) -> bool:
        """Could anybody have done in the whole run what this member claims?"""
        possible = PLAUSIBLE * self._ordinary_per_s * (self._run_s + SLACK_S)
        return member.status.samples <= possible or self._ordinary_per_s <= 0

    def _rates(self, now: float, own: bool) -> list[float]:
        """Who steps, how fast, as they say; nothing while our own speed is not known."""
        rates = [m.status.samples_per_s for m in self._membership.members.values() if is_stepping(m)]
        if own and self._is_stepping:
            rates = [rate for rate in (*rates, self._speed.per_s(now)) if rate > 0] if self._speed.is_measured else []
        return rates  # a newcomer has no speed of its own to hold against them: those that tell none count too

    def _trained(self) -> list[Member]:
        return [m for m in self._membership.members.values() if has_reading(m)]

    def _believed_rate(self, member: Member) -> float:
        if not is_stepping(member):
            return 0.0
        rate = member.status.samples_per_s
        return rate if rate <= PLAUSIBLE * self._ordinary_per_s else self._ordinary_per_s

    def _age_s(self, member: Member, now: float) -> float:
        """How old its status is: since we heard it, or by the run's time where it came through others."""
        heard_s = max(0.0, now - member.heard_at)
        entry = self._entries.get(member.key)
        if member.is_first_hand or (entry is not None and not entry.is_timely):
            return min(EXTRAPOLATE_MAX_S, heard_s)
        said_s = min(self._run_s - member.status.run_s, heard_s + RELAY_MAX_S)
        return min(EXTRAPOLATE_MAX_S, max(heard_s, said_s))

    def _listen(self) -> None:
        """No clock of our own yet: what those who have one read, or had read when they left. Nothing of it stays."""
        known = [member for member in self._membership.members.values() if member.status.phase != Phase.JOINING]
        trained = self._trained()
        self._samples = max(self._floor[0], _lower_median(m.status.swarm_samples for m in trained or known))
        self._run_s = max(self._floor[1], _lower_median(m.status.run_s for m in trained or known))

    # -- Time ------------------------------------------------------------------------------------------

    @staticmethod
    def _run_s_of(members: list[Member], now: float) -> float:
        """The lower median of those who speak to us themselves; where they are few, the upper quartile of all: relayed
        news are late, which only makes them smaller."""
        first_hand = [member for member in members if member.is_first_hand]
        if len(first_hand) >= MAJORITY:
            return _lower_median(member.status.run_s + now - member.heard_at for member in first_hand)
        told = sorted(member.status.run_s + now - member.heard_at for member in members)
        return told[3 * (len(told) - 1) // 4]

    def _advance_run(self, elapsed_s: float, now: float) -> None:
        """Seconds pass alike for all: only who speaks to us itself is asked, relayed news are old."""
        if self._paused_at is not None:
            return
        here = self._run_s + elapsed_s
        read = [
            member.status.run_s + now - member.heard_at for member in self._trained()
            if member.is_first_hand and member.heard_at > self._resumed_at
        ]  # fmt: skip
        pull = _pull(here, _lower_median((here, *read)), RUN_DEAD_BAND_S, elapsed_s)
        self._run_s = max(self._run_s, here + pull)

    # -- Checkpoints -----------------------------------------------------------------------------------

    def notes(self) -> dict[str, Any]:
        """All that a later life must know; plain numbers."""
        return {
            "samples": self._samples, "run_s": self._run_s, "ordinary": self._ordinary,
            "entries": {
                key.hex(): [e.base, e.met_at, e.credited, e.is_timely, e.counted] for key, e in self._entries.items()
            },
        }  # fmt: skip

    def restore(self, notes: Mapping[str, Any]) -> None:
        """Before `begin`. Raises KeyError, TypeError or ValueError where `notes` are not ours."""
        entries = {bytes.fromhex(key): _Entry(*entry) for key, entry in notes["entries"].items()}
        self._floor = self._samples, self._run_s = float(notes["samples"]), float(notes["run_s"])
        self._ordinary, self._entries = float(notes["ordinary"]), entries


def is_stepping(member: Member) -> bool:
    return member.is_alive and member.status.phase == Phase.TRAINING


def has_reading(member: Member) -> bool:
    """Does its reading of the clock count? Not while it still finds its place: it might pass on a liar's."""
    return is_trained(member) and member.status.swarm_samples > 0


def _pull(here: float, median: float, band: float, progress: float) -> float:
    """What to add so that `here` nears `median`: as much again as our progress where behind, minus half where ahead."""
    if median > here + band:
        return min(median - band - here, progress)
    if median < here - band:
        return -min(here - band - median, 0.5 * progress)
    return 0.0


def _lower_median(values: Iterable[float]) -> float:
    """Of an even number the lower one: of two, a liar that claims much moves nothing. 0 of none."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2] if ordered else 0.0
