"""Experiment: one TOML file that says what a swarm trains, and how.

Everything outside `[node]` is what the swarm must share; its canonical form is hashed, and nodes
with different hashes refuse each other. `[node]` is what one machine decides for itself.
A wrong file ends in one SpecError that names file, key, value and what was expected.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta

from gossip.addresses import ADVERTISE_EXPECTED, ENDPOINT_EXPECTED, is_advertisable, is_listenable
from gossip.beginning import checked
from gossip.data.partition import Partition, parse_partition
from gossip.data.recipes import Recipe, find_recipe
from gossip.data.sample import Sample, parse_sample
from gossip.errors import SpecError
from gossip.models.layers import Layer, preset_layers, resolve_layers
from gossip.protocol.momentum import momentum_refusal
from gossip.sections import DataSpec, ExchangeSpec, ModelSpec, NodeSpec, TrainSpec
from gossip.units import bytes_per_s_of, seconds_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CANONICAL_BYTES_MAX = 16_384  # the whole spec travels to a joiner in one frame


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """A whole experiment, checked. `load` reads a file; `from_canonical` reads what a peer sent."""

    name: str
    seed: int
    owner: str = ""  # Ed25519 public key, 64 hex digits: whose commands the swarm obeys; "" until it is founded
    data: DataSpec
    model: ModelSpec
    train: TrainSpec
    exchange: ExchangeSpec
    node: NodeSpec
    recipe: Recipe

    @property
    def partition(self) -> Partition:
        return parse_partition(self.data.partition)

    @property
    def sample(self) -> Sample:
        return parse_sample(self.data.sample)

    def indices_of(self, shard: int, labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Which training samples a shard holds, int64[m], sorted: those in data.sample, dealt out.

        labels: uint8[n], of all training samples. Raises SpecError for a shard out of range.
        """
        classes = len(self.recipe.classes)
        sampled = self.sample.take(labels, classes, self.seed)
        return sampled[self.partition.shard(labels[sampled], classes, self.data.shards, shard, self.seed)]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layer chain with its shapes resolved against the recipe's images."""
        texts = preset_layers(self.model.preset) if self.model.preset else self.model.layers
        return resolve_layers(texts, self.recipe.shape, len(self.recipe.classes))

    def canonical(self) -> bytes:
        """The hashed part as JSON with sorted keys: what a swarm must share, and what a joiner is sent."""
        shared = msgspec.to_builtins(self)
        del shared["node"]
        shared["data"]["recipe"] = self.recipe.name  # its content is in here; where its file lies is nobody's business
        shared["model"]["init"] = ""  # likewise
        shared["layers"] = [layer.text for layer in self.layers]
        return _canonical_json(shared)

    def to_toml(self, recipe: str = "", init: str = "") -> str:
        """The experiment as a file `load` reads; every default spelled out.

        recipe, init: what data.recipe and model.init shall read instead.
        """
        lines = [f"name = {toml_value(self.name)}", f"seed = {self.seed}", f"owner = {toml_value(self.owner)}"]
        for section in SECTIONS:
            values = msgspec.to_builtins(getattr(self, section))
            if section == "data" and recipe:
                values["recipe"] = recipe
            if section == "model" and init:
                values["init"] = init
            lines += ["", f"[{section}]", *_toml_lines(values)]
        return "\n".join(lines) + "\n"

    @property
    def hash(self) -> bytes:
        """First 8 bytes of the SHA-256 of the canonical form."""
        return hash_of(self.canonical())

    def owned_by(self, owner: str) -> Experiment:
        """The same experiment as a swarm of this owner runs it; "" for the file everybody can have written."""
        return msgspec.structs.replace(self, owner=owner)


def hash_of(canonical: bytes) -> bytes:
    """First 8 bytes of the SHA-256 of a canonical form."""
    return hashlib.sha256(canonical).digest()[:8]


def without_owner(canonical: bytes) -> bytes:
    """The canonical form of the file a swarm was founded with: what a joiner who has that file says it brings."""
    try:
        return _canonical_json(json.loads(canonical) | {"owner": ""})
    except (ValueError, TypeError):
        return canonical


