"""A trained model as one safetensors file that says of itself what it is.

The tensors go by their names in the layout. The file's metadata holds what else it takes to use them elsewhere, as
JSON: the layer chain, the size of an image, the classes and the normalisation; the experiment, for whoever wants to
know; and a digest over all of it. So a file loads without its run folder, on another machine, in a later version, or
one sentence says why not. Knows bytes and layers; does not know run folders or data sets.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import msgspec
import numpy as np
from msgspec import Meta

from gossip.errors import SpecError
from gossip.models.layers import Layer, Shape, resolve_layers
from gossip.models.layout import Slot, layout_of, named_parameters

if TYPE_CHECKING:
    from gossip.models.model import Model

FORMAT, FORMAT_NUMBER = "gossip-", 2
HEADER_BYTES_MAX = 2**20  # 256 layers and 256 classes take 60 kB
_LENGTH = struct.Struct("<Q")

Side = Annotated[int, Meta(ge=1, le=1024)]
Numbers = Annotated[tuple[float, ...], Meta(min_length=1, max_length=4)]


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says of its model. mean, std: of pixels between 0 and 1, a number per channel."""

    layers: Annotated[tuple[str, ...], Meta(min_length=1, max_length=256)]
    input: tuple[Side, Side, Annotated[int, Meta(ge=1, le=4)]]
    classes: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(min_length=2, max_length=256)]
    mean: Numbers
    std: Numbers

    def __post_init__(self) -> None:
        """What no single type can say. msgspec turns the ValueError into its ValidationError."""
        if not len(self.mean) == len(self.std) == self.input[2]:
            raise ValueError(f"expected mean and std with one number per channel ({self.input[2]})")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError("expected a finite mean, and a std above 0")


