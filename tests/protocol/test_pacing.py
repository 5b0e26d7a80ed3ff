"""The rule of pace: what follows from delay, CPU, bytes and alarms, and how calmly it is followed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gossip.protocol.events import Emit, SendPayload, SetPeriod, StepsDone
from gossip.protocol.exchange import Exchanges
from gossip.protocol.messages import Header, PayloadKind
from gossip.protocol.node import NodeSettings
from gossip.protocol.pacing import RATIO, RATIO_MAX, Figures, Pacing, decide

PEER = b"p" * 32
# mnist-mlp on one core: a step of 0.4 ms, a side of a whole exchange 0.72 ms, 73 kB for offer and answer.
MLP = Figures(step_s=4e-4, step_cpu_s=4e-4, exchange_cpu_s=7.2e-4, round_trip_s=2e-3, whole_bytes=73_000)


def test_quick_links_and_slow_steps_have_the_densest_pace() -> None:
    """Half the model every 8 steps: what mnist-mlp was tuned to by hand; nothing is gained beyond it."""
    pace = decide(replace(MLP, step_s=0.05, step_cpu_s=0.05))
    assert (pace.every_steps, pace.blocks, pace.slots) == (8, 0.5, 1)


def test_cpu_never_asks_for_less_than_accuracy_needs() -> None:
    """By CPU alone it would be every 23 steps; there nodes with different digits lose about a point."""
    assert decide(MLP).every_steps == RATIO / 2


def test_a_long_way_sets_the_period() -> None:
    """H = D/2: an answer older than that is stale anyway; several exchanges are then open at once."""
    pace = decide(replace(MLP, step_s=0.01, step_cpu_s=0.01, round_trip_s=0.8))
    assert pace.every_steps == 20 and pace.blocks == 0.5 and pace.slots == 2 and "round trip" in pace.why


def test_a_large_model_goes_in_bodies_of_its_limit() -> None:
    """A body holds a megabyte: of ten million parameters an exchange offers a fifth, and more often."""
    pace = decide(replace(MLP, whole_bytes=7_300_000, step_s=0.05, step_cpu_s=0.05, exchange_cpu_s=0.0))
    assert 0.15 < pace.blocks < 0.25 and pace.every_steps <= 4


@pytest.mark.parametrize("round_trip_s", [0.0, 0.001, 0.1, 3.0, 100.0])
@pytest.mark.parametrize("step_s", [1e-4, 1e-2, 3.0, 60.0])
@pytest.mark.parametrize("cap", [math.inf, 1e9, 125_000, 1_000])
@pytest.mark.parametrize("window", [math.inf, 4_096])
@pytest.mark.parametrize("density", [1.0, 2.0])
def test_a_pace_is_always_within_its_limits(
    round_trip_s: float, step_s: float, cap: float, window: float, density: float
) -> None:
    """Whatever was measured: 1 to 512 steps, a share of the model, one to four slots; accuracy's bound if free."""
    figures = replace(
        MLP, step_s=step_s, step_cpu_s=step_s, round_trip_s=round_trip_s, cap_bytes_per_s=cap, window_bytes=window,
        density=density,
    )  # fmt: skip
    pace = decide(figures)
    assert 1 <= pace.every_steps <= 512 and 0 < pace.blocks <= 1 and 1 <= pace.slots <= 4 and pace.why
    if not pace.by_bytes:
        assert pace.every_steps / pace.blocks <= RATIO_MAX
    if cap < math.inf:
        assert pace.blocks * figures.whole_bytes <= max(0.2, pace.every_steps * step_s) * cap * 1.001


def test_what_is_pinned_stays_pinned() -> None:
    """Figures that would change everything change nothing the experiment says."""
    pace = decide(replace(MLP, round_trip_s=1.0, density=2.0), every_steps=8, blocks=0.5)
    assert (pace.every_steps, pace.blocks) == (8, 0.5)
    assert decide(MLP, every_steps=40).blocks == 0.5
    assert decide(MLP, blocks=0.25).every_steps == 0.25 * RATIO


