"""A node's life: joining -> training <-> paused -> settling -> done, and where the state comes from that it trains.

Decides when one phase ends and which comes next, and says so; `phase` is what others hear of us. Of links, members and
fragments it hears only what bears on that, and it gives the trainer nothing to do but to begin and to stop.
"""

from __future__ import annotations

import random

from gossip.protocol import events as ev
from gossip.protocol.commands import STOPPED, Commands
from gossip.protocol.joining import Joiner
from gossip.protocol.links import Links
from gossip.protocol.membership import Membership
from gossip.protocol.messages import MembersRequest, Phase
from gossip.protocol.pacing import Pacing
from gossip.protocol.progress import Progress
from gossip.protocol.resuming import Resuming, Source
from gossip.protocol.saving import Saving
from gossip.protocol.settings import NodeSettings
from gossip.protocol.settling import Settling

ADVICE = "a smaller learning rate may help"
THE_RUN_IS_OVER = "the run is over"  # then why
RAMP_EXCHANGES = 2  # a joiner's learning rate ramps up over this many exchange periods


class Lifecycle:
    """The phase of one node. JOINING until it holds a state: `start` first, then what happens to it."""

    def __init__(
        self,
        settings: NodeSettings,
        done: ev.StepsDone,
        membership: Membership,
        links: Links,
        progress: Progress,
        commands: Commands,
        saving: Saving,
        pacing: Pacing,
        rng: random.Random,
    ) -> None:
        """done: what a former life has done."""
        self.phase = Phase.JOINING
        self.done = done  # as far as the trainer has told us
        self.source = Source.OWN
        if settings.seeds:
            self.source = Source.UNDECIDED if settings.resumed else Source.SWARM
        self._settings = settings
        self._membership = membership
        self._links = links
        self._progress = progress
        self._commands = commands
        self._saving = saving
        self._pacing = pacing
        self._rng = rng
        self.joiner = self._new_joiner()
        self.resuming = Resuming(progress)
        self.settling = Settling(membership)
        self._has_trained = False
        self._ramp_steps = 0

    @property
    def has_state(self) -> bool:
        """Is there a whole state, ours or the swarm's, even though nobody may have stepped from it yet?"""
        return self.source != Source.SWARM or self.joiner.is_done

    @property
    def is_trained(self) -> bool:
        """Do we hold a state of the swarm: can we exchange, can we give state?"""
        return self.phase in (Phase.TRAINING, Phase.PAUSED, Phase.SETTLING)

    def next_deadline(self) -> float:
        return min(self.joiner.next_deadline(), self.resuming.next_deadline(), self.settling.next_deadline())

    # -- A state to begin with -----------------------------------------------------------------------

    def start(self, now: float) -> list[ev.Effect]:
        """Who knows nobody trains at once. All others' seeds are being dialed."""
        if self._settings.resumed:
            self.resuming.begin(self._settings.seeds, now)
        return self._start_training(now, ramp_steps=0) if self.source == Source.OWN else []

    def on_link_up(self, peer: bytes, now: float) -> list[ev.Effect]:
        effects = self.joiner.on_link_up(peer, now, self._links.up)
        return effects + [ev.Send(peer, MembersRequest())] * (self.resuming.is_open and self.source != Source.SWARM)

    def on_link_refused(self, peer: bytes, address: str, now: float) -> list[ev.Effect]:
        self.resuming.on_refused(peer, address)
        return self._choose(now)

    def on_members(self, peer: bytes, now: float) -> list[ev.Effect]:
        """`peer` has told us whom it knows."""
        self.resuming.on_members(peer)
        return self.joiner.on_members(now, self._links.up) + self._choose(now)

    def on_news(self, reading: tuple[float, float], now: float) -> list[ev.Effect]:
        """Somebody has spoken. reading: the clock as it was before."""
        is_under_way = self.source == Source.OWN and self.phase in (Phase.TRAINING, Phase.PAUSED)
        return self._take_the_swarms(now) if is_under_way and self.resuming.is_overtaken(reading) else []

    def on_donors_compared(self, event: ev.DonorsCompared, now: float) -> list[ev.Effect]:
        effects = self.joiner.on_compared(event, now, self._links.up)
        if not effects or not self.joiner.is_done:  # no effects: asked for by a joiner that was given up
            return effects
        return effects + self._start_training(now, RAMP_EXCHANGES * self._pacing.decision.every_steps)

    def _choose(self, now: float) -> list[ev.Effect]:
        """Our own state or the swarm's, where that is open."""
        if self.source != Source.UNDECIDED:
            return []
        self.source = self.resuming.choose(now)
        if self.source == Source.OWN:
            return self._start_training(now, ramp_steps=0)
        return self._take_the_swarms(now) if self.source == Source.SWARM else []

    def _take_the_swarms(self, now: float) -> list[ev.Effect]:
        """Be a joiner, who keeps its own state until it has the swarm's."""
        self.source = Source.SWARM
        self.joiner = self._new_joiner()
        there = self._progress.told() or self._progress.reading
        note = ev.Emit("far_behind", {"step": self.done.steps, "progress": round(self._progress.share(there), 4)})
        return [note, *self._step_back(now), ev.TakeFragments(), *self.joiner.on_tick(now, self._links.up)]

    def _step_back(self, now: float) -> list[ev.Effect]:
        """Who has begun already exchanges no more, gives nothing and saves nothing until it begins again."""
        if not self.is_trained:
            return []
        self._has_trained = False
        self._saving.suspend()
        self._progress.pause(now)
        self._enter(Phase.JOINING)
        return [ev.StopTraining(), *self._membership.tell_now(self._links.up)]

    def _go_on_alone(self, now: float) -> list[ev.Effect]:
        """Whoever was to give us the swarm's state is gone: ours has to do."""
        self.resuming.close()
        self.source = Source.OWN
        self.joiner = self._new_joiner()
        effects: list[ev.Effect] = [ev.Emit("state_given_up", {"why": "no donor is left"}), ev.DropFragments()]
        return effects + self._start_training(now, ramp_steps=0)

    def _new_joiner(self) -> Joiner:
        """Fit for where our state comes from: idle unless members give it."""
        fragments = self._settings.fragments if self.source == Source.SWARM else 0
        return Joiner(fragments, self._membership, self._rng)

    # -- Training and pauses -------------------------------------------------------------------------

    def obey(self, now: float) -> list[ev.Effect]:
        """Bring what we do to what the owner wants; nothing where it is so already."""
        commands, phase = self._commands, self.phase
        effects: list[ev.Effect] = []
        if commands.samples is not None:
            self._progress.samples_total = commands.samples
        if commands.learning_rate is not None:
            effects.append(ev.SetLearningRate(commands.learning_rate))
        if phase not in (Phase.TRAINING, Phase.PAUSED):
            return effects
        if commands.is_stopped:
            return effects + self._settle(now)
        if commands.is_paused:
            return effects + (self._pause(now) if phase == Phase.TRAINING else [])
        return effects + (self._step_on(now) if phase == Phase.PAUSED else [])

    def on_steps_done(self, event: ev.StepsDone, now: float) -> list[ev.Effect]:
        self.done = event
        self._progress.on_steps(event.samples, now)
        if self.phase != Phase.TRAINING:
            return []
        effects: list[ev.Effect] = [ev.SetProgress(self._progress.fraction)]
        if self._progress.look_is_due():
            effects.append(ev.Evaluate(full=False))
        return effects + self._settle(now) if self._progress.is_over else effects

    def _start_training(self, now: float, ramp_steps: int) -> list[ev.Effect]:
        """We hold a state of the swarm: step, unless its owner wants otherwise."""
        self._ramp_steps = ramp_steps
        self._saving.begin(now)
        self._progress.begin(self.done.samples, now)
        self._progress.pause(now)
        self._enter(Phase.PAUSED)
        effects = self.obey(now)
        return effects + self._say_paused() if self.phase == Phase.PAUSED else effects

    def _step_on(self, now: float) -> list[ev.Effect]:
        self._progress.resume(now)
        self._enter(Phase.TRAINING)
        self._pacing.on_start()
        progress = self._progress.fraction
        note = ev.Emit("resumed" if self._has_trained else "training", {"progress": round(progress, 4)})
        self._has_trained = True
        if self._progress.is_over:  # the others are settling: there is nothing left to step for
            return [note, *self._settle(now)]
        effects: list[ev.Effect] = [ev.SetProgress(progress), ev.StartTraining(self._ramp_steps), note]
        self._ramp_steps = 0  # after a pause there is nothing to be brought level
        return effects + self._membership.tell_now(self._links.up)

    def _pause(self, now: float) -> list[ev.Effect]:
        self._progress.pause(now)
        self._enter(Phase.PAUSED)
        return [ev.StopTraining(), *self._say_paused()]

    def _say_paused(self) -> list[ev.Effect]:
        note = ev.Emit("paused", {"step": self.done.steps, "samples": self.done.samples})
        return [note, *self._membership.tell_now(self._links.up)]

    # -- The end -------------------------------------------------------------------------------------

    def on_tick(self, now: float) -> list[ev.Effect]:
        effects: list[ev.Effect] = []
        if self.phase in (Phase.TRAINING, Phase.PAUSED) and self._progress.is_over:
            effects += self._settle(now)
        effects += self._choose(now)
        hopeless = self.joiner.why_hopeless(self._progress, now, self._commands.is_stopped)
        is_back = self._settings.resumed and not self.has_state
        if is_back and (hopeless or self.resuming.is_left_alone(bool(self._links.up), now)):
            return effects + self._go_on_alone(now)
        return effects + self.finish(hopeless, now) if hopeless else effects

    def on_settled(self, now: float) -> list[ev.Effect]:
        """All that could be agreed on is."""
        return self.finish(self._why_over(), now)

    def on_training_failed(self, event: ev.TrainingFailed, now: float) -> list[ev.Effect]:
        where = f", first in {event.where}" if event.where else ""
        return self.finish(f"the loss became {event.loss} at step {event.step}{where}; {ADVICE}", now)

    def finish(self, reason: str, now: float) -> list[ev.Effect]:
        """Say goodbye, whatever we were doing."""
        effects: list[ev.Effect] = [ev.StopTraining()] if self.phase == Phase.TRAINING else []
        self._progress.stop(now)
        self._enter(Phase.DONE)
        effects += self._membership.leave(self._links.up)
        return [*effects, ev.Emit("leaving", {"why": reason, "step": self.done.steps}), ev.Finish(reason)]

    def _settle(self, now: float) -> list[ev.Effect]:
        self._progress.stop(now)
        self._enter(Phase.SETTLING)
        self.settling.begin(now)
        note = ev.Emit("settling", {"step": self.done.steps, "samples": self.done.samples, "why": self._why_over()})
        return [ev.StopTraining(), note, *self._membership.tell_now(self._links.up)]

    def _why_over(self) -> str:
        return STOPPED if self._commands.is_stopped else f"{THE_RUN_IS_OVER}: {self._progress.end}"

    def _enter(self, phase: Phase) -> None:
        """A new phase; what we say of ourselves with it is exact, for the swarm's clock."""
        self.phase = phase
        self._membership.set_status(phase=phase, step=self.done.steps)
