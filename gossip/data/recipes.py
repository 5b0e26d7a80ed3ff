"""A recipe: one small TOML file that says what a data set is, and where its files come from.

Knows names, shapes, classes, hashes and urls. Does not know pixels: no numpy here, since every
`gossip` command reads the recipe. A recipe travels to joiners inside the spec as plain JSON, so
every limit is stated in the types and holds for a peer's recipe as for our own.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gossip.errors import SpecError

# \Z, not $: `$` would also accept a trailing line feed in what becomes a file name.
# May lie in a folder or two; no part begins with a dot.
FileName = Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63}/){0,2}[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")]
RecipeName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
Url = Annotated[str, Meta(pattern=r"^https?://[!-~]{1,500}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Side = Annotated[int, Meta(ge=1, le=1024)]
Channels = Annotated[int, Meta(ge=1, le=4)]
Share = Annotated[float, Meta(ge=0, le=1)]
Samples = Annotated[int, Meta(ge=1, le=10_000_000)]
ClassName = Annotated[str, Meta(min_length=1, max_length=64)]
Role = Literal["train_images", "train_labels", "test_images", "test_labels"]

ROLES: tuple[Role, ...] = ("train_images", "train_labels", "test_images", "test_labels")
FILES_MAX = 48  # all of them travel in the spec
ZIP_ROLES = {"train_images", "test_images"}
RECIPE_BYTES_MAX = 1 << 20
PIXEL_BYTES_MAX = 1 << 34  # 16 GiB: more is not a data set for this loader, but a slip in the recipe


class RecipeFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a data set: what it holds, and how to know it and get it."""

    role: Role
    name: FileName
    bytes: Annotated[int, Meta(ge=1, le=1 << 34)]
    sha256: Sha256
    urls: Annotated[tuple[Url, ...], Meta(max_length=8)] = ()


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data set of labelled images. shape: (height, width, channels). A label is an index into `classes`."""

    name: RecipeName
    format: Literal["glyphs", "idx", "zips"]
    shape: tuple[Side, Side, Channels]
    classes: Annotated[tuple[ClassName, ...], Meta(min_length=2, max_length=256)]  # a label is one uint8
    mean: Annotated[tuple[Share, ...], Meta(min_length=1, max_length=4)]  # per channel, pixels scaled to 0..1
    std: Annotated[tuple[Annotated[float, Meta(gt=0, le=1)], ...], Meta(min_length=1, max_length=4)]
    train_samples: Samples
    test_samples: Samples
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0  # of generated images, and of the order of zipped ones
    files: Annotated[tuple[RecipeFile, ...], Meta(max_length=FILES_MAX)] = ()

    def __post_init__(self) -> None:
        """What no single type can say. msgspec turns the ValueError into its ValidationError."""
        channels = self.shape[2]
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"expected mean and std with one number per channel ({channels})")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("expected every class once in classes")
        height, width, _ = self.shape
        if (self.train_samples + self.test_samples) * height * width * channels > PIXEL_BYTES_MAX:
            raise ValueError(f"expected at most {PIXEL_BYTES_MAX} bytes of pixels in all")
        if self.format == "glyphs" and (self.files or self.shape != (28, 28, 1) or len(self.classes) != 10):
            raise ValueError("format glyphs expects shape [28, 28, 1], ten classes and no files: it is drawn")
        if self.format == "idx" and sorted(file.role for file in self.files) != sorted(ROLES):
            raise ValueError(f"format idx expects four files, one per role: {', '.join(ROLES)}")
        if self.format == "zips" and ({file.role for file in self.files} != ZIP_ROLES or channels not in (1, 3)):
            raise ValueError(f"format zips expects files of the roles {', '.join(sorted(ZIP_ROLES))}; 1 or 3 channels")


def find_recipe(name_or_path: str, beside: Path | None = None) -> Recipe:
    """The recipe of that name, or in that .toml file (relative to `beside`, else to the working folder).

    Raises SpecError: no such recipe, or one that cannot be read.
    """
    if name_or_path.endswith(".toml"):
        return read_recipe((beside or Path()) / name_or_path)
    known = {path.stem: path for path in sorted(recipe_folder().glob("*.toml"))}
    if name_or_path in known:
        return read_recipe(known[name_or_path])
    near = difflib.get_close_matches(name_or_path, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise SpecError(f"no such recipe; {hint}expected one of {', '.join(known)}, or the path of a .toml file")


def recipe_folder() -> Path:
    """Where named recipes lie: inside the package in a wheel (setup.py put them there), else the checkout.

    In this order, because next to an installed package `datasets` is somebody else's.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / "_datasets"
    return inside if inside.is_dir() else package.parent / "datasets"


def read_recipe(path: Path) -> Recipe:
    """Read and check one recipe file. Raises SpecError naming the file, the key and what was expected."""
    try:
        if path.stat().st_size > RECIPE_BYTES_MAX:
            raise SpecError(f"{path}: expected a recipe of at most {RECIPE_BYTES_MAX} bytes")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot read the recipe ({error.strerror}); expected a TOML file") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are both ValueErrors
        raise SpecError(f"{path}: not valid TOML: {error}") from error
    try:
        return msgspec.convert(table, Recipe)
    except msgspec.ValidationError as error:
        raise SpecError(f"{path}: {_explain(str(error))}") from error


def _explain(text: str) -> str:
    """msgspec's text with the key first: "files[0].bytes: expected int, got str"."""
    what, _, where = text.replace("`", "").partition(" - at $")
    where = where.lstrip(".")
    unknown = re.fullmatch(r"Object contains unknown field (\S+)", what)
    if unknown:
        key = f"{where}.{unknown[1]}" if where else unknown[1]
        known = (RecipeFile if where.startswith("files") else Recipe).__struct_fields__
        return f"{key}: unknown key; expected one of {', '.join(known)}"
    missing = re.fullmatch(r"Object missing required field (\S+)", what)
    if missing:
        return f"{where}.{missing[1]}: missing".lstrip(".") + "; expected this key"
    what = what[:1].lower() + what[1:]
    return f"{where}: {what}" if where else what
