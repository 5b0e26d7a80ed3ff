"""Every message as a type, with its limits.

Control messages check themselves when made, on both sides of the wire: a message that breaks a
limit cannot be sent, and one that was received broken never reaches the core.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

VERSION = 3
KEY_BYTES = 32
ADDRESS_CHARS_MAX = 128  # everywhere: on the command line, in tickets, in hellos, in updates
SIGNATURE_BYTES = 64
UPDATES_MAX = 8  # per probe: about 100 bytes each
MEMBERS_MAX = 224  # per Members reply: 281 bytes each at worst, 62,950 in all, of the 65,536 of a control frame
COUNT_MAX = 2**62


class State(enum.IntEnum):
    """What is believed of a member; at one incarnation the higher value wins."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


class Phase(enum.IntEnum):
    """What a member is doing."""

    JOINING = 0  # no state yet: cannot exchange, cannot give state
    TRAINING = 1
    SETTLING = 2  # the run is over: goes on mixing, steps no more
    DONE = 3
    PAUSED = 4  # holds a state and mixes, but steps only when the owner says so


@dataclass(frozen=True, slots=True)
class Status:
    """What a member says of itself; the higher `sequence` wins. All counts since the run began."""

    sequence: int = 0
    phase: int = Phase.JOINING
    step: int = 0
    samples: int = 0
    samples_per_s: float = 0.0
    loss: float = 0.0
    accuracy: float = -1.0  # fraction on held-out samples; -1 before the first look
    links: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    swarm_samples: int = 0  # the swarm's clock as this member reads it
    run_s: float = 0.0  # how long the run has gone on, as this member reckons
    wants_end: bool = False  # a stopping criterion holds for this member
    members: int = 0  # the living, itself included, as this member sees them
    command: int = 0  # sequence number of the owner's latest command it knows

    def __post_init__(self) -> None:
        Phase(self.phase)
        for count in (
            self.sequence,
            self.step,
            self.samples,
            self.bytes_sent,
            self.bytes_received,
            self.swarm_samples,
            self.command,
        ):
            _require(0 <= count <= COUNT_MAX, "a count of the status is out of range")
        _require(0 <= self.links < 2**16 and 0 <= self.members < 2**32, "links or members is out of range")
        _require(0 <= self.samples_per_s < 1e12 and 0 <= self.run_s < 1e12, "a rate or a time is out of range")
        _require(math.isfinite(self.loss) and -1 <= self.accuracy <= 1, "loss or accuracy is out of range")


