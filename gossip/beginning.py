"""[model] init and freeze: what an experiment begins with beyond its seed, and what of that stays as it is.

The file is named relative to the experiment's; what a swarm shares is its digest. A node that has the file begins as
all others do; one that came with a ticket alone gets its state from donors anyway, and knows that it lacks the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gossip.errors import SpecError
from gossip.models.layers import Layer
from gossip.sections import ModelSpec

if TYPE_CHECKING:
    import numpy as np

    from gossip.data.recipes import Recipe
    from gossip.models.model import Model


def checked(model: ModelSpec, layers: Sequence[Layer], beside: Path | None) -> ModelSpec:
    """The section with init as an absolute path, and its digest. beside: None where a peer sent it.

    Raises SpecError naming the key: a file that is no model, that does not fit or is not the one it was, a pattern for
    nothing.
    """
    if model.freeze:
        from gossip.models.freezing import frozen_parameters

        try:
            frozen_parameters(layers, model.freeze)
        except SpecError as error:
            raise SpecError(f"model.freeze = {list(model.freeze)}: {error}") from error
    if not model.init:
        return model
    if beside is None:
        raise SpecError(f"model.init = {model.init!r}: a path of another machine; a swarm shares a file's digest only")
    found = msgspec.structs.replace(model, init=str((beside / model.init).resolve()), init_sha256="")
    found = msgspec.structs.replace(found, init_sha256=_digest(Path(found.init)))
    if model.init_sha256 not in ("", found.init_sha256):
        raise SpecError(f"model.init = {model.init!r}: is not the file it was: its SHA-256 is {found.init_sha256}")
    start_parameters(found, layers)
    return found


def start_parameters(model: ModelSpec, layers: Sequence[Layer]) -> Mapping[str, np.ndarray] | None:
    """What the network begins with instead of drawn numbers, by name; None where others know it. Raises SpecError."""
    if not model.init:
        return None if model.init_sha256 else {}
    from gossip.models.portable import read
    from gossip.models.starting import start_of

    path = Path(model.init)
    found = read(path)
    if _digest(path) != model.init_sha256:
        raise SpecError(f"model.init = {model.init!r}: has changed since the experiment was read; put it back")
    try:
        return start_of(found, layers).parameters
    except SpecError as error:
        raise SpecError(f"model.init = {model.init!r}: {error}") from error


def story(section: ModelSpec, recipe: Recipe, model: Model) -> dict[str, Any]:
    """For the event `started_from`: what begins as in the file, what is drawn, what stays as it is."""
    frozen = model.dim - sum(int(row["end"] - row["start"]) for row in model.segments)
    told: dict[str, Any] = {"file": section.init, "sha256": section.init_sha256, "frozen": frozen}
    if model.start is None:
        return told | {"why": "the file is not here: all comes from donors, frozen layers in 8 bits"}
    if not section.init:
        return told
    from gossip.models.portable import read

    found = read(Path(section.init))
    other = {"normalisation": (recipe.mean, recipe.std) != (found.mean, found.std)}
    other["classes"] = recipe.classes != found.classes
    fresh = [name for name in model.layout if name not in model.start]
    return told | {"fresh": fresh, "other": [name for name, differs in other.items() if differs]}


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SpecError(f"model.init = {str(path)!r}: cannot be read ({error.strerror})") from error