def test_a_cap_makes_exchanges_small_and_lets_the_bucket_time_them() -> None:
    """1 mbit/s: an exchange takes 0.2 s of it, whatever the model and the step."""
    pace = decide(replace(MLP, cap_bytes_per_s=125_000))
    assert pace.by_bytes and pace.blocks * MLP.whole_bytes == pytest.approx(25_000) and pace.slots == 4
    assert not decide(replace(MLP, cap_bytes_per_s=1e9)).by_bytes


# -- Following the rule -------------------------------------------------------------------------------


def pacing(exchanges: Exchanges, **settings: object) -> Pacing:
    chosen: dict[str, object] = {
        "every_steps": 8, "blocks": 0.25, "is_every_free": True, "are_blocks_free": True, "parameters": 10**5,
        "key": PEER, "address": "", "seeds": (), "fragments": 1, "samples_total": 10**9, **settings,
    }  # fmt: skip
    paced = Pacing(exchanges, NodeSettings(**chosen))  # type: ignore[arg-type]
    paced.windows.ours.bytes = 1e6
    return paced


def run(paced: Pacing, step_s: float, seconds: float, begin_s: float = 0.0, **done: float) -> list[Emit]:
    """Reports for that long; the pacing events of it."""
    said, now, steps = [], begin_s, round(begin_s / step_s)
    while now < begin_s + seconds:
        steps, now = steps + 10, now + 10 * step_s
        effects = paced.on_steps(StepsDone(steps, 32 * steps, 1.0, step_s, step_s, step_s, **done), now)
        said += [effect for effect in effects if isinstance(effect, Emit)]
    return said


def test_a_pace_is_changed_once_and_explained() -> None:
    """Figures swing by a fifth all the time: no flapping, and the reason is in the log with its figures."""
    paced = pacing(Exchanges())
    (event,) = run(paced, 0.03, 20)  # the dense beginning: nothing is exchanged here, so it does not end
    assert event.name == "pacing" and event.fields["every_steps"] == paced.decision.every_steps == 4
    assert event.fields["step_s"] == 0.03 and "step" in event.fields["why"]
    assert run(paced, 0.036, 20, 20) == []


def test_slow_steps_are_reported_between_exchanges() -> None:
    """The swarm's clock counts by reports: a node that exchanges every 8 s still tells its samples each second."""
    paced = pacing(Exchanges(), is_every_free=False, are_blocks_free=False)
    effects = paced.on_steps(StepsDone(8, 256, 1.0, 1.0, 1.0), 8.0)
    assert SetPeriod(1) in effects and paced.decision.every_steps == 8


def test_an_alarm_doubles_the_blocks_and_goes_when_it_is_calm() -> None:
    """Peers that move apart lose each other: mix more, at once; and not for ever."""
    exchanges = Exchanges()
    exchanges.completed = 100  # the dense beginning is over
    paced = pacing(exchanges)
    paced._dense_until = 0
    run(paced, 0.03, 5)
    usual = paced.decision.every_steps
    (event,) = run(paced, 0.03, 5, 5, distance=0.25)
    assert event.fields["alarm"] and paced.decision.every_steps == usual / 2
    assert run(paced, 0.03, 5, 10, distance=0.15) == [] and paced.decision.every_steps == usual / 2
    run(paced, 0.03, 5, 15, distance=0.05)
    assert paced.decision.every_steps == usual


def test_a_debt_puts_an_exchange_off_until_it_is_paid() -> None:
    """Whoever was answered has to be paid for first; then the bucket's own moment begins the next exchange."""
    paced = pacing(Exchanges(), upload_bytes_per_s=10_000.0)
    run(paced, 0.03, 1)
    assert paced.is_due(1.1)
    paced.on_effects([SendPayload(PEER, Header(PayloadKind.ANSWER, 0, 1, 1), b"x" * 4_000)], 1.1)
    assert not paced.is_due(1.1) and 1.3 < paced.next_deadline() < 1.6 and paced.bucket.is_deep_in_debt(1.1)
    assert paced.is_due(paced.next_deadline() + 0.001)
