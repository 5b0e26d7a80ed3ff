"""From a recipe to arrays: find the files by name and hash, fetch what is missing, draw what is drawn.

Everything read from disk or from the network is checked against the recipe's sizes and hashes before it
is believed; nothing is ever unpickled. Folders looked through, in this order: the one given, $GOSSIP_DATA,
the cache; in each also the subfolder named like the recipe.
"""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np
import PIL
from numpy.typing import NDArray

from gossip.data.glyphs import GENERATOR, draw_glyphs
from gossip.data.idx import parse_idx
from gossip.data.recipes import Recipe, RecipeFile
from gossip.data.zips import read_zip
from gossip.errors import DataError

Progress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes so far and the bytes in all."""

NETWORK_TIMEOUT_S = 30.0  # of one connect or read, not of a whole file
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Read-only, C-contiguous arrays: images uint8[n, height, width, channels], labels uint8[n].

    mean: the recipe's, 0 to 1 by channel: the colour of what an augmented image lacks; () for black.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]
    mean: tuple[float, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (self.train_images, self.train_labels, self.test_images, self.test_labels))


def load_dataset(recipe: Recipe, data_dir: str = "", progress: Progress | None = None) -> Dataset:
    """The recipe's images and labels, from disk, from its urls, or drawn.

    data_dir: where to look first; "" for nowhere in particular. progress: watches a download instead of the
    bar on stderr. Raises DataError, one sentence: a file is missing or is not what the recipe says.
    """
    if recipe.format != "idx":
        make = draw_glyphs if recipe.format == "glyphs" else partial(_unzip, data_dir=data_dir, progress=progress)
        return _load_made(recipe, make)
    files = {file.role: file for file in recipe.files}
    arrays: dict[str, NDArray[np.uint8]] = {}
    for role, file in files.items():
        content, path = _obtain(recipe, file, data_dir, progress)
        samples = recipe.train_samples if role.startswith("train") else recipe.test_samples
        height, width, channels = recipe.shape
        pixels = (height, width) if channels == 1 else recipe.shape
        try:
            array = parse_idx(content, (samples, *pixels) if role.endswith("images") else (samples,))
            if role.endswith("labels") and array.max() >= len(recipe.classes):
                raise DataError(f"holds the label {array.max()}, expected 0 to {len(recipe.classes) - 1}")
        except DataError as error:
            raise DataError(f"{recipe.name}: {path} {error}") from error
        arrays[role] = array.reshape(samples, *recipe.shape) if role.endswith("images") else array
    return Dataset(**arrays, mean=recipe.mean)


def cache_folder() -> Path:
    """$GOSSIP_CACHE, else ~/.cache/gossip/datasets; it may not exist yet."""
    return Path(os.environ.get("GOSSIP_CACHE") or "~/.cache/gossip/datasets").expanduser()


# -- Files ----------------------------------------------------------------------------------------------


def _obtain(recipe: Recipe, file: RecipeFile, data_dir: str, progress: Progress | None) -> tuple[bytes, Path]:
    """The verified content of one file, and where it lies. Raises DataError."""
    folders = [Path(text).expanduser() for text in (data_dir, os.environ.get("GOSSIP_DATA")) if text]
    folders.append(cache_folder())
    complaints = []
    for folder in folders:
        for path in (folder / file.name, folder / recipe.name / file.name):
            try:
                content = path.read_bytes() if path.stat().st_size == file.bytes else b""
            except FileNotFoundError:
                continue
            except OSError as error:
                complaints.append(f"{path} cannot be read ({error.strerror})")
                continue
            if hashlib.sha256(content).hexdigest() == file.sha256:
                return content, path
            complaints.append(f"{path} has the right name but another size or sha256")
    goal = cache_folder() / recipe.name / file.name
    for url in file.urls:
        try:
            return _download(url, file, goal, progress), goal
        except (OSError, http.client.HTTPException, DataError) as error:
            reason = getattr(error, "reason", error)  # URLError hides the sentence in there
            complaints.append(f"{urlsplit(url).hostname}: {reason}")
    looked = ", ".join(map(str, folders))
    why = f" ({'; '.join(complaints)})" if complaints else ""
    origin = f"get it from {file.urls[0]}" if file.urls else "its recipe names no url, so ask its author"
    raise DataError(
        f"{recipe.name}: {file.name} with the recipe's sha256 is not in {looked}{why}; "
        f"{origin} and pass its folder with --data-dir"
    )


def _download(url: str, file: RecipeFile, goal: Path, progress: Progress | None) -> bytes:
    """Fetch into `goal`, verified before it gets that name. Raises DataError, OSError or HTTPException."""
    request = urllib.request.Request(url, headers={"User-Agent": "gossip-sgd"})
    content = bytearray()
    with (
        nullcontext(progress) if progress else _bar() as report,
        urllib.request.urlopen(request, timeout=NETWORK_TIMEOUT_S) as response,
    ):
        while len(content) <= file.bytes and (chunk := response.read(CHUNK_BYTES)):
            content += chunk
            report(file.name, len(content), file.bytes)
    if len(content) != file.bytes:
        kind = "more" if len(content) > file.bytes else "fewer"
        raise DataError(f"{kind} bytes than the {file.bytes} the recipe names")
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise DataError("not the sha256 the recipe names")
    _write_whole(goal, content)
    return bytes(content)


def _write_whole(path: Path, content: bytes | bytearray) -> None:
    """Write a file that is either all there or not there, also when several nodes write it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def _bar() -> Iterator[Progress]:
    """A progress bar on stderr, gone when the file is there."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda name, done, total: bar.update(task, description=name, completed=done, total=total)


# -- Images that take long to make -------------------------------------------------------------------------


Made = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # images and labels, first the training ones


def _load_made(recipe: Recipe, make: Callable[[Recipe], Made]) -> Dataset:
    """Made once, then read back from the cache: pixels, labels, and the SHA-256 of both."""
    path = cache_folder() / f"{recipe.name}-{_key(recipe)}.bin"
    samples = recipe.train_samples + recipe.test_samples
    pixels = samples * math.prod(recipe.shape)
    content = _read_sealed(path, pixels + samples)
    if content is None:
        images, labels = make(recipe)
        content = images.tobytes() + labels.tobytes()
        # A folder that cannot be written costs seconds at every start, not the run.
        with suppress(OSError):
            _write_whole(path, content + hashlib.sha256(content).digest())
    values = np.frombuffer(content, dtype=np.uint8)
    images, labels, n = values[:pixels].reshape(-1, *recipe.shape), values[pixels:], recipe.train_samples
    return Dataset(images[:n], labels[:n], images[n:], labels[n:], recipe.mean)


def _unzip(recipe: Recipe, data_dir: str, progress: Progress | None) -> Made:
    """All zips, each split in an order of its own: in theirs one class comes after the other. Raises DataError."""
    images, labels = [], []
    for role, expected in (("train_images", recipe.train_samples), ("test_images", recipe.test_samples)):
        parts, left = [], expected
        for file in (file for file in recipe.files if file.role == role):
            content, path = _obtain(recipe, file, data_dir, progress)
            try:
                parts.append(read_zip(content, recipe.classes, recipe.shape, left))
            except DataError as error:
                raise DataError(f"{recipe.name}: {path} {error}") from error
            left -= len(parts[-1][1])
        if left:
            raise DataError(
                f"{recipe.name}: {left} of {expected} {role.replace('_', ' ')} are missing in its zip files"
            )
        # RandomState's stream is frozen (NEP 19): every machine has them in the same order.
        order = np.random.RandomState(recipe.seed).permutation(expected)
        images.append(np.concatenate([part[0] for part in parts])[order])
        labels.append(np.concatenate([part[1] for part in parts])[order])
    return np.concatenate(images), np.concatenate(labels)


def _read_sealed(path: Path, size: int) -> bytes | None:
    """The `size` bytes before the file's own SHA-256; None if it is missing, damaged or of another size."""
    try:
        content = path.read_bytes() if path.stat().st_size == size + 32 else b""
    except OSError:
        return None
    body, seal = content[:size], content[size:]
    return body if hashlib.sha256(body).digest() == seal else None


def _key(recipe: Recipe) -> str:
    """Changes with whatever changes the pixels: the recipe, the generator, and Pillow, whose font and decoder it is."""
    text = msgspec.json.encode((recipe, GENERATOR, PIL.__version__))
    return hashlib.sha256(text).hexdigest()[:16]
