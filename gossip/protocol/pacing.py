"""When and how much: every how many steps an exchange begins, and what share of the model it offers.

`decide` is the rule, a function of measured figures. Pacing gathers the figures, changes its mind only where that
is worth it, and says in words why. What the experiment pins stays pinned; a neighbour's pace may be another.

At equal bytes much rarely does better than little often, until blocks in flight are missed. Nodes with three digits
each, 2,000 steps, worst node (analysis/exchange_convergence.py), at a round trip of 2 and of 24 steps: all blocks every
20 steps 96.0 and 93.3 %, half every 8 steps 95.8 and 94.9, three tenths every 6 steps at 24: 94.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

from gossip.protocol.events import (
    Effect,
    Emit,
    Input,
    Mixed,
    PayloadReceived,
    PickBlocks,
    SendPayload,
    SetPeriod,
    StepsDone,
    Traffic,
)
from gossip.protocol.exchange import OPEN_MAX, Exchanges
from gossip.protocol.flow import Bucket
from gossip.protocol.messages import PayloadKind
from gossip.protocol.queues import lag
from gossip.protocol.windows import Windows
from gossip.protocol.wire_events import LinkDown

EVERY_MIN, EVERY_MAX = 2, 512
# every_steps / blocks: what we aim at, and where accuracy falls for nodes that hold different classes.
RATIO, RATIO_MAX = 16.0, 160.0
CPU_SHARE = 0.1  # of the trainer's time, for exchanges begun and answered
FIXED_SHARE = 0.25  # an exchange costs as if it held that much more of the model: measured 0.15 ms + 0.57 ms x blocks
BLOCKS_MIN, BLOCKS_USUAL = 0.05, 0.5
BODY_BYTES, OFFER_SHARE = 1_000_000, 0.7  # of an offer, and what offers are of all exchange bytes
CAP_S = 0.2  # under a cap one exchange takes at most this long of it
DENSE_EXCHANGES = 32  # at the start of a run and after a join: twice the blocks for so many exchanges
FAILED_SHARE_MAX, DISTANCE_MAX = 0.15, 0.2  # beyond either peers lose each other: twice the blocks
CALM = 0.5  # an alarm ends where both are below this part of it

CHANGE = 1.3  # a pace is kept until the rule asks for this much more or less
REASSESS_S = 1.0
REPORT_S = 0.5  # steps are reported at least this often: the swarm's clock counts by them
SLOW_PERIODS = 4  # who answers within so many periods is as good as anybody
LAST_CHOICE = 1e-6  # the weight of a peer whose line is full of our exchanges
RETRY_S = 0.001
SMOOTH = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a node has measured. 0 where it does not know yet."""

    step_s: float = 0.0
    step_cpu_s: float = 0.0  # of the trainer's thread
    exchange_cpu_s: float = 0.0  # of both threads, for one side of one exchange at blocks = 1
    round_trip_s: float = 0.0  # a typical peer's
    whole_bytes: float = 0.0  # offer and answer, at blocks = 1
    cap_bytes_per_s: float = math.inf
    window_bytes: float = math.inf
    is_line_slow: bool = False  # a queue was seen since the window was last wide enough
    density: float = 1.0  # 2 at the start, and while there is an alarm


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A pace."""

    every_steps: int
    blocks: float  # share of the model
    slots: int  # exchanges that may be open at once
    # True where bytes set the pace: an exchange then begins as soon as they allow one.
    by_bytes: bool = False
    why: str = ""


def decide(figures: Figures, every_steps: int | None = None, blocks: float | None = None) -> Decision:
    """The pace these figures ask for. every_steps, blocks: what the experiment pins, None for free.

    Half the blocks every RATIO / 2 steps, so that others are free to be offered while these are in flight. Delay: H is
    at least D/2, where D is the one-way delay in steps; fresher answers are not to be had. CPU: H so large that
    exchanges take CPU_SHARE, but never beyond RATIO. A cap, or a window, then limits the bytes of one exchange, and
    their sum by what Bucket and Window let through.
    """
    step_s = max(figures.step_s, 1e-9)
    delay_steps = figures.round_trip_s / 2 / step_s
    by_delay = delay_steps / 2
    by_cpu = _every_by_cpu(figures, blocks)
    if every_steps is None:
        densest = (blocks or _blocks_at_once(figures)) / figures.density
        usual = RATIO * densest
        affordable, fresh = min(by_cpu, RATIO * densest), min(by_delay, RATIO_MAX * densest)
        every = max(EVERY_MIN, min(EVERY_MAX, math.ceil(max(usual, affordable, fresh))))
        why = _why(figures, every, fresh, affordable)
    else:
        every, why = every_steps, f"every {every_steps} steps as the experiment says"
    share = blocks
    if share is None:
        share = min(_blocks_at_once(figures), max(BLOCKS_MIN, figures.density * every / RATIO))
    if figures.density > 1:
        why += f"; {figures.density:g} times as dense as usual"
    slots = max(1, min(OPEN_MAX, math.ceil(delay_steps / every)))
    paced = Decision(every_steps=every, blocks=share, slots=slots, why=why)
    return _within_window(_within_cap(paced, figures, every_steps), figures, blocks)


def _blocks_at_once(figures: Figures) -> float:
    """The share of the model one exchange offers: half, or what a body holds."""
    whole = OFFER_SHARE * figures.whole_bytes
    return min(BLOCKS_USUAL, BODY_BYTES / whole) if whole > 0 else BLOCKS_USUAL


def _every_by_cpu(figures: Figures, blocks: float | None) -> float:
    """Steps between exchanges that keep begun and answered ones within CPU_SHARE; blocks follow the steps if free."""
    step, cost = CPU_SHARE * figures.step_cpu_s, 2 * figures.exchange_cpu_s / (1 + FIXED_SHARE)
    if step <= 0:
        return EVERY_MIN
    if blocks is not None:
        return cost * (FIXED_SHARE + blocks) / step
    slope = cost * figures.density / RATIO
    every = cost * FIXED_SHARE / (step - slope) if step > slope else math.inf
    return every if every * figures.density < RATIO else cost * (FIXED_SHARE + 1) / step


def _why(figures: Figures, every: int, fresh: float, affordable: float) -> str:
    step, cost = f"a step of {_ms(figures.step_s)}", _ms(figures.exchange_cpu_s)
    if math.ceil(fresh) >= every:
        return f"every {every} steps: the round trip takes {_ms(figures.round_trip_s)}, {step}"
    if math.ceil(affordable) >= every and affordable < RATIO / figures.density:
        return f"every {every} steps: a side of a whole exchange costs {cost} of CPU, {step}"
    return f"every {every} steps, as accuracy asks: a round trip of {_ms(figures.round_trip_s)} is no limit"


def _within_cap(pace: Decision, figures: Figures, pinned: int | None) -> Decision:
    """Small exchanges, begun whenever the bucket allows, where the cap is below what the pace would send."""
    cap, size = figures.cap_bytes_per_s, pace.blocks * figures.whole_bytes
    every_s = pace.every_steps * figures.step_s
    if size <= 0 or size <= min(CAP_S, every_s) * cap:
        return pace
    blocks = min(pace.blocks, CAP_S * cap / figures.whole_bytes)
    if pinned is None and size > every_s * cap:
        blocks = min(1.0, CAP_S * cap / figures.whole_bytes)
    every_s = blocks * figures.whole_bytes / cap
    # Wanted well before the bucket allows it: a median step says little of the next, where others use the CPU too.
    half = min(int(every_s / figures.step_s / 2), math.ceil(min(_every_by_cpu(figures, blocks), RATIO)))
    every = pinned or max(EVERY_MIN, half)
    why = f"as often as {cap:,.0f} bytes a second allow: one exchange takes {every_s:.2f} s of them"
    return replace(pace, every_steps=every, blocks=blocks, slots=OPEN_MAX, by_bytes=True, why=why)


def _within_window(pace: Decision, figures: Figures, pinned: float | None) -> Decision:
    """More and smaller exchanges at once, begun when one comes home, where all together would fill a slow link."""
    size = pace.blocks * figures.whole_bytes
    slots = OPEN_MAX if figures.is_line_slow else pace.slots
    if slots * size <= figures.window_bytes:
        return replace(pace, slots=slots)
    if pinned is not None:
        slots = max(1, int(figures.window_bytes / size))
        return replace(pace, slots=slots, by_bytes=True)
    blocks = min(pace.blocks, figures.window_bytes / OPEN_MAX / figures.whole_bytes)
    every = max(EVERY_MIN, min(pace.every_steps, math.ceil(min(_every_by_cpu(figures, blocks), RATIO))))
    why = f"{figures.window_bytes:,.0f} bytes may be under way: more would only wait in a line that is full"
    return replace(pace, every_steps=every, blocks=blocks, slots=OPEN_MAX, by_bytes=True, why=why)


class PaceSettings(Protocol):
    """What NodeSettings say of pace."""

    @property
    def every_steps(self) -> int: ...  # pinned, or where "auto" (free) begins; blocks likewise
    @property
    def blocks(self) -> float: ...
    @property
    def is_every_free(self) -> bool: ...
    @property
    def are_blocks_free(self) -> bool: ...
    @property
    def parameters(self) -> int: ...  # of the model; 0 where only a body can tell its size
    @property
    def upload_bytes_per_s(self) -> float: ...


class Pacing:
    """One node's pace, and whether an exchange is due."""

    def __init__(self, exchanges: Exchanges, settings: PaceSettings) -> None:
        self.bucket = Bucket(settings.upload_bytes_per_s)
        self.windows = Windows()
        self.decision = Decision(every_steps=settings.every_steps, blocks=settings.blocks, slots=OPEN_MAX)
        self.figures = Figures(cap_bytes_per_s=settings.upload_bytes_per_s)
        self._pinned_every = None if settings.is_every_free else settings.every_steps
        self._pinned_blocks = None if settings.are_blocks_free else settings.blocks
        self._exchanges = exchanges
        self._offer_bytes = 0.5 * settings.parameters  # of the whole model
        self._answer_bytes = 0.25 * settings.parameters
        self._failed_share = 0.0
        self._has_alarm = False
        self._dense_until = DENSE_EXCHANGES
        self._cpu_before: tuple[float, int] | None = None
        self._cpu_per_exchange_s = 0.0
        self._period = settings.every_steps
        self._begun_at_step = 0
        self._is_wanted = False
        self._reassess_at = -math.inf
        self._retry_at = math.inf

    @property
    def every_s(self) -> float:
        """Time between two exchanges, as far as steps set it."""
        return self.decision.every_steps * self.figures.step_s

    # -- What has happened ---------------------------------------------------------------------------

    def on_start(self) -> None:
        """Training begins, here or again: denser at first."""
        self._dense_until = self._exchanges.completed + DENSE_EXCHANGES

    def on_steps(self, done: StepsDone, now: float) -> list[Effect]:
        """Another report of the trainer: is an exchange due, and is the pace still right?"""
        if done.steps - self._begun_at_step >= self.decision.every_steps:
            self._is_wanted = True
        if done.step_s <= 0 or now < self._reassess_at:
            return []
        self._reassess_at = now + REASSESS_S
        self._measure(done, now)
        return self._reassess(now)

    def on_input(self, event: Input, now: float) -> None:
        """Before the others act on it: an exchange that is complete is forgotten by them."""
        if isinstance(event, Traffic):
            self.bucket.on_traffic(event.bytes_sent, now)
        elif isinstance(event, LinkDown):
            self.windows.forget(event.peer)
        elif isinstance(event, PayloadReceived) and event.header.kind == PayloadKind.ANSWER:
            awaited = self._exchanges.awaited_from(event.peer, event.header.number)
            if awaited is not None:
                self._on_answer(event, *awaited, now)
        elif isinstance(event, Mixed) and self._exchanges.share_of(event.exchange_id) is not None:
            self._failed_share += SMOOTH * (event.failed / max(1, event.blocks) - self._failed_share)

    def on_effects(self, effects: list[Effect], now: float) -> None:
        """Payloads that go out: what they cost, and what an offer of the whole model would."""
        for effect in effects:
            if isinstance(effect, SendPayload):
                self.bucket.spend(len(effect.body), now)
                header = effect.header
                share = self._exchanges.share_of(header.number) if header.kind == PayloadKind.OFFER else None
                if share is not None:
                    self._offer_bytes = _learn(self._offer_bytes, len(effect.body) / share)

    # -- What is due -----------------------------------------------------------------------------------

    def is_due(self, now: float) -> bool:
        """Shall an exchange begin now? Where bytes set the pace it waits for them, and for a free slot."""
        self._retry_at = math.inf
        if not self._is_wanted:
            return False
        if not self.decision.by_bytes and not self.bucket.has_cap:
            return True
        if len(self._exchanges.open_with()) >= self.decision.slots:
            return False
        if self.bucket.has_cap:
            promised = self._exchanges.preparing * self._offer_bytes
            if self.bucket.balance(now) < promised:
                self._retry_at = max(now + RETRY_S, self.bucket.free_at(now, promised))
                return False
        return True

    def share_with(self, peer: bytes) -> float:
        """What an exchange offers now. On a slow line that follows the windows at once, without a new decision."""
        blocks, window = self.decision.blocks, self.windows.with_peer(peer)
        if self._pinned_blocks is not None:
            return blocks
        if self.decision.by_bytes:
            most = blocks if self.bucket.has_cap else min(1.0, CHANGE * blocks)
            blocks = min(most, self.windows.ours.bytes / OPEN_MAX / self._whole_bytes)
        elif not window.has_queued:
            return blocks
        at_once = math.ceil(OPEN_MAX / max(1, self.windows.peers))  # with one peer, as chance has it
        return min(blocks, window.bytes / at_once / self._whole_bytes)

    def weight_of(self, peer: bytes) -> float:
        """How often to choose a peer. One that needs many of our periods to answer holds our blocks all that time."""
        if self._exchanges.under_way_with(peer) * self._whole_bytes >= self.windows.with_peer(peer).bytes:
            return LAST_CHOICE
        round_trip_s = self._exchanges.round_trip_with(peer)
        if round_trip_s * self.every_s <= 0:
            return 1.0
        return max(LAST_CHOICE, min(1.0, SLOW_PERIODS * self.every_s / round_trip_s))

    def on_tried(self, effects: list[Effect], steps: int) -> list[Effect]:
        """What came of a try; `steps`: the trainer's, by its last report. The next try is the next report's."""
        self._is_wanted = False
        if any(isinstance(effect, PickBlocks) for effect in effects):
            self._begun_at_step = steps
        return effects

    def next_deadline(self) -> float:
        """When the bucket allows what it does not allow yet."""
        return self._retry_at

    # -- How it is decided ---------------------------------------------------------------------------

    @property
    def _whole_bytes(self) -> float:
        return self._offer_bytes + self._answer_bytes

    def _on_answer(self, event: PayloadReceived, sent_at: float, share: float, now: float) -> None:
        # About what our own answers to others' offers cost.
        self._answer_bytes = _learn(self._answer_bytes, len(event.body) / share)
        shares = self._exchanges.under_way, self._exchanges.under_way_with(event.peer)
        lags = event.header.lag, lag(event.header.sent_at, now)
        size, in_all, with_it = (part * self._whole_bytes for part in (share, *shares))
        self.windows.on_trip(event.peer, lags, now - sent_at, size, (in_all, with_it), now)

    def _measure(self, done: StepsDone, now: float) -> None:
        ended = self._exchanges.completed + self._exchanges.answered
        if self._cpu_before is not None and ended > self._cpu_before[1]:
            cost = (done.exchange_cpu_s - self._cpu_before[0]) / (ended - self._cpu_before[1])
            whole = cost * (1 + FIXED_SHARE) / (self.decision.blocks + FIXED_SHARE)
            self._cpu_per_exchange_s = _learn(self._cpu_per_exchange_s, whole)
        self._cpu_before = (done.exchange_cpu_s, ended)
        worst = max(self._failed_share / FAILED_SHARE_MAX, done.distance / DISTANCE_MAX)
        self._has_alarm = worst > (CALM if self._has_alarm else 1.0)
        is_dense = self._has_alarm or self._exchanges.completed < self._dense_until
        queued_s = self.windows.queues.ours_s(now) + self.windows.queues.theirs_typical_s()
        self.figures = Figures(
            step_s=_learn(self.figures.step_s, done.step_s, 0.3),
            step_cpu_s=_learn(self.figures.step_cpu_s, done.step_cpu_s or done.step_s, 0.3),
            exchange_cpu_s=self._cpu_per_exchange_s,
            round_trip_s=max(0.0, self._exchanges.round_trip_s - queued_s),  # a queue is our own making
            whole_bytes=self._whole_bytes,
            cap_bytes_per_s=self.bucket.bytes_per_s,
            window_bytes=self.windows.total_bytes,
            is_line_slow=self.windows.has_queued,
            density=2.0 if is_dense else 1.0,
        )

    def _reassess(self, now: float) -> list[Effect]:
        """Keep the pace unless the rule asks for a markedly different one; slots follow it at once."""
        wanted, before = decide(self.figures, self._pinned_every, self._pinned_blocks), self.decision
        is_same = (
            wanted.by_bytes == before.by_bytes
            and _are_close(wanted.every_steps, before.every_steps)
            and _are_close(wanted.blocks, before.blocks)
        )
        self.decision = replace(before, slots=wanted.slots) if is_same else wanted
        effects = self._set_period()
        if is_same:
            return effects
        fields = {
            "every_steps": wanted.every_steps, "blocks": round(wanted.blocks, 4), "slots": wanted.slots,
            "why": wanted.why, "step_s": round(self.figures.step_s, 6), "step_cpu_s": round(self.figures.step_cpu_s, 6),
            "exchange_cpu_s": round(self.figures.exchange_cpu_s, 6),
            "round_trip_s": round(self.figures.round_trip_s, 4), "exchange_bytes": round(self._whole_bytes),
            "queue_s": round(self.windows.queues.ours_s(now), 3),
            "peers_queue_s": round(self.windows.queues.theirs_typical_s(), 3),
            "failed_share": round(self._failed_share, 3), "alarm": self._has_alarm,
        }  # fmt: skip
        return [*effects, Emit("pacing", fields)]

    def _set_period(self) -> list[Effect]:
        """Report every H steps, or so many times in between that REPORT_S is kept."""
        every = self.decision.every_steps
        times = max(1, min(every, math.ceil(self.every_s / REPORT_S)))
        period = math.ceil(every / times)
        if period == self._period or (self._period < period and _are_close(period, self._period)):
            return []
        self._period = period
        return [SetPeriod(period)]


def _are_close(a: float, b: float) -> bool:
    return max(a, b) <= CHANGE * min(a, b)


def _learn(known: float, seen: float, weight: float = SMOOTH) -> float:
    return known + weight * (seen - known) if known > 0 else seen


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
