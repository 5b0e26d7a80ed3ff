"""checkpoints/checkpoint-STEP.safetensors: a node's whole state in one file, whole or not there at all.

The tensors are the trainer's arrays; the file's metadata holds a JSON text, the notes, and a digest over the notes
and every tensor's bytes. A file is written beside its place and renamed into it; two are kept, so that one that
rotted on the disk costs one interval and not the run. Knows files and buffers; does not know what they mean.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossip.errors import GossipError, SpecError
from gossip.observe import write_parts_atomically

if TYPE_CHECKING:
    import numpy as np

FORMAT = "gossip-checkpoint-1"
KEPT = 2
HEADER_BYTES_MAX = 16 * 2**20  # the notes of 4,096 members are below 1 MiB
DTYPES = {"f": "F32", "i": "I32", "q": "I64", "l": "I64", "B": "U8"}  # buffer formats -> safetensors' names

_LENGTH = struct.Struct("<Q")
_NAME = re.compile(r"checkpoint-(\d{1,19})\.safetensors")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What `load` found. arrays: read-only views of the file's bytes; notes: as they were given to `save`."""

    path: Path
    step: int
    arrays: dict[str, np.ndarray]
    notes: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, arrays: Mapping[str, Any], notes: Mapping[str, Any]) -> Path:
        """Write a checkpoint, then let go of all but the newest KEPT. Raises OSError; then the others are untouched.

        OSError too (EFBIG) where `load` would refuse the notes for their length.

        arrays: C-contiguous buffers of float32, int32, int64 or uint8 (numpy's or array's), not copied: nobody may
        write to them meanwhile.
        """
        path = self.folder / f"checkpoint-{step}.safetensors"
        buffers = {name: memoryview(array) for name, array in sorted(arrays.items())}
        write_parts_atomically(path, [_header(buffers, notes), *(buffer.cast("B") for buffer in buffers.values())])
        for old in [old for old in self.paths() if old != path][KEPT - 1 :]:
            with contextlib.suppress(OSError):  # it is only in the way; the next save tries again
                old.unlink()
        return path

    def load(self, accept: Callable[[Checkpoint], None] = lambda _: None) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that is whole and fits, and what was wrong with the newer ones, a sentence each.

        accept: raises GossipError where a checkpoint is not for us. None where there is no file at all. Raises
        SpecError where there are files, and none will do.
        """
        paths = self.paths()
        wrong: list[str] = []
        for path in paths:
            try:
                checkpoint = read_checkpoint(path)
                accept(checkpoint)
                return checkpoint, wrong
            except GossipError as error:
                wrong.append(str(error) if str(path) in str(error) else f"{path}: {error}")
        if paths:
            raise SpecError(
                f"{'; '.join(wrong)}. Put a copy of one of them back (a backup has the newest), or start anew with "
                "--fresh"
            )
        return None, []

    def paths(self) -> list[Path]:
        """The files, newest first."""
        found = {path: _NAME.fullmatch(path.name) for path in self._files()}
        steps = {path: int(match[1]) for path, match in found.items() if match}
        return sorted(steps, key=lambda path: -steps[path])

    def set_aside(self, newer_than: int) -> None:
        """Rename what `load` refused, so that it takes no good file's place."""
        for path in self.paths():
            if int(_NAME.fullmatch(path.name)[1]) > newer_than:  # type: ignore[index]
                with contextlib.suppress(OSError):
                    path.replace(path.with_suffix(".damaged"))

    def sweep(self) -> None:
        """Remove what a process left that was killed while it wrote. Only for whoever holds the run's lock.

        And what was set aside, once there are as many good ones again as are kept.
        """
        is_well = len(self.paths()) >= KEPT
        for path in self._files():
            if path.name.startswith(".checkpoint-") or (is_well and path.suffix == ".damaged"):
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        try:
            return list(self.folder.iterdir())
        except OSError:
            return []


def read_checkpoint(path: Path) -> Checkpoint:
    """A whole checkpoint. Raises SpecError: what is wrong with the file."""
    import safetensors
    import safetensors.numpy

    try:
        data = path.read_bytes()
        header = _read_header(data)
        notes, digest = header["__metadata__"]["notes"], header["__metadata__"]["digest"]
        arrays = safetensors.numpy.load(data)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, struct.error, safetensors.SafetensorError) as error:
        raise SpecError(f"{path}: damaged, no checkpoint of this version ({str(error) or 'empty'})") from error
    if digest != _digest(notes, {name: memoryview(array.data).cast("B") for name, array in sorted(arrays.items())}):
        raise SpecError(f"{path}: damaged, its contents do not match its digest")
    found: dict[str, Any] = json.loads(notes)
    return Checkpoint(path, int(_NAME.fullmatch(path.name)[1]), arrays, found)  # type: ignore[index]


def _header(buffers: Mapping[str, memoryview], notes: Mapping[str, Any]) -> bytes:
    """safetensors' own: a length, and JSON that says what lies where; made here so that no tensor is copied."""
    text = json.dumps(notes, separators=(",", ":"), allow_nan=False)
    contents = {name: buffer.cast("B") for name, buffer in buffers.items()}
    table: dict[str, Any] = {"__metadata__": {"format": FORMAT, "digest": _digest(text, contents), "notes": text}}
    for (name, buffer), (first, end) in zip(buffers.items(), _offsets(buffers), strict=True):
        table[name] = {"dtype": DTYPES[buffer.format], "shape": list(buffer.shape or ()), "data_offsets": [first, end]}
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > HEADER_BYTES_MAX:
        raise OSError(
            errno.EFBIG, f"the notes take {len(header):,} bytes, at most {HEADER_BYTES_MAX:,} can be read back"
        )
    return _LENGTH.pack(len(header)) + header


def _offsets(buffers: Mapping[str, memoryview]) -> Iterator[tuple[int, int]]:
    end = 0
    for buffer in buffers.values():
        first, end = end, end + buffer.nbytes
        yield first, end


def _read_header(data: bytes) -> dict[str, Any]:
    """Raises ValueError, struct.error."""
    (length,) = _LENGTH.unpack_from(data)
    if length > min(HEADER_BYTES_MAX, len(data)):
        raise ValueError("its header is longer than the file")
    header: dict[str, Any] = json.loads(data[_LENGTH.size : _LENGTH.size + length])
    if header["__metadata__"]["format"] != FORMAT:
        raise ValueError(f"format {header['__metadata__']['format']!r}, expected {FORMAT}")
    return header


def _digest(notes: str, contents: Mapping[str, memoryview]) -> str:
    """blake2b over the notes and each tensor's name, length and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name, content in {"": memoryview(notes.encode()), **contents}.items():
        digest.update(f"{name}:{content.nbytes};".encode())
        digest.update(content)
    return digest.hexdigest()
