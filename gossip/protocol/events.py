"""Every input and every effect: the vocabulary of the system on two screens.

Inputs come in through `Node.handle(input, now)`; effects go out and the engine executes them. Where an effect is
answered, its docstring names the input that answers it. Payload bodies (`bytes`) pass through the core unread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gossip.protocol.messages import Header, Message
from gossip.protocol.wire_events import AddressTried, LinkDown, LinkRefused, LinkUp

# -- Inputs: from the network -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A control message from an admitted peer, parsed and within its limits."""

    peer: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class PayloadReceived:
    """A payload from an admitted peer: its header is parsed, its body still encoded."""

    peer: bytes
    header: Header
    body: bytes


# -- Inputs: from the clock and the user ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: some deadline of the node may be due."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The user wants this node to leave, now."""

    reason: str


# -- Inputs: from the workers ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepsDone:
    """Another period of local steps is done, or training has stopped."""

    steps: int  # own steps so far, this start of the node
    samples: int  # own samples so far
    loss: float  # mean over these steps
    step_s: float  # median duration of these steps, with what came between them
    longest_gap_s: float  # longest time between two steps so far
    step_cpu_s: float = 0.0  # CPU time of the trainer's thread per step, without what came between: mean
    exchange_cpu_s: float = 0.0  # CPU time of both threads for exchanges, all since the start
    distance: float = 0.0  # of the peers that made us offers lately, relative to the size of the model


@dataclass(frozen=True, slots=True)
class OfferReady:
    """The offer of `exchange_id` is encoded; None where there was nothing to offer."""

    exchange_id: int
    body: bytes | None


@dataclass(frozen=True, slots=True)
class AnswerReady:
    """We have moved by our half; the answer that moves `peer` by the other half is encoded."""

    peer: bytes
    exchange_id: int
    body: bytes
    blocks: int
    failed: int
    momentum_mixed: int = 0  # blocks whose momentum was averaged too


@dataclass(frozen=True, slots=True)
class Mixed:
    """Our half of an exchange we began is applied: it is complete."""

    exchange_id: int
    blocks: int
    failed: int
    momentum_mixed: int = 0  # blocks whose momentum was averaged too


@dataclass(frozen=True, slots=True)
class PayloadUnreadable:
    """A payload did not decode: `code` and `reason` say why."""

    peer: bytes
    header: Header
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class FragmentReady:
    """A fragment of our state is encoded for a joiner; None where ours is not fit to be given."""

    peer: bytes
    index: int
    body: bytes | None


@dataclass(frozen=True, slots=True)
class FragmentLoaded:
    """A fragment of `peer`'s state is now part of ours."""

    peer: bytes
    index: int


@dataclass(frozen=True, slots=True)
class DonorLoss:
    """What one donor's fragments do to a state in the making. Losses need not be finite."""

    peer: bytes
    loss: float  # where two gave a fragment, with this donor's
    loss_without: float  # with another's, and where nobody else gave one, the untrained model's


@dataclass(frozen=True, slots=True)
class DonorsCompared:
    """The state in the making, looked at once with and once without what each donor gave."""

    losses: tuple[DonorLoss, ...]
    untrained: float  # loss of the model nobody has trained


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Accuracy and loss of our own model on held-out samples."""

    accuracy: float  # fraction, 0 to 1
    loss: float
    samples: int  # how many held-out samples were looked at


@dataclass(frozen=True, slots=True)
class TrainingFailed:
    """The loss is not finite any more: nothing of ours may be sent from here on."""

    step: int
    loss: float
    where: str = ""  # the layer that went first, in words, if the model can tell


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes on the wire so far, of every kind."""

    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """Our state is on the disk, whole."""

    step: int
    bytes: int
    copy_s: float  # how long training stood still for it
    seconds: float  # how long the disk took


@dataclass(frozen=True, slots=True)
class CheckpointFailed:
    """Our state could not be written; the last checkpoint that could is still there."""

    kind: str  # such as ENOSPC
    why: str


Input = (
    LinkUp | LinkDown | LinkRefused | AddressTried | MessageReceived | PayloadReceived | Tick | StopRequested
    | StepsDone | OfferReady | AnswerReady | Mixed | PayloadUnreadable | FragmentReady | FragmentLoaded | DonorsCompared
    | Evaluated | TrainingFailed | Traffic | CheckpointSaved | CheckpointFailed
)  # fmt: skip


# -- Effects: on the network ----------------------------------------------------------------------