def _canonical_json(shared: dict[str, Any]) -> bytes:
    return json.dumps(shared, sort_keys=True, separators=(",", ":")).encode()


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "data": DataSpec,
    "model": ModelSpec,
    "train": TrainSpec,
    "exchange": ExchangeSpec,
    "node": NodeSpec,
}
TOP_LEVEL = {
    "name": Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", description="up to 64 letters, digits, '.', '_', '-'"),
    ],
    "seed": Annotated[int, Meta(ge=0, lt=2**32, description="a whole number from 0 to 4294967295")],
    "owner": Annotated[
        str,
        Meta(
            pattern=r"^([0-9a-f]{64})?\Z",
            description='64 hex digits, the public half that "gossip owner-key FILE" prints, or "" for a new key',
        ),
    ],
}


def recipe_to_toml(recipe: Recipe) -> str:
    """The recipe as a file `read_recipe` reads."""
    values = msgspec.to_builtins(recipe)
    files = values.pop("files")
    lines = _toml_lines(values)
    for file in files:
        lines += ["", "[[files]]", *_toml_lines(file)]
    return "\n".join(lines) + "\n"


def _toml_lines(values: dict[str, Any]) -> list[str]:
    return [f"{key} = {toml_value(value)}" for key, value in values.items() if value not in ("", [], ())]


def toml_value(value: Any) -> str:
    """JSON's strings, numbers and lists are TOML's, but for two things: no surrogate pairs, and DEL is escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


INSTEAD_OF = {"model.preset": "layers", "model.layers": "preset"}


def load(path: str | Path, changes: Mapping[str, Any] | None = None) -> Experiment:
    """Read and check an experiment file. Raises SpecError, one line.

    changes: values that win over the file's, by key, such as {"train.batch": 64}.
    """
    path = Path(path)
    return parse(read_text(path), path, changes)


def read_text(path: Path) -> str:
    """What an experiment file says. Raises SpecError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot read the experiment file ({error}); expected a TOML file") from error


def parse(text: str, path: Path, changes: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment that `text`, from the file `path`, describes; `changes` as for `load`. Raises SpecError."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: not valid TOML: {error}") from error
    table.setdefault("name", path.stem)
    for key, value in (changes or {}).items():
        section, _, name = key.rpartition(".")
        values = table.setdefault(section, {}) if section else table
        if isinstance(values, dict):  # what else it may be is refused below
            values.pop(INSTEAD_OF.get(key, ""), None)
            values[name] = value
    return _experiment(table, str(path), beside=path.parent)


def from_canonical(text: bytes) -> Experiment:
    """The experiment a swarm sent to a joiner. Raises SpecError."""
    if len(text) > CANONICAL_BYTES_MAX:
        raise SpecError(f"the swarm's spec: {len(text)} bytes, expected at most {CANONICAL_BYTES_MAX}")
    try:
        table = json.loads(text)
        layers = table.pop("layers")
        recipe = msgspec.convert(table.pop("recipe"), Recipe)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise SpecError(f"the swarm's spec cannot be read ({error}); is it another version of gossip?") from error
    experiment = _experiment(table, "the swarm's spec", recipe=recipe)
    if [layer.text for layer in experiment.layers] != layers:
        raise SpecError(f"the swarm's spec: preset {experiment.model.preset!r} has other layers in this version")
    return experiment


