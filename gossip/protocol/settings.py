"""What the core needs to know of the experiment and of itself: plain values, made once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gossip.protocol.resuming import Resumed


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """One node's settings, as the spec and the command line have them."""

    key: bytes
    address: str  # what others dial; "" for outbound only
    seeds: tuple[tuple[bytes, str], ...]  # (key, address); none: we are the first node
    fragments: int  # how many make up a state
    samples_total: int
    time_s: float = math.inf  # how long the run may last
    target_accuracy: float = 0.0  # 0: none
    plateau: int = 0  # looks without progress that end the run; 0: never
    every_steps: int
    blocks: float
    incarnation: int = 0  # higher than any this key has used before
    checkpoint_every_s: float = 60.0
    resumed: Resumed | None = None  # this node was here before, and the trainer holds its state
    average_momentum: str = "off"  # exchange.momentum: auto | on | off
    momentum: float = 0.0  # the optimizer's coefficient
    is_every_free: bool = False  # every_steps is where "auto" begins
    are_blocks_free: bool = False
    is_batch_free: bool = False
    batch: int = 32
    parameters: int = 0  # of the model; 0 where unknown
    upload_bytes_per_s: float = math.inf  # a cap on everything this node sends