@dataclass(frozen=True, slots=True, eq=False)
class PortableModel:
    """What `read` found. x: float32[dim], finite."""

    layers: tuple[Layer, ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    x: np.ndarray
    spec: bytes  # the experiment's canonical form; b"" where the file does not tell

    @property
    def shape(self) -> Shape:
        """Of an image: height, width, channels."""
        return self.layers[0].input

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Views into x, by name."""
        return named_parameters(self.x, layout_of(self.layers))

    def build(self) -> Model:
        """To be used with x."""
        from gossip.models.model import build_model

        return build_model(self.layers, self.mean, self.std)


def pack(
    layers: Sequence[Layer],
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    x: np.ndarray,
    spec: bytes = b"",
) -> bytes:
    """The file. x: float32, at least as long as the layers need."""
    described = Description(
        layers=tuple(layer.text for layer in layers),
        input=layers[0].input,
        classes=tuple(classes),
        mean=tuple(mean),
        std=tuple(std),
    )
    layout = layout_of(layers)
    end = list(layout.values())[-1].end
    content = np.ascontiguousarray(x[:end], "<f4").tobytes()
    texts = {"model": msgspec.json.encode(described).decode(), "spec": spec.decode()}
    metadata = {"format": f"{FORMAT}{FORMAT_NUMBER}", "digest": _digest(texts, named_parameters(x, layout)), **texts}
    table: dict[str, Any] = {"__metadata__": metadata}
    for name, slot in layout.items():
        table[name] = {"dtype": "F32", "shape": list(slot.shape), "data_offsets": [4 * slot.start, 4 * slot.end]}
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return _LENGTH.pack(len(header)) + header + content


def read(path: Path) -> PortableModel:
    """Raises SpecError, one sentence: what is wrong with the file, and what to do."""
    try:
        if not path.is_file():
            raise SpecError(f"{path}: no such file; expected a model.safetensors")
        with path.open("rb") as file:
            header = _header(file.read(_LENGTH.size), path, file)
            return _model(header, path, file)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror})") from error


# -- Reading, from the first byte to the last --------------------------------------------------------------


def _header(start: bytes, path: Path, file: BinaryIO) -> dict[str, Any]:
    """The JSON that says what lies where. Never reads more than HEADER_BYTES_MAX."""
    length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else 0
    head = file.read(min(length, HEADER_BYTES_MAX))
    if length < 2 or not head.startswith(b"{"):
        raise SpecError(f"{path}: not a safetensors file; expected the model.safetensors of a run")
    if length > HEADER_BYTES_MAX:
        raise SpecError(
            f"{path}: its header claims {length:,} bytes, expected at most {HEADER_BYTES_MAX:,}; take another copy"
        )
    if len(head) < length:
        raise SpecError(f"{path}: truncated within its header; take another copy")
    try:
        header = msgspec.json.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError(f"{path}: damaged, its header is no JSON ({error}); take another copy") from error
    if not isinstance(header, dict):
        raise SpecError(f"{path}: not a safetensors file; expected the model.safetensors of a run")
    return header


def _model(header: dict[str, Any], path: Path, file: BinaryIO) -> PortableModel:
    """From the header and what lies behind it."""
    metadata = header.pop("__metadata__", None)
    metadata = metadata if isinstance(metadata, dict) else {}
    number = _format_number(metadata, path)
    described = _described(metadata, number, path)
    try:
        layers = resolve_layers(described.layers, described.input, len(described.classes))
    except SpecError as error:
        raise SpecError(f"{path}: its layers do not fit together: {error}") from error
    layout = layout_of(layers)
    if not layout:
        raise SpecError(f"{path}: its layers have no parameters")
    places = _places(header, layout, path)
    size = max(end for _, end in places.values())
    missing = size - (os.fstat(file.fileno()).st_size - file.tell())
    if missing:
        what = f"truncated, {missing:,} bytes are missing" if missing > 0 else "longer than its header says"
        raise SpecError(f"{path}: {what}; take another copy")
    content = file.read(size)
    texts = {key: str(metadata.get(key, "")) for key in ("model", "spec")}
    x = np.empty(list(layout.values())[-1].end, np.float32)
    tensors = named_parameters(x, layout)
    for name, tensor in tensors.items():
        start, end = places[name]
        tensor[...] = np.frombuffer(content[start:end], "<f4").reshape(tensor.shape)
        if not np.isfinite(tensor).all():
            raise SpecError(f"{path}: {name} is not finite: its training went wrong, or the file is damaged")
    if number > 1 and metadata.get("digest") != _digest(texts, tensors):
        raise SpecError(f"{path}: damaged, its contents do not match its digest; take another copy")
    return PortableModel(layers, described.classes, described.mean, described.std, x, texts["spec"].encode())


def _format_number(metadata: Mapping[str, Any], path: Path) -> int:
    text = str(metadata.get("format", ""))
    digits = text.removeprefix(FORMAT)
    if not text.startswith(FORMAT) or not (digits.isascii() and digits.isdecimal()) or not 0 < len(digits) < 9:
        raise SpecError(
            f"{path}: a safetensors file, but not a model of gossip: its metadata does not say format = "
            f'"{FORMAT}{FORMAT_NUMBER}"'
        )
    if (number := int(digits)) > FORMAT_NUMBER:
        raise SpecError(
            f"{path}: written by a newer gossip in format {number}, this one reads up to {FORMAT_NUMBER}; update gossip"
        )
    return number


def _described(metadata: Mapping[str, Any], number: int, path: Path) -> Description:
    try:
        if number > 1:
            return msgspec.json.decode(str(metadata["model"]), type=Description)
        spec = msgspec.json.decode(str(metadata["spec"]))  # the first format had the experiment and nothing else
        recipe = spec["recipe"]
        known = {"layers": spec["layers"], "input": recipe["shape"]}
        return msgspec.convert(known | {key: recipe[key] for key in ("classes", "mean", "std")}, Description)
    except (msgspec.DecodeError, KeyError, TypeError, RecursionError, UnicodeError) as error:
        raise SpecError(f"{path}: damaged, what it says of its model cannot be read ({error})") from error


def _places(header: Mapping[str, Any], layout: Mapping[str, Slot], path: Path) -> dict[str, tuple[int, int]]:
    """Where each parameter's bytes lie behind the header: side by side, in any order, no gap."""
    if lacking := [name for name in layout if name not in header]:
        raise SpecError(f"{path}: its layers need {lacking[0]}, which is not in it; the file is damaged")
    if foreign := [name for name in header if name not in layout]:
        raise SpecError(f"{path}: holds {foreign[0]!r}, which none of its layers has; the file is damaged")
    places: dict[str, tuple[int, int]] = {}
    for name, slot in layout.items():
        entry = header[name] if isinstance(header[name], dict) else {}
        if entry.get("dtype") != "F32" or entry.get("shape") != list(slot.shape):
            given = f"{entry.get('dtype')}{entry.get('shape')}"
            raise SpecError(f"{path}: {name} is said to be {given}, its layer needs F32{list(slot.shape)}")
        match entry.get("data_offsets"):
            case [int(start), int(end)] if 0 <= start and end - start == 4 * (slot.end - slot.start):
                places[name] = start, end
            case offsets:
                raise SpecError(f"{path}: {name} does not lie where its header says ({offsets}); the file is damaged")
    at = 0
    for start, end in sorted(places.values()):
        if start != at:
            raise SpecError(f"{path}: its tensors overlap or leave gaps; the file is damaged")
        at = end
    return places


def _digest(texts: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> str:
    """blake2b over the texts and the parameters, both by name: another version may lay them out in another order."""
    digest = hashlib.blake2b(digest_size=16)
    contents = {name: tensor.astype("<f4", copy=False).tobytes() for name, tensor in tensors.items()}
    contents |= {key: text.encode(errors="surrogatepass") for key, text in texts.items()}
    for key, content in sorted(contents.items()):
        digest.update(f"{key}:{len(content)};".encode())
        digest.update(content)
    return digest.hexdigest()
