"""What a sweep tries: keys of the experiment file, and the values each of them may take.

`train.learning_rate=0.03,0.1` is a list, `train.learning_rate=1e-3..1` a range. A grid is every combination of
lists; random points are drawn from lists and, log-uniformly, from ranges. Knows no files and no arrays.
"""

from __future__ import annotations

import difflib
import itertools
import math
import random
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from gossip.errors import SpecError
from gossip.spec import SECTIONS

Point = dict[str, Any]
"""One combination: value by key, such as {"train.batch": 64}."""

POINTS_MAX = 10_000
DIGITS = 3  # of a number that was drawn: more says nothing, and nobody can type it
_WORTHLESS = "changes nothing there"
# Why a key cannot be swept; a trial is one node that trains alone, on all shards, for a fixed number of samples.
REFUSED = {
    "seed": "give --seeds N to train every trial with N seeds",
    "name": _WORTHLESS,
    "owner": _WORTHLESS,
    "data.recipe": "trials are compared by the same validation samples",
    "data.partition": f"a trial trains one node on all shards: it {_WORTHLESS}",
    "data.shards": f"a trial trains one node on all shards: it {_WORTHLESS}",
    "model.init_sha256": "it follows from model.init",
    "train.time": "a trial ends after its samples, so that the machine's load decides nothing",
    "train.target_accuracy": "a trial ends after its samples",
    "train.plateau": "a trial ends after its samples, or early with --stop-early",
}
REFUSED_SECTIONS = ("exchange", "node")


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`, both included, every factor as likely; whole numbers where both ends are."""

    low: float
    high: float
    is_whole: bool

    def draw(self, rng: random.Random) -> float | int:
        value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        if self.is_whole:
            return round(value)
        return min(self.high, max(self.low, float(f"{value:.{DIGITS}g}")))


Choices = dict[str, "list[Any] | Range"]


# -- Reading --------------------------------------------------------------------------------------------

_RANGE = re.compile(r"\s*([0-9.eE+-]*[0-9])\s*\.\.\s*([0-9.][0-9.eE+-]*)\s*", re.ASCII)
_WHOLE = re.compile(r"\s*[0-9]+\s*", re.ASCII)


def read_words(words: Iterable[str]) -> Choices:
    """Of --grid KEY=VALUES, each. Raises SpecError."""
    choices: Choices = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip()
        if not equals or not text.strip():
            raise SpecError(f"--grid {word!r}: expected KEY=VALUES, such as train.learning_rate=0.03,0.1")
        _check_key(key)
        if key in choices:
            raise SpecError(f"--grid {word!r}: {key} is given twice; put all of its values into one list")
        choices[key] = _read_text(key, text)
    return choices


def read_table(table: Mapping[str, Any], source: str) -> Choices:
    """Of a sweep file's [grid]: nested tables, lists, and ranges as text. Raises SpecError."""
    choices: Choices = {}
    for key, value in _flat(table):
        _check_key(key, source)
        choices[key] = _read_text(key, value) if isinstance(value, str) else value
        if not isinstance(choices[key], list | Range) or choices[key] == []:
            raise SpecError(f'{source}: grid.{key} = {value!r}: expected a list, or a range such as "1e-3..1"')
    return choices


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _read_text(key: str, text: str) -> list[Any] | Range:
    if match := _RANGE.fullmatch(text):
        return _read_range(key, match[1], match[2])
    try:
        values = tomllib.loads(f"values = [{text}]")["values"]
    except tomllib.TOMLDecodeError:  # plain words, such as auto or 10%
        values = [_read_word(part.strip()) for part in text.split(",")]
    if not values or "" in values:
        raise SpecError(f"{key}={text}: expected values with commas between them")
    return values


def _read_word(word: str) -> Any:
    for read in (int, float):
        try:
            return read(word)
        except ValueError:
            continue
    return word.strip("\"'")


def _read_range(key: str, low: str, high: str) -> Range:
    try:
        found = Range(float(low), float(high), bool(_WHOLE.fullmatch(low) and _WHOLE.fullmatch(high)))
    except ValueError as error:
        raise SpecError(f"{key}={low}..{high}: expected two numbers") from error
    if not 0 < found.low < found.high < math.inf:
        raise SpecError(
            f"{key}={low}..{high}: expected a range that begins above 0 and ends higher: it is drawn in logs"
        )
    return found


def known_keys() -> list[str]:
    """Every key a sweep may change."""
    keys = [f"{name}.{key}" for name, kind in SECTIONS.items() for key in get_type_hints(kind)]
    return [key for key in keys if key not in REFUSED and key.split(".")[0] not in REFUSED_SECTIONS]


def _check_key(key: str, source: str = "--grid") -> None:
    if key in (known := known_keys()):
        return
    if key in REFUSED:
        raise SpecError(f"{source}: {key} cannot be swept: {REFUSED[key]}")
    section, _, name = key.partition(".")
    if section in REFUSED_SECTIONS and name in get_type_hints(SECTIONS[section]):
        raise SpecError(f"{source}: {key} cannot be swept: a trial trains one node alone, so it {_WORTHLESS}")
    by_name = {known_key.partition(".")[2]: known_key for known_key in known}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    near = near or [by_name[n] for n in difflib.get_close_matches(name or key, by_name, n=1, cutoff=0.6)]
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
    raise SpecError(f"{source}: {key}: unknown key; {hint}")


# -- Points ---------------------------------------------------------------------------------------------


def grid(choices: Choices) -> list[Point]:
    """Every combination, the last key changing fastest. Raises SpecError for a range, or too many."""
    lists = {}
    for key, values in choices.items():
        if isinstance(values, Range):
            raise SpecError(f"{key}={values.low:g}..{values.high:g}: a range is drawn from: give --random N, or a list")
        lists[key] = values
    if (count := math.prod(map(len, lists.values()))) > POINTS_MAX:
        raise SpecError(f"a grid of {count:,} trials: expected at most {POINTS_MAX:,}; draw some with --random N")
    points = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    return _distinct(points)


def draw(choices: Choices, count: int, seed: int) -> list[Point]:
    """`count` different points, fewer where there are no more. A larger count begins with the same ones."""
    rng = random.Random(f"gossip sweep {seed}")
    points: list[Point] = []
    for _ in range(100 * count):
        point = {
            key: values.draw(rng) if isinstance(values, Range) else rng.choice(values)
            for key, values in choices.items()
        }
        if point not in points:
            points.append(point)
        if len(points) == count:
            break
    return points


def _distinct(points: list[Point]) -> list[Point]:
    return [point for number, point in enumerate(points) if point not in points[:number]]
