"""A model file that says of itself what it is, and a sentence for every way in which it can be wrong."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gossip.errors import SpecError
from gossip.models.layers import preset_layers, resolve_layers
from gossip.models.layout import layout_of
from gossip.models.model import build_model
from gossip.models.portable import HEADER_BYTES_MAX, PortableModel, pack, read
from gossip.models.presets import PRESETS

CLASSES = ("left", "right", "neither")
LAYERS = resolve_layers(("conv 2 3x3", "relu", "batchnorm", "dense classes"), (5, 5, 2), 3)
DIM = list(layout_of(LAYERS).values())[-1].end
X = np.abs(np.random.default_rng(1).standard_normal(DIM, np.float32))  # variances are among them
FILE = pack(LAYERS, CLASSES, (0.4, 0.5), (0.2, 1.0), X, b'{"name":"bars"}')


def reads(path: Path, data: bytes) -> PortableModel:
    path.write_bytes(data)
    return read(path)


def changed(change: Callable[[dict[str, Any]], object], data: bytes = FILE) -> bytes:
    """The file with another header."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_comes_back_as_it_was(tmp_path: Path, preset: str) -> None:
    """Without its run folder: layers, shapes, classes, normalisation, and every number."""
    layers = resolve_layers(preset_layers(preset), (32, 32, 3), 10)
    x = build_model(layers, (0.4,) * 3, (1,) * 3).init(3)
    classes = [f"class {number}" for number in range(10)]
    found = reads(tmp_path / "model", pack(layers, classes, (0.4, 0.1, 0.3), (1, 0.5, 0.7), x))
    assert found.layers == layers and found.classes == tuple(classes)
    assert (found.mean, found.std, found.spec) == ((0.4, 0.1, 0.3), (1, 0.5, 0.7), b"")
    assert found.x.tobytes() == x.tobytes()


def test_what_it_says_is_enough_to_use_it(tmp_path: Path) -> None:
    images = np.random.default_rng(2).integers(0, 256, (40, 5, 5, 2), np.uint8)
    labels = np.zeros(40, np.uint8)
    before = build_model(LAYERS, (0.4, 0.5), (0.2, 1.0)).evaluate(X, images, labels)
    found = reads(tmp_path / "model", FILE)
    after = found.build().evaluate(found.x, images, labels)
    assert after.loss == before.loss and np.array_equal(after.predictions, before.predictions)


def test_it_is_a_safetensors_file_like_any_other(tmp_path: Path) -> None:
    """Other tools read the tensors by name; what they write with our metadata, in an order of their own, we read."""
    tensors = safetensors.numpy.load(FILE)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: slot.shape for name, slot in layout_of(LAYERS).items()
    }
    metadata = json.loads(FILE[8 : 8 + struct.unpack_from("<Q", FILE)[0]])["__metadata__"]
    theirs = safetensors.numpy.save(dict(sorted(tensors.items(), reverse=True)), metadata)
    assert reads(tmp_path / "model", theirs).x.tobytes() == X.tobytes()


def test_the_first_format_is_read(tmp_path: Path) -> None:
    """It had the experiment's canonical form for all description, and no digest."""
    recipe = {"shape": [5, 5, 2], "classes": CLASSES, "mean": [0.4, 0.5], "std": [0.2, 1.0], "name": "bars"}
    spec = json.dumps({"layers": [layer.text for layer in LAYERS], "recipe": recipe, "seed": 1})
    data = safetensors.numpy.save(safetensors.numpy.load(FILE), {"format": "gossip-1", "spec": spec})
    found = reads(tmp_path / "model", data)
    assert found.layers == LAYERS and found.x.tobytes() == X.tobytes() and found.std == (0.2, 1.0)


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        *way, last = path.split("/")
        for step in way:
            header = header[step]
        header[last] = value

    return change


def _describe(**facts: Any) -> bytes:
    described = json.loads(json.loads(FILE[8 : 8 + struct.unpack_from("<Q", FILE)[0]])["__metadata__"]["model"])
    return changed(_set("__metadata__/model", json.dumps(described | facts)))