@dataclass(frozen=True, slots=True)
class Update:
    """One member, as the sender knows it."""

    key: bytes
    address: str  # HOST:PORT, or several with commas between, best first; "" where it cannot be dialed
    incarnation: int
    state: int
    status: Status

    def __post_init__(self) -> None:
        _require(len(self.key) == KEY_BYTES, "a key has 32 bytes")
        _require_address(self.address)
        _require(0 <= self.incarnation < 2**32, "an incarnation is out of range")
        State(self.state)


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? Answered by Ack with the same number."""

    number: int
    updates: tuple[Update, ...] = ()

    def __post_init__(self) -> None:
        _require_probe(self.number, self.updates)


@dataclass(frozen=True, slots=True)
class PingRequest:
    """Please ping `target` for me. Answered by Ack with the same number if it answers you."""

    number: int
    target: bytes
    updates: tuple[Update, ...] = ()

    def __post_init__(self) -> None:
        _require_probe(self.number, self.updates)
        _require(len(self.target) == KEY_BYTES, "a key has 32 bytes")


@dataclass(frozen=True, slots=True)
class Ack:
    """The one you asked about is there."""

    number: int
    updates: tuple[Update, ...] = ()

    def __post_init__(self) -> None:
        _require_probe(self.number, self.updates)


@dataclass(frozen=True, slots=True)
class News:
    """Changes that should not wait for the next probe: I joined, I finished, I leave."""

    updates: tuple[Update, ...]

    def __post_init__(self) -> None:
        _require(len(self.updates) <= UPDATES_MAX, f"more than {UPDATES_MAX} updates")


@dataclass(frozen=True, slots=True)
class MembersRequest:
    """Whom do you know? Answered by Members."""


@dataclass(frozen=True, slots=True)
class Members:
    """A sample of the members the sender knows, itself first."""

    updates: tuple[Update, ...]

    def __post_init__(self) -> None:
        _require(len(self.updates) <= MEMBERS_MAX, f"more than {MEMBERS_MAX} members")


@dataclass(frozen=True, slots=True)
class FragmentRequest:
    """Please send me this fragment of your state. Answered by a FRAGMENT payload or a Refusal."""

    index: int

    def __post_init__(self) -> None:
        _require(0 <= self.index < 2**16, "a fragment index is out of range")


@dataclass(frozen=True, slots=True)
class Refusal:
    """I will not do what you asked: `kind` and `number` say which of your requests, `code` why."""

    kind: int  # PayloadKind.OFFER or PayloadKind.FRAGMENT
    number: int  # exchange id, or fragment index
    code: str
    updates: tuple[Update, ...] = ()  # others to ask instead

    def __post_init__(self) -> None:
        PayloadKind(self.kind)
        _require(len(self.updates) <= UPDATES_MAX, f"more than {UPDATES_MAX} updates")
        _require(0 <= self.number < 2**32, "a number is out of range")
        _require(len(self.code) <= 32, "a refusal code is too long")
        _require(self.code.isascii() and self.code.isprintable(), "a refusal code is plain text")


@dataclass(frozen=True, slots=True)
class Parting:
    """I am about to close this link, for no other reason than that I have enough of them."""


@dataclass(frozen=True, slots=True)
class Command:
    """What the swarm's owner wants of everybody: signed, numbered, applied once, passed on."""

    sequence: int
    name: str  # pause | resume | stop | set NAME
    value: str
    signature: bytes  # Ed25519 over spec hash, sequence, name and value, by the key whose public half the spec names

    def __post_init__(self) -> None:
        _require(1 <= self.sequence <= COUNT_MAX, "a command's sequence number is out of range")
        _require(len(self.name) <= 32 and len(self.value) <= 64, "a command is too long")
        _require((self.name + self.value).isascii() and (self.name + self.value).isprintable(), "not plain text")
        _require(len(self.signature) == SIGNATURE_BYTES, f"a signature has {SIGNATURE_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class DialBackRequest:
    """Can you reach me under this address? Answered by DialBack."""

    address: str

    def __post_init__(self) -> None:
        _require_address(self.address)


@dataclass(frozen=True, slots=True)
class DialBack:
    """What came of dialing the address you asked about: code is empty where it worked."""

    address: str
    code: str

    def __post_init__(self) -> None:
        _require_address(self.address)
        _require(len(self.code) <= 32 and self.code.isascii() and self.code.isprintable(), "not a code")


Message = (
    Ping | PingRequest | Ack | News | MembersRequest | Members | FragmentRequest | Refusal | Parting | Command
    | DialBackRequest | DialBack
)  # fmt: skip


class PayloadKind(enum.IntEnum):
    OFFER = 1
    ANSWER = 2
    FRAGMENT = 3


@dataclass(frozen=True, slots=True)
class Header:
    """What precedes a payload's body. `number` is the exchange id, or the fragment's index."""

    kind: PayloadKind
    incarnation: int
    number: int
    step: int  # the sender's, when the body was made
    # Of an offer and its answer, both in ticks of queues.py; of a fragment 0.
    sent_at: int = 0  # by the sender's clock, whatever that counts from
    lag: int = 0  # of an answer: the receiver's clock when the offer came, less what the offer said

    def __post_init__(self) -> None:
        for count in (self.incarnation, self.number, self.sent_at, self.lag):
            _require(0 <= count < 2**32, "a header field is out of range")
        _require(0 <= self.step <= COUNT_MAX, "a header's step is out of range")


def _require_probe(number: int, updates: tuple[Update, ...]) -> None:
    _require(0 <= number < 2**32, "a probe number is out of range")
    _require(len(updates) <= UPDATES_MAX, f"more than {UPDATES_MAX} updates")


def _require_address(address: str) -> None:
    _require(len(address) <= ADDRESS_CHARS_MAX, "an address is too long")
    _require(address.isascii() and address.isprintable(), "an address is plain text")


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise ValueError(text)