def _experiment(
    table: dict[str, Any], source: str, beside: Path | None = None, recipe: Recipe | None = None
) -> Experiment:
    _refuse_unknown(table, (*TOP_LEVEL, *SECTIONS), source, "")
    top = {"seed": 1} | {key: _field(table[key], kind, source, key) for key, kind in TOP_LEVEL.items() if key in table}
    sections = {name: _section(table.get(name, {}), kind, source, name) for name, kind in SECTIONS.items()}
    model, data, node, train = sections["model"], sections["data"], sections["node"], sections["train"]
    for key, value, read in (("train.time", train.time, seconds_of), ("node.upload", node.upload, bytes_per_s_of)):
        try:
            _ = value and read(value)
        except SpecError as error:
            raise SpecError(f"{source}: {key} = {error}") from error
    if train.optimizer == "adamw" and "learning_rate" not in table.get("train", {}):
        raise SpecError(f'{source}: train.optimizer = "adamw": expected a learning_rate beside it, such as 0.001')
    if train.optimizer == "nesterov" and train.momentum == 0:
        raise SpecError(f"{source}: train.momentum = 0.0: expected a number above 0 with nesterov, such as 0.9; or sgd")
    if refusal := momentum_refusal(sections["exchange"].momentum, train.shared_momentum, train.optimizer):
        raise SpecError(f"{source}: exchange.momentum = {sections['exchange'].momentum!r}: {refusal}")
    if not is_listenable(node.listen):
        raise SpecError(f'{source}: node.listen = {node.listen!r}: expected {ENDPOINT_EXPECTED}; or "none"')
    if node.advertise and not is_advertisable(node.advertise):
        raise SpecError(f"{source}: node.advertise = {node.advertise!r}: expected {ADVERTISE_EXPECTED}")
    try:
        _ = "{file}" in node.backup and shlex.split(node.backup)
    except ValueError as error:
        raise SpecError(f"{source}: node.backup = {node.backup!r}: not a command ({error})") from error
    if bool(model.preset) == bool(model.layers):
        raise SpecError(f"{source}: [model] expects either preset or layers, one of the two")
    try:
        if beside is not None and data.recipe.endswith(".toml"):
            data = sections["data"] = msgspec.structs.replace(data, recipe=str((beside / data.recipe).resolve()))
        recipe = recipe or find_recipe(data.recipe, beside)
    except SpecError as error:
        raise SpecError(f"{source}: data.recipe = {data.recipe!r}: {error}") from error
    try:
        parse_partition(data.partition).check(len(recipe.classes), data.shards)
    except SpecError as error:
        raise SpecError(f"{source}: data.partition = {data.partition!r}: {error}") from error
    try:
        parse_sample(data.sample).check(recipe.train_samples, len(recipe.classes), data.shards)
    except SpecError as error:
        raise SpecError(f"{source}: data.sample = {data.sample!r}: {error}") from error
    try:
        train.augmentation.check(recipe.shape)
    except SpecError as error:
        raise SpecError(f"{source}: train.augment = {list(train.augment)}: {error}") from error
    experiment = Experiment(**top, **sections, recipe=recipe)
    key = f"model.preset = {model.preset!r}" if model.preset else f"model.layers = {list(model.layers)}"
    try:
        experiment.layers  # noqa: B018 - resolving the chain is the check
    except SpecError as error:
        raise SpecError(f"{source}: {key}: {error}") from error
    try:
        experiment = msgspec.structs.replace(experiment, model=checked(model, experiment.layers, beside))
    except SpecError as error:
        raise SpecError(f"{source}: {error}") from error
    if len(experiment.canonical()) > CANONICAL_BYTES_MAX:
        raise SpecError(f"{source}: the spec and its recipe exceed {CANONICAL_BYTES_MAX} bytes; shorten them")
    return experiment


def _section(table: Any, kind: type[msgspec.Struct], source: str, name: str) -> Any:
    if not isinstance(table, dict):
        raise SpecError(f"{source}: {name} = {table!r}: expected a table [{name}]")
    hints = get_type_hints(kind, include_extras=True)
    _refuse_unknown(table, tuple(hints), source, f"{name}.")
    return kind(**{key: _field(value, hints[key], source, f"{name}.{key}") for key, value in table.items()})


def _field(value: Any, kind: Any, source: str, key: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        expected = next(meta.description for meta in kind.__metadata__ if isinstance(meta, Meta))
        raise SpecError(f"{source}: {key} = {value!r}: expected {expected}") from error


def _refuse_unknown(table: dict[str, Any], known: tuple[str, ...], source: str, prefix: str) -> None:
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known keys: {', '.join(known)}"
            raise SpecError(f"{source}: {prefix}{key} = {value!r}: unknown key; {hint}")
