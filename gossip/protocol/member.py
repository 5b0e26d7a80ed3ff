"""One entry of the member table."""

from __future__ import annotations

from dataclasses import dataclass

from gossip.protocol.messages import Phase, State, Status, Update


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

    @property
    def is_alive(self) -> bool:
        """Alive as far as we know; a suspect still counts as alive."""
        return self.state <= State.SUSPECT

    def update(self) -> Update:
        return Update(self.key, self.address, self.incarnation, self.state, self.status)


def is_trained(member: Member) -> bool:
    """Does it hold a state of the swarm: can it exchange, can it give state?"""
    return member.is_alive and member.status.phase in (Phase.TRAINING, Phase.PAUSED, Phase.SETTLING)