LENGTH = 8 + struct.unpack_from("<Q", FILE)[0]
BAD = {
    "empty": (b"", "not a safetensors file"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a safetensors file"),
    "a list": (struct.pack("<Q", 2) + b"[]", "not a safetensors file"),
    "cut in its header": (FILE[:100], "truncated within its header"),
    "cut in its tensors": (FILE[:-7], "truncated, 7 bytes are missing"),
    "longer": (FILE + b"x", "longer than its header says"),
    "huge header": (struct.pack("<Q", 2**60) + FILE[8:], "its header claims 1,152,921,504,606,846,976 bytes"),
    "deep header": (struct.pack("<Q", 2 * 10**5) + b'{"a":' + b"[" * 2 * 10**5, "its header is no JSON"),
    "no metadata": (safetensors.numpy.save({"a": X}), "not a model of gossip"),
    "newer": (changed(_set("__metadata__/format", "gossip-3")), "written by a newer gossip in format 3.*update gossip"),
    "strange format": (changed(_set("__metadata__/format", "gossip-²")), "not a model of gossip"),
    "lying shape": (
        changed(_set("0.conv.weight/shape", [2, 3, 3, 3])),
        r"0.conv.weight is said to be F32\[2, 3, 3, 3\], its layer needs F32\[2, 3, 3, 2\]",
    ),
    "other numbers": (changed(_set("0.conv.bias/dtype", "F64")), r"0.conv.bias is said to be F64\[2\]"),
    "no entry": (changed(lambda header: header.pop("0.conv.bias")), "its layers need 0.conv.bias"),
    "one too many": (changed(_set("9.conv.bias", {})), "'9.conv.bias', which none of its layers has"),
    "wrong entry": (changed(_set("0.conv.bias", [])), "0.conv.bias is said to be"),
    "lying offsets": (changed(_set("0.conv.bias/data_offsets", [0, 2**62])), "0.conv.bias does not lie where"),
    "overlap": (changed(_set("0.conv.bias/data_offsets", [0, 8])), "overlap or leave gaps"),
    "larger layers": (_describe(layers=["dense 16000000", "dense classes"], input=[1, 1, 2]), "need 0.dense.weight"),
    "no such layers": (_describe(layers=["convolve"]), 'do not fit together: layer 1 "convolve": unknown layer'),
    "no parameters": (_describe(layers=["relu", "maxpool 5"]), "do not fit together"),
    "no classes": (_describe(classes=["one"]), "cannot be read"),
    "no deviation": (_describe(std=[0, 1]), "a std above 0"),
    "mean of grey": (_describe(mean=[0.5]), "one number per channel"),
    "another text": (_describe(mean=[0.5, 0.5]), "do not match its digest"),
    "another number": (FILE[:-4] + struct.pack("<f", 3.25), "do not match its digest"),
    "not a number": (FILE[:-4] + struct.pack("<f", np.nan), "2.batchnorm.variance is not finite"),
    "infinite": (FILE[:LENGTH] + struct.pack("<f", np.inf) + FILE[LENGTH + 4 :], "0.conv.weight is not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gets_one_sentence(tmp_path: Path, name: str) -> None:
    """Which names the file and says what is wrong, before memory is asked for by a file's word."""
    data, expected = BAD[name]
    with pytest.raises(SpecError, match=expected) as caught:
        reads(tmp_path / "model", data)
    assert str(caught.value).startswith(f"{tmp_path / 'model'}: ") and "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(SpecError, match="no such file"):
            read(path)


def test_a_header_as_long_as_allowed_is_all_that_is_read(tmp_path: Path) -> None:
    """A sparse file of a terabyte is refused at once."""
    path = tmp_path / "model"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", HEADER_BYTES_MAX + 1) + b"{")
        file.truncate(2**40)
    with pytest.raises(SpecError, match="its header claims"):
        read(path)


def is_harmless(path: Path, data: bytes) -> bool:
    """An error of ours, or the very same model."""
    try:
        found = reads(path, data)
    except SpecError:
        return True
    return found.x.tobytes() == X.tobytes() and (found.layers, found.classes) == (LAYERS, CLASSES)


def test_no_single_byte_makes_it_another_model(tmp_path: Path) -> None:
    """Each byte of the file with its lowest, its highest, or all bits turned; and cut behind every byte."""
    path = tmp_path / "model"
    for at, bits in zip(range(len(FILE)), itertools.cycle((1, 128, 1, 255)), strict=False):
        assert is_harmless(path, FILE[:at] + bytes([FILE[at] ^ bits]) + FILE[at + 1 :]), (at, bits)
    for end in range(len(FILE)):
        with pytest.raises(SpecError):
            reads(path, FILE[:end])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_makes_it_another_model(tmp_path: Path, data: st.DataObject) -> None:
    """Pieces cut out, doubled, moved, written over."""
    damaged = FILE
    for _ in range(data.draw(st.integers(1, 3))):
        start, end, at = sorted(data.draw(st.tuples(*[st.integers(0, len(damaged))] * 3)))
        piece = data.draw(st.binary(max_size=20) | st.sampled_from([damaged[start:end], b"0", b"}", b'"', b"]"]))
        damaged = damaged[:start] + piece + damaged[data.draw(st.sampled_from([start, end, at])) :]
    assert is_harmless(tmp_path / "model", damaged)
