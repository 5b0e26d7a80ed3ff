"""One entry of the member table."""

from __future__ import annotations

from dataclasses import dataclass

from gossip.protocol.messages import Phase, State, Status, Update

TRAINED = (Phase.TRAINING, Phase.PAUSED, Phase.SETTLING)


@dataclass(slots=True)
class Member:
    """What we believe of one other node."""

    key: bytes
    address: str
    incarnation: int
    state: State
    status: Status
    heard_at: float  # when its status last grew, for extrapolating its samples
    is_first_hand: bool = False  # it told us that status itself: it is as old as its hearing
    since: float = 0.0  # when it came into this state
    tell_left: int = 0  # retellings still owed to others
    word: Status | None = None  # what it last said of itself, to us; None once it has left before its run was over
    word_at: float = 0.0
    has_trained: bool = False  # by a word of its own

    def __post_init__(self) -> None:
        if self.is_first_hand:
            self._take_word(self.update(), self.heard_at)

    @property
    def is_alive(self) -> bool:
        """Alive as far as we know; a suspect still counts as alive."""
        return self.state <= State.SUSPECT

    def hear(self, update: Update, now: float, first_hand: bool) -> None:
        """A status of it, from itself or through others; the later one stays."""
        if first_hand:
            self._take_word(update, now)
        is_later = first_hand or update.status.sequence > self.status.sequence
        if is_later and update.status != self.status:
            self.status, self.heard_at, self.is_first_hand = update.status, now, first_hand

    def _take_word(self, update: Update, now: float) -> None:
        has_gone_early = update.state == State.LEFT and update.status.phase != Phase.DONE
        self.word, self.word_at = None if has_gone_early else update.status, now
        self.has_trained |= update.status.phase in TRAINED

    def update(self) -> Update:
        return Update(self.key, self.address, self.incarnation, self.state, self.status)


def is_trained(member: Member) -> bool:
    """Does it hold a state of the swarm: can it exchange, can it give state?"""
    return member.is_alive and member.status.phase in TRAINED
