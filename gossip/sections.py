"""What an experiment file may say, section by section: keys, types, ranges, defaults.

What no single section can say, and how a wrong file is explained, is gossip.spec's.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gossip.addresses import ADVERTISE_EXPECTED, ENDPOINT_EXPECTED
from gossip.data.augmentation import AUGMENT_EXPECTED, Augmentation, parse_augment
from gossip.data.sample import SAMPLE_EXPECTED
from gossip.protocol.batching import BATCH_MAX
from gossip.units import seconds_of


class DataSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which data set, and how it is split into shards."""

    recipe: Annotated[str, Meta(min_length=1, description="a recipe's name or the path of its .toml")] = "glyphs"
    partition: Annotated[
        str, Meta(description='"iid", "dirichlet(alpha)" with alpha > 0, or "classes(k)" with k >= 1')
    ] = "iid"
    shards: Annotated[int, Meta(ge=1, le=100_000, description="a whole number from 1 to 100000")] = 4
    sample: Annotated[str | int, Meta(description=f'{SAMPLE_EXPECTED}; "" for all of the training data')] = ""


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The network: a preset's name, or its layers in order."""

    preset: Annotated[str, Meta(description="a preset's name, such as mlp or lenet")] = ""
    layers: Annotated[
        tuple[str, ...], Meta(max_length=256, description='a list like ["dense 128", "relu", "dense 10"]')
    ] = ()
    init: Annotated[str, Meta(max_length=1024, description="the path of a model.safetensors to begin with")] = ""
    init_sha256: Annotated[
        str, Meta(pattern=r"^([0-9a-f]{64})?\Z", description="64 hex digits, the SHA-256 of init; filled in for you")
    ] = ""
    freeze: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...],
        Meta(max_length=256, description='a list of patterns like ["conv*", "0.*"], of layers or parameters'),
    ] = ()


class TrainSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Local SGD on every node, and when the swarm is done: as soon as the first criterion holds."""

    samples: Annotated[
        int, Meta(ge=1, le=10**15, description="a whole number from 1: samples the whole swarm trains on")
    ] = 2_000_000
    time: Annotated[
        str, Meta(description='how long the run may last, such as "90 s", "30 min", "2 h" or "3 days"; "" for no limit')
    ] = ""
    target_accuracy: Annotated[
        float, Meta(ge=0, le=1, description="a fraction from 0 to 1 on held-out samples; 0 for no target")
    ] = 0.0
    plateau: Annotated[
        int,
        Meta(ge=0, le=1000, description="early stopping: how many looks without progress end the run; 0 for never"),
    ] = 0
    batch: Annotated[
        Annotated[int, Meta(ge=1, le=65_536)] | Literal["auto"],
        Meta(description='a whole number from 1 to 65536, or "auto"'),
    ] = 32
    optimizer: Annotated[
        Literal["sgd", "nesterov", "adamw"],
        Meta(description='"sgd", "nesterov" or "adamw" (which wants a learning_rate of about 0.001)'),
    ] = "sgd"
    learning_rate: Annotated[float, Meta(gt=0, le=100, description="a number above 0, at most 100")] = 0.1
    momentum: Annotated[float, Meta(ge=0, lt=1, description="a number from 0 to below 1, of sgd and nesterov")] = 0.9
    weight_decay: Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")] = 0.0
    clip: Annotated[
        float, Meta(ge=0, le=1e6, description="the longest a gradient may be, from 0 to 1000000; 0 for any length")
    ] = 0.0
    label_smoothing: Annotated[
        float, Meta(ge=0, lt=1, description="the share of a label that all classes get, 0 to below 1")
    ] = 0.0
    augment: Annotated[
        tuple[str, ...], Meta(max_length=8, description=f"{AUGMENT_EXPECTED}; [] for images as they are")
    ] = ()
    warmup: Annotated[float, Meta(ge=0, lt=1, description="the share of the run, 0 to below 1")] = 0.03

    @property
    def time_s(self) -> float:
        """How long the run may last; inf for as long as it takes."""
        return seconds_of(self.time) if self.time else math.inf

    @property
    def batch_first(self) -> int:
        """What a node begins with; with "auto" also what the learning rate is meant for."""
        return 32 if self.batch == "auto" else self.batch

    @property
    def augmentation(self) -> Augmentation:
        """Raises SpecError for words that make no sense."""
        return parse_augment(self.augment)

    @property
    def batch_max(self) -> int:
        """The most samples a step may have."""
        return BATCH_MAX if self.batch == "auto" else self.batch

    @property
    def shared_momentum(self) -> float:
        """The coefficient of a momentum that exchanges can average; 0 where the optimizer keeps none."""
        return 0.0 if self.optimizer == "adamw" else self.momentum


class ExchangeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often and how much of the model two nodes average."""

    every_steps: Annotated[
        Annotated[int, Meta(ge=1, le=100_000)] | Literal["auto"],
        Meta(description='a whole number from 1, in local steps, or "auto"'),
    ] = 8
    blocks: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | Literal["auto"],
        Meta(description='a number above 0, at most 1: the share of the model offered; or "auto"'),
    ] = 0.25
    momentum: Annotated[
        Literal["auto", "on", "off"],
        Meta(description='"auto", "on" or "off": whether the optimizer\'s momentum is averaged too'),
    ] = "auto"

    @property
    def every_steps_first(self) -> int:
        """The period a node begins with, before it has measured anything."""
        return 8 if self.every_steps == "auto" else self.every_steps

    @property
    def blocks_first(self) -> float:
        """The share of the model a node begins with, before it has measured anything."""
        return 0.25 if self.blocks == "auto" else self.blocks


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one machine decides for itself; never hashed, never sent."""

    listen: Annotated[str, Meta(description=ENDPOINT_EXPECTED)] = "tcp://0.0.0.0:7700"
    advertise: Annotated[str, Meta(description=ADVERTISE_EXPECTED)] = ""
    data_dir: Annotated[str, Meta(description="a folder that holds the data files")] = ""
    upload: Annotated[
        str, Meta(description='what this node may send, such as "1 mbit/s" or "200 kB/s"; "" for no limit')
    ] = ""
    backup: Annotated[
        str, Meta(description="a folder, or a command with {file} in it, that takes copies of the checkpoints")
    ] = ""
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | Literal["auto"],
        Meta(description="a whole number from 1 to 64, the trainer's; or \"auto\" for this node's share of the cores"),
    ] = "auto"
    checkpoint_every_s: Annotated[
        float, Meta(ge=1, le=86_400, description="seconds between two checkpoints, 1 to 86400")
    ] = 60.0