DIAL_PATIENCE_S = 3.0  # from a dial to its welcome


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a link. Answered by LinkUp or LinkRefused."""

    peer: bytes
    address: str  # one HOST:PORT
    connect_s: float = DIAL_PATIENCE_S  # how long the other machine may take to accept the connection


@dataclass(frozen=True, slots=True)
class TryAddress:
    """See whether `peer` can be reached there; no link comes of it. Answered by AddressTried within DIAL_PATIENCE_S."""

    peer: bytes
    address: str


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close our links to `peer`."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Send one control message; lost without a word where there is no link."""

    peer: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class SendPayload:
    """Send one payload; lost without a word where there is no link or no byte credit."""

    peer: bytes
    header: Header
    body: bytes


# -- Effects: on the trainer ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartTraining:
    """Begin to step. The learning rate ramps up over the first `ramp_steps` (a joiner's)."""

    ramp_steps: int


@dataclass(frozen=True, slots=True)
class StopTraining:
    """Step no more; go on serving exchanges."""


@dataclass(frozen=True, slots=True)
class SetProgress:
    """Where the swarm stands in its run, 0 to 1: the learning rate follows it."""

    progress: float


@dataclass(frozen=True, slots=True)
class SetLearningRate:
    """The learning rate's peak from now on, as the owner wants it."""

    peak: float


@dataclass(frozen=True, slots=True)
class SetPeriod:
    """Report steps every `every_steps` of them."""

    every_steps: int


@dataclass(frozen=True, slots=True)
class SetBatch:
    """Take `batch` samples per step from the next one on; the learning rate goes with it."""

    batch: int


@dataclass(frozen=True, slots=True)
class PickBlocks:
    """Choose and encode the blocks that moved most. Answered by OfferReady."""

    exchange_id: int
    fraction: float
    skip_in_flight: bool
    with_momentum: bool = False  # send the momentum of these blocks along, and ask for the peer's


@dataclass(frozen=True, slots=True)
class Respond:
    """Move by half the way towards the peer's blocks. Answered by AnswerReady or PayloadUnreadable."""

    peer: bytes
    header: Header
    body: bytes


@dataclass(frozen=True, slots=True)
class Apply:
    """Move by our half on the blocks we offered. Answered by Mixed or PayloadUnreadable."""

    peer: bytes
    header: Header
    body: bytes


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Free the blocks of this exchange, but remember them: its answer may still come."""

    exchange_id: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop what is remembered of this exchange."""

    exchange_id: int


@dataclass(frozen=True, slots=True)
class ReadFragment:
    """Encode a fragment of our state for a joiner. Answered by FragmentReady."""

    peer: bytes
    index: int


@dataclass(frozen=True, slots=True)
class LoadFragment:
    """Make a donor's fragment part of our state. Answered by FragmentLoaded or PayloadUnreadable."""

    peer: bytes
    header: Header
    body: bytes
    keep: bool = False  # beside the state too, for the comparison: another gives the same fragment


@dataclass(frozen=True, slots=True)
class CompareDonors:
    """Judge what these donors gave, and forget what others did. Answered by DonorsCompared."""

    donors: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TakeFragments:
    """The swarm's state is about to be loaded over ours: keep ours aside."""


@dataclass(frozen=True, slots=True)
class DropFragments:
    """What was loaded is not to be trusted, or not complete: our state is again what it was before."""


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Evaluate our own model; `full` on all held-out samples. Answered by Evaluated."""

    full: bool


@dataclass(frozen=True, slots=True)
class SaveCheckpoint:
    """Write our state, and these notes, to the disk. Answered by CheckpointSaved or CheckpointFailed."""

    notes: dict[str, Any]


# -- Effects: on everything else ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MeasureTraffic:
    """Count the bytes on the wire. Answered by Traffic."""


@dataclass(frozen=True, slots=True)
class Emit:
    """One named event for events.jsonl."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finish:
    """The node is done and has said goodbye: save, close, exit."""

    reason: str


Effect = (
    Dial | TryAddress | HangUp | Send | SendPayload | StartTraining | StopTraining | SetProgress | SetLearningRate
    | SetPeriod | SetBatch | PickBlocks | Respond | Apply | GiveUp | Forget | ReadFragment | LoadFragment
    | CompareDonors | TakeFragments | DropFragments | Evaluate | SaveCheckpoint | MeasureTraffic | Emit | Finish
)  # fmt: skip
