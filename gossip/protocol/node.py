"""Node.handle(input, now) -> effects: one node of the swarm, as a pure function of its inputs.

Only routes: what is decided is decided in membership, links, partners, exchange, joining, lifecycle and
others, and each of those can be read and tested alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from gossip.protocol import events as ev
from gossip.protocol import messages as msg
from gossip.protocol.batching import Batching
from gossip.protocol.commands import Commands
from gossip.protocol.donating import Donor
from gossip.protocol.exchange import Exchanges
from gossip.protocol.joining import Joiner
from gossip.protocol.lifecycle import Lifecycle
from gossip.protocol.links import LINKS_MAX, Links
from gossip.protocol.membership import Membership
from gossip.protocol.memory import Memory
from gossip.protocol.messages import Phase, State
from gossip.protocol.momentum import momentum_is_wanted
from gossip.protocol.pacing import Pacing
from gossip.protocol.partners import Partners
from gossip.protocol.progress import Progress
from gossip.protocol.reporting import Reports
from gossip.protocol.resuming import Resumed
from gossip.protocol.saving import Saving
from gossip.protocol.settings import NodeSettings
from gossip.protocol.wire_events import AddressTried, LinkDown, LinkRefused, LinkUp


class Node:
    """All the machines of one node, and the wiring between them."""

    def __init__(self, settings: NodeSettings, rng: random.Random) -> None:
        self.settings = settings
        self._rng = rng
        self.membership = Membership(settings.key, settings.address, rng, settings.incarnation)
        self.links = Links(self.membership, rng)
        self.partners = Partners(self.membership, rng)
        self.exchanges = Exchanges(settings.incarnation, first_id=rng.getrandbits(31))
        self.pacing = Pacing(self.exchanges, settings)
        self.batching = Batching(self.membership, settings.batch) if settings.is_batch_free else None
        self.donor = Donor(settings.fragments, settings.incarnation, self.membership, rng)
        self.progress = Progress(
            self.membership, settings.samples_total, settings.time_s, settings.target_accuracy, settings.plateau
        )
        self.commands = Commands(self.membership)
        self.saving = Saving(settings.checkpoint_every_s)
        self.reports = Reports(self.membership, self.links, self.exchanges, self.progress)
        self._memory = Memory(self.membership, self.progress, self.exchanges, self.commands, self.batching)
        done = self._memory.restore(settings.resumed or Resumed())
        self.life = Lifecycle(
            settings, done, self.membership, self.links, self.progress, self.commands, self.saving, self.pacing, rng
        )
        self.links.spared = lambda: [*self.joiner.in_use(), *self.donor.joiners]
        self._handlers: dict[type, Callable[[Any, float], list[ev.Effect]]] = {
            LinkUp: self._on_link_up,
            AddressTried: lambda e, now: self.links.reachability.on_tried(e),
            LinkDown: self._on_link_down,
            LinkRefused: self._on_link_refused,
            ev.MessageReceived: self._on_message_received,
            ev.PayloadReceived: self._on_payload,
            ev.PayloadUnreadable: self._on_unreadable,
            ev.Tick: self._on_tick,
            ev.StepsDone: self._on_steps_done,
            ev.OfferReady: lambda e, now: self.exchanges.on_offer_ready(
                e.exchange_id, e.body, self.life.done.steps, now
            ),
            ev.AnswerReady: lambda e, now: self.exchanges.on_answer_ready(
                e.peer, e.exchange_id, e.body, e.blocks, e.failed, self.life.done.steps, now, e.momentum_mixed
            ),
            ev.Mixed: lambda e, now: self.exchanges.on_mixed(e.exchange_id, e.blocks, e.failed, now, e.momentum_mixed),
            ev.FragmentReady: lambda e, now: self.donor.on_ready(e.peer, e.index, e.body, self.life.done.steps),
            ev.FragmentLoaded: lambda e, now: self.joiner.on_loaded(e.peer, e.index, now, self.links.up),
            ev.DonorsCompared: self.life.on_donors_compared,
            ev.Evaluated: self._on_evaluated,
            ev.TrainingFailed: self.life.on_training_failed,
            ev.Traffic: lambda e, now: self.reports.on_traffic(e, self.phase, self.life.done, now),
            ev.CheckpointSaved: lambda e, now: self.saving.on_saved(e),
            ev.CheckpointFailed: lambda e, now: self.saving.on_failed(e),
            ev.StopRequested: lambda e, now: self.life.finish(e.reason, now),
        }

    @property
    def phase(self) -> Phase:
        return self.life.phase

    @property
    def joiner(self) -> Joiner:
        return self.life.joiner

    def handle(self, event: ev.Input, now: float) -> list[ev.Effect]:
        """What to do about `event`. After Finish every input is answered with nothing."""
        if self.phase == Phase.DONE:
            return []
        self.pacing.on_input(event, now)
        effects = self._handlers[type(event)](event, now)
        self.pacing.on_effects(effects, now)
        return effects + self._exchange_if_due(now)

    def start(self, now: float) -> list[ev.Effect]:
        """The first effects of a node's life: train at once, or dial the seeds."""
        effects = self.life.start(now)
        return effects + [e for key, address in self.settings.seeds for e in self.links.dial_seed(key, address)]

    def next_deadline(self) -> float:
        """When the next Tick is due, at the latest."""
        if self.phase == Phase.DONE:
            return math.inf
        machines = (
            self.membership, self.links, self.exchanges, self.life, self.reports, self.saving, self.pacing
        )  # fmt: skip
        return min(machine.next_deadline() for machine in machines)

    def notes(self, now: float) -> dict[str, Any]:
        """What this node wants to know again after a restart, as plain JSON: goes into its checkpoints."""
        self.progress.advance(now, at_once=True)  # what the clock lags behind would be lost at every restart
        return self._memory.notes()

    # -- Network -------------------------------------------------------------------------------------

    def _on_link_up(self, event: LinkUp, now: float) -> list[ev.Effect]:
        effects = self.membership.on_link_up(event.peer)
        if len(self.links.up) >= LINKS_MAX and self.life.is_trained:
            effects += self.donor.point_elsewhere(event.peer)
        effects += self.links.on_link_up(event.peer, event.dialed, now, event.address)
        effects += self.life.on_link_up(event.peer, now)
        return effects + self.commands.on_link_up(event.peer, now)

    def _on_link_refused(self, event: LinkRefused, now: float) -> list[ev.Effect]:
        effects = self.links.on_link_refused(event.peer, event.address, event.code, event.reason, now)
        return effects + self.life.on_link_refused(event.peer, event.address, now)

    def _on_link_down(self, event: LinkDown, now: float) -> list[ev.Effect]:
        effects: list[ev.Effect] = []
        if self.links.is_surprise(event.peer):
            effects += self.membership.on_link_broken(event.peer, now, event.reason)
        effects += self.membership.on_link_closed(event.peer)
        effects += self.links.on_link_down(event.peer, now, event.reason)
        effects += self.exchanges.on_link_down(event.peer)
        self.commands.on_link_down(event.peer)
        self.donor.on_link_down(event.peer)
        return effects + self.joiner.on_link_down(event.peer, now, self.links.up)

    def _on_message_received(self, event: ev.MessageReceived, now: float) -> list[ev.Effect]:
        self.progress.advance(now)  # what we answer tells the clock as it is now
        before, reading = self.membership.incarnation, self.progress.reading
        effects = self.membership.on_heard(event.peer, now)
        effects += self._on_message(event.peer, event.message, now)
        effects += self.life.on_news(reading, now)
        if self.membership.incarnation != before:  # a suspicion of us is refuted: that cannot wait
            effects += self.membership.tell_now(self.links.up)
        return effects + (self.commands.on_contact(event.peer, now) if event.peer in self.links.up else [])

    def _on_message(self, peer: bytes, message: msg.Message, now: float) -> list[ev.Effect]:
        linked = self.links.up
        match message:
            case msg.Ping() as ping:
                return self.membership.on_ping(peer, ping, now)
            case msg.Ack() as ack:
                return self.membership.on_ack(peer, ack, now)
            case msg.PingRequest() as request:
                return self.membership.on_ping_request(peer, request, now, linked)
            case msg.News(updates):
                return self._on_updates(peer, updates, now)
            case msg.MembersRequest():
                return [ev.Send(peer, self.membership.sample(msg.MEMBERS_MAX - 1))]
            case msg.Parting():
                return self.links.on_parting(peer)
            case msg.Members(updates):
                self.links.on_members(peer, updates, now)
                return self._on_updates(peer, updates, now) + self.life.on_members(peer, now)
            case msg.DialBackRequest() | msg.DialBack():
                return self.links.reachability.on_message(peer, message, now)
            case msg.FragmentRequest(index):
                in_debt = self.pacing.bucket.is_deep_in_debt(now)
                return self.donor.on_request(peer, index, self.life.is_trained, now, in_debt)
            case msg.Command() as command:
                return self._on_command(peer, command, now)
            case msg.Refusal(msg.PayloadKind.OFFER, number, code):
                return self.exchanges.on_refusal(peer, number, code)
            case msg.Refusal(msg.PayloadKind.FRAGMENT, number, code, others):
                effects = self._on_updates(peer, others, now)
                effects += self.joiner.on_refusal(peer, number, code, others, now, linked)
                return effects + self.links.seek(self.joiner.sought(now, linked), now)
        return []

    def _on_updates(self, peer: bytes, updates: tuple[msg.Update, ...], now: float) -> list[ev.Effect]:
        effects = self.membership.on_updates(peer, updates, now)
        if any(update.key == peer and update.state == State.LEFT for update in updates):
            effects += self.links.hang_up(peer, "it left")
        return effects

    def _on_payload(self, event: ev.PayloadReceived, now: float) -> list[ev.Effect]:
        peer, header, body = event.peer, event.header, event.body
        effects = self.membership.on_heard(peer, now)
        if header.kind == msg.PayloadKind.OFFER:
            in_debt = self.pacing.bucket.is_deep_in_debt(now)
            return effects + self.exchanges.on_offer(peer, header, body, now, self.life.is_trained, in_debt)
        if header.kind == msg.PayloadKind.ANSWER:
            return effects + self.exchanges.on_answer(peer, header, body)
        return effects + self.joiner.on_fragment(peer, header, body, now)

    def _on_unreadable(self, event: ev.PayloadUnreadable, now: float) -> list[ev.Effect]:
        number, kind = event.header.number, event.header.kind
        note = ev.Emit("payload_unreadable", {"peer": event.peer.hex()[:8], "code": event.code, "why": event.reason})
        if kind == msg.PayloadKind.OFFER:
            return [note, *self.exchanges.on_offer_unreadable(event.peer, number, event.code)]
        if kind == msg.PayloadKind.ANSWER:
            return [note, *self.exchanges.on_unreadable(number, event.code)]
        return [note, *self.joiner.on_unreadable(event.peer, number, event.code, now)]

    # -- Training ------------------------------------------------------------------------------------

    def _on_command(self, peer: bytes, command: msg.Command, now: float) -> list[ev.Effect]:
        is_news = self.commands.is_news(command)
        effects = self.commands.on_command(peer, command, now, self.links.up)
        if not is_news:
            return effects
        self.saving.soon(now)
        return [*effects, *self.life.obey(now), *self.membership.tell_now(self.links.up)]

    def _on_steps_done(self, event: ev.StepsDone, now: float) -> list[ev.Effect]:
        effects = self.life.on_steps_done(event, now)
        if self.phase != Phase.TRAINING:
            return effects
        if self.batching is not None:
            effects += self.batching.on_steps(now)
        return effects + self.pacing.on_steps(event, now)

    def _exchange_if_due(self, now: float) -> list[ev.Effect]:
        if self.phase != Phase.TRAINING or not self.pacing.is_due(now):
            return []
        pace = self.pacing.decision
        with_momentum = not pace.by_bytes and momentum_is_wanted(
            self.settings.average_momentum, self.settings.momentum, pace.every_steps
        )
        begun = self._exchange(None, self.pacing.every_s, now, with_momentum, pace.slots)
        return self.pacing.on_tried(begun, self.life.done.steps)

    def _exchange(
        self, blocks: float | None, every_s: float, now: float, with_momentum: bool = False, slots: int | None = None
    ) -> list[ev.Effect]:
        """blocks: None for what the pace allows with whoever is chosen."""
        peer = self.partners.choose(self.links.up, self.exchanges.open_with(), self.pacing.weight_of)
        if peer is None:
            return []
        share = self.pacing.share_with(peer) if blocks is None else blocks
        return self.exchanges.begin(peer, share, every_s, now, with_momentum, slots)

    def _on_evaluated(self, event: ev.Evaluated, now: float) -> list[ev.Effect]:
        self.progress.on_look(event.accuracy, now)
        return self.reports.on_evaluated(event)

    # -- Time ----------------------------------------------------------------------------------------

    def _on_tick(self, event: ev.Tick, now: float) -> list[ev.Effect]:
        self.progress.advance(now)
        effects = self.links.on_tick(now)
        effects += self.membership.on_tick(now, self.links.up)
        effects += self.exchanges.on_tick(now)
        effects += self.joiner.on_tick(now, self.links.up)
        effects += self.links.seek(self.joiner.sought(now, self.links.up), now)
        effects += self.life.on_tick(now)
        if self.phase == Phase.DONE:
            return effects
        if self.life.settling.exchange_is_due(now):
            if self.life.settling.is_over(self.exchanges.completed, self.links.up, now):
                return effects + self.life.on_settled(now)
            if self.pacing.bucket.balance(now) >= 0:
                effects += self._exchange(1.0, 0.0, now)
        effects += self.saving.on_tick(now, lambda: self.notes(now))
        return effects + self.reports.on_tick(now)
