"""A trial's values as an experiment file: the file the sweep was made from, its comments kept, with these values."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gossip.spec import INSTEAD_OF, parse, toml_value
from gossip.sweep.plan import Base
from gossip.sweep.space import Point

PATHS = (("data", "recipe"), ("model", "init"))  # relative to the file they stand in


def promoted(base: Base, point: Point, out: Path) -> tuple[str, bool]:
    """The text for the file `out`, and whether the original's comments are in it. Raises SpecError.

    What the command line changed for the sweep's sake, such as --sample, is not in it.
    """
    changes = dict(point)
    table = tomllib.loads(base.text)
    for section, name in PATHS:
        path = changes.get(f"{section}.{name}") or table.get(section, {}).get(name, "")
        is_path = name == "init" or path.endswith(".toml")  # else it is the name of a recipe of ours
        if path and is_path and not Path(path).is_absolute():
            changes[f"{section}.{name}"] = os.path.relpath(base.path.parent / path, out.absolute().parent)
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        values = table.setdefault(section, {}) if section else table
        values.pop(INSTEAD_OF.get(key, ""), None)
        values[name] = value
    text = edited(base.text, changes)
    try:
        if tomllib.loads(text) == table:
            parse(text, out)
            return text, True
    except tomllib.TOMLDecodeError:
        pass  # a layout that the editor below does not know
    experiment = parse(base.text, out, changes)
    return experiment.to_toml(changes.get("data.recipe", ""), changes.get("model.init", "")), False


def edited(text: str, changes: Mapping[str, Any]) -> str:
    """TOML text with other values, line by line: right for [section] and `key = value`, to be checked by the caller."""
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")  # not splitlines: other signs may be in a string
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        if (instead := INSTEAD_OF.get(key)) and (found := _find(lines, section, instead)):
            del lines[found[0] : found[1]]
        _set(lines, section, name, toml_value(value))
    return "\n".join(lines) + "\n"


def _set(lines: list[str], section: str, name: str, value: str) -> None:
    if found := _find(lines, section, name):
        first, end, before, comment = found
        lines[first:end] = [f"{before}{value}{comment}"]
        return
    start, end = _section(lines, section)
    if start is None:
        lines += ["", f"[{section}]", f"{name} = {value}"]
        return
    while end > start and not lines[end - 1].strip():
        end -= 1
    lines.insert(end, f"{name} = {value}")


def _section(lines: list[str], section: str) -> tuple[int | None, int]:
    """(first line after the header, line of the next header); None where there is no such section."""
    headers = [(n, m[1].strip()) for n, line in enumerate(lines) if (m := re.match(r"\s*\[+([^\[\]]+)\]", line))]
    places = [("", -1), *((name, n) for n, name in headers)]
    for at, (name, n) in enumerate(places):
        if name == section:
            return n + 1, places[at + 1][1] if at + 1 < len(places) else len(lines)
    return None, len(lines)


def _find(lines: list[str], section: str, name: str) -> tuple[int, int, str, str] | None:
    """(first line, line after the last, text before the value, comment after it) of a key, or None."""
    start, end = _section(lines, section)
    for first in range(start or 0, end if start is not None else 0):
        match = re.match(rf"(\s*{re.escape(name)}\s*=\s*)(.*)", lines[first])
        if match is None:
            continue
        for last in range(first, end):  # a list may span lines
            *inner, tail = [match[2], *lines[first + 1 : last + 1]]
            for cut in [m.start() for m in re.finditer(r"\s*#", tail)] + [len(tail)]:
                try:
                    tomllib.loads("value = " + "\n".join([*inner, tail[:cut]]))
                except tomllib.TOMLDecodeError:
                    continue
                return first, last + 1, match[1], tail[cut:]
    return None
