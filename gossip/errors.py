"""The few kinds of failure, by whose turn it is to act."""

from __future__ import annotations


class GossipError(Exception):
    """Base of every error this package raises on purpose; its text is one line for the user."""

    exit_status = 1


class SpecError(GossipError):
    """The experiment file, a recipe or a command-line option is wrong: the user can fix it."""


class RunIsFinishedError(SpecError):
    """There is nothing to go on with: who restarts what failed, as systemd does, need not try again."""

    exit_status = 3


class MissingExtraError(GossipError):
    """An optional package is not installed: the user can."""


class DataError(GossipError):
    """Training data is missing or not what its recipe says: the user can fetch or repair it."""


class NetworkError(GossipError):
    """A port, an address, a key file or a ticket does not work: the user can fix it."""


class PeerError(GossipError):
    """A peer broke the protocol: drop the message, count it by `code`, carry on."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class InvariantError(GossipError):
    """We broke one of our own rules: a bug. Stop, and show the story of the node."""
