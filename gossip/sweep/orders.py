"""What somebody asked to be swept: a sweep file, or an experiment file with options; options win.

A sweep file is TOML:

    spec = "mnist.toml"     # the experiment, relative to this file
    sample = "10%"          # and samples, seeds, random, stop_early: as the options
    [grid]
    train.learning_rate = [0.03, 0.1, 0.3]
    train.batch = "16..256" # a range, to be drawn from
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gossip.data.sample import SAMPLE_EXPECTED
from gossip.errors import SpecError
from gossip.spec import read_text
from gossip.sweep.plan import Base, check_points
from gossip.sweep.space import Choices, Point, draw, grid, read_table, read_words

SEEDS_MAX, RANDOM_MAX = 100, 10_000
_WHOLE = "a whole number from 1"

KEYS: dict[str, Any] = {
    "spec": Annotated[str, Meta(min_length=1, description="the path of an experiment file")],
    "sample": Annotated[str | int, Meta(description=SAMPLE_EXPECTED)],
    "samples": Annotated[int, Meta(ge=1, le=10**15, description=f"{_WHOLE}: what a trial trains on")],
    "seeds": Annotated[int, Meta(ge=1, le=SEEDS_MAX, description=f"{_WHOLE} to {SEEDS_MAX}")],
    "random": Annotated[int, Meta(ge=1, le=RANDOM_MAX, description=f"{_WHOLE} to {RANDOM_MAX}")],
    "stop_early": Annotated[bool, Meta(description="true or false")],
    "grid": Annotated[dict[str, Any], Meta(description="a table of keys and their values")],
}


@dataclass(frozen=True, slots=True)
class Orders:
    """Checked: every point is an experiment that could be trained."""

    base: Base
    points: list[Point]
    seed: int
    seeds: int
    stop_early: bool


def read_orders(path: Path, words: tuple[str, ...], options: Mapping[str, Any]) -> Orders:
    """words: of --grid. options: those of KEYS that were given. Raises SpecError."""
    text, table = read_text(path), _table(path)
    asked: dict[str, Any] = {}
    choices: Choices = {}
    if "grid" in table:
        asked = _checked(table, path)
        choices = read_table(asked["grid"], str(path))
        path = path.parent / asked["spec"]
        text = read_text(path)
    choices |= read_words(words)
    asked |= options
    if not choices:
        raise SpecError(
            f"{path}: nothing to sweep over; expected --grid KEY=VALUES, such as train.learning_rate=0.03,0.1, "
            "or a sweep file with a table [grid]"
        )
    changes = {"data.sample": asked["sample"]} if asked.get("sample") else {}
    seed = _table(path).get("seed", 1)
    points = draw(choices, asked["random"], seed) if asked.get("random") else grid(choices)
    base = Base(text, path, changes, asked.get("samples", 0), points[0])
    check_points(base, points)
    return Orders(base, points, base.shared().seed, asked.get("seeds", 1), bool(asked.get("stop_early")))


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: not valid TOML: {error}") from error


def _checked(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """A sweep file's own keys. Raises SpecError."""
    if "spec" not in table:
        raise SpecError(f'{path}: spec: missing; expected the path of an experiment file, such as spec = "mnist.toml"')
    for key, value in table.items():
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(KEYS)}"
            raise SpecError(f"{path}: {key} = {value!r}: unknown key of a sweep file; {hint}")
        try:
            msgspec.convert(value, KEYS[key])
        except msgspec.ValidationError as error:
            expected = KEYS[key].__metadata__[0].description
            raise SpecError(f"{path}: {key} = {value!r}: expected {expected}") from error
    return dict(table)
