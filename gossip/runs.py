"""runs/NAME/: everything one run leaves behind, and how to read it again.

spec.toml, run.json (commit, machine, versions, the canonical spec, the result), events.jsonl,
model.safetensors, accuracy.svg. Knows files; does not know sockets or processes.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossip import __version__
from gossip.checkpoint import Checkpoints
from gossip.data.recipes import find_recipe
from gossip.errors import SpecError
from gossip.observe import EventFile, strict_json, write_atomically
from gossip.spec import Experiment, from_canonical, recipe_to_toml

if TYPE_CHECKING:
    import numpy as np

    from gossip.models.layers import Layer
    from gossip.models.model import Model

PACKAGES = ("pyzmq", "numpy", "numba", "msgpack", "lz4", "pillow", "msgspec", "safetensors", "cryptography")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's folder."""

    path: Path

    @classmethod
    def create(cls, experiment: Experiment, wanted: Path | None = None, under: Path = Path("runs")) -> RunFolder:
        """A new folder: `wanted`, or runs/NAME, runs/NAME-2, ...

        Raises SpecError where it cannot be made, or holds a run already.
        """
        path = wanted or under / experiment.name
        try:
            run = cls(_claim(wanted) if wanted else _next_free(under, experiment.name))
        except OSError as error:
            raise SpecError(f"{path}: cannot make the run's folder ({error.strerror}); choose another") from error
        run.write_spec(experiment)
        run.note(spec=json.loads(experiment.canonical()), **_circumstances())
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run, by its folder or its name under runs/. Raises SpecError."""
        for candidate in (Path(path), Path("runs") / path):
            if (candidate / "run.json").is_file():
                return cls(candidate)
        raise SpecError(f"{path}: no run there; expected a folder with run.json, such as runs/NAME")

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    def open_events(self) -> EventFile:
        """events.jsonl, to append to. Raises SpecError."""
        try:
            return EventFile(self.events)
        except OSError as error:
            raise SpecError(f"{self.events}: cannot be written ({error.strerror}); choose another folder") from error

    @property
    def name(self) -> str:
        """The run's: of a node that a launcher started, the launcher's."""
        return self.path.parents[1].name if self.path.parent.name == "nodes" else self.path.name

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.path / "checkpoints")

    @property
    def node_key(self) -> Path:
        """Who the node is: its CURVE secret key. Only where it was not given one of its own."""
        return self.path / "node.key"

    @property
    def is_finished(self) -> bool:
        """Has its node come to the end of the run? Raises SpecError."""
        result = self.notes().get("result")
        return isinstance(result, dict) and result.get("outcome") == "finished"

    @property
    def owner_key(self) -> Path:
        """Only where the swarm was founded: what lets its owner pause and stop it."""
        return self.path / "owner.key"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def picture(self) -> Path:
        return self.path / "accuracy.svg"

    def experiment(self) -> Experiment:
        """The experiment of this run, as its nodes ran it. Raises SpecError."""
        try:
            canonical = json.dumps(self.notes()["spec"], sort_keys=True, separators=(",", ":")).encode()
        except (KeyError, TypeError) as error:
            raise SpecError(f"{self.path}/run.json: no spec in it; was it written by gossip?") from error
        return from_canonical(canonical)

    def notes(self) -> dict[str, Any]:
        """What run.json holds. Raises SpecError."""
        try:
            return json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SpecError(f"{self.path}/run.json: cannot be read ({error})") from error

    def clear_if_half_made(self) -> None:
        """Remove what a process left that was killed while it made this folder: nothing has happened in it.

        Only for whoever holds the lock. Raises SpecError.
        """
        began = any((self.path / name).exists() for name in ("events.jsonl", "swarm.json", "checkpoints"))
        if (self.path / "run.json").exists() and not began and "result" not in self.notes():
            for name in ("run.json", "spec.toml", "recipe.toml", "owner.key", "init.safetensors"):
                (self.path / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what a process left that was killed while it wrote. Only for whoever holds the lock."""
        for path in self.path.iterdir():
            if re.fullmatch(r"\..+\.\d+", path.name):  # as write_atomically names them
                path.unlink(missing_ok=True)

    def note(self, **facts: Any) -> None:
        """Add facts to run.json."""
        known = self.notes() if (self.path / "run.json").exists() else {}
        self._write("run.json", strict_json(known | facts, indent=1).encode())

    def save_picture(self, svg: str) -> None:
        self._write(self.picture.name, svg.encode())

    def save_model(self, model: Model, x: np.ndarray, experiment: Experiment) -> None:
        """x: float32, at least model.dim long."""
        from gossip.models import portable

        recipe = experiment.recipe
        data = portable.pack(model.layers, recipe.classes, recipe.mean, recipe.std, x, experiment.canonical())
        self._write(self.model.name, data)

    def load_model(self, model: Model) -> np.ndarray:
        """The saved parameters as float32[model.dim]. Raises SpecError where the file is missing or another model's."""
        return load_parameters(self.model, model)

    def write_spec(self, experiment: Experiment) -> None:
        """spec.toml, and beside it the recipe, where that is not one of ours: a joiner got it from its swarm."""
        name = experiment.recipe.name
        try:
            is_ours = not name.endswith(".toml") and find_recipe(name) == experiment.recipe
        except SpecError:
            is_ours = False
        if not is_ours:
            self._write("recipe.toml", _encoded(recipe_to_toml(experiment.recipe)))
        init = self._keep_start(experiment) if experiment.model.init else ""
        self._write("spec.toml", _encoded(experiment.to_toml(name if is_ours else "recipe.toml", init)))

    def _keep_start(self, experiment: Experiment) -> str:
        """A copy of the model the run begins with, once: whoever comes back to it needs no other file."""
        name = "init.safetensors"
        if not (self.path / name).exists():
            try:
                data = Path(experiment.model.init).read_bytes()
            except OSError as error:
                raise SpecError(f"{experiment.model.init}: cannot be read ({error.strerror}); put it back") from error
            self._write(name, data)
        return name

    def _write(self, name: str, data: bytes) -> None:
        """Raises SpecError: a full disk, a folder somebody took away."""
        try:
            write_atomically(self.path / name, data)
        except OSError as error:
            raise SpecError(
                f"{self.path / name}: cannot be written ({error.strerror}); make room or choose another folder"
            ) from error


class RunLock:
    """One process per run folder: held while it lives, released by the kernel however it ends."""

    NAME = "lock"

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, folder: Path) -> RunLock:
        """Raises BlockingIOError where another process holds it, OSError where it cannot be made."""
        fd = os.open(folder / cls.NAME, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return cls(fd)

    def release(self) -> None:
        os.close(self._fd)


def _claim(path: Path) -> Path:
    """A folder of the user's choice: it may exist, but hold no run. Raises SpecError, OSError."""
    path.mkdir(parents=True, exist_ok=True)
    if (path / "run.json").exists():
        raise SpecError(f"{path}: holds a run already; choose another --run-dir or remove it")
    return path


def _next_free(under: Path, name: str) -> Path:
    """A folder nobody else has, even one that starts in the same moment. Raises OSError."""
    path, number = under / name, 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1
            path = under / f"{name}-{number}"


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise SpecError("the experiment has text that is no Unicode, and cannot be kept as a file") from error


def load_parameters(path: Path, model: Model) -> np.ndarray:
    """float32[model.dim] from a portable model. Raises SpecError: what is wrong with it, or what does not fit."""
    from gossip.models import portable

    found = portable.read(path)
    texts, expected = ([layer.text for layer in layers] for layers in (found.layers, model.layers))
    if texts != expected or found.shape != model.layers[0].input:
        raise SpecError(
            f"{path}: another architecture: it holds {_chain(found.layers)}, expected {_chain(model.layers)}"
        )
    return found.x


def _chain(layers: Sequence[Layer]) -> str:
    """For a person."""
    height, width, channels = layers[0].input
    return f"{', '.join(layer.text for layer in layers)} on {height}x{width}x{channels}"


def _circumstances() -> dict[str, Any]:
    """Commit, machine and versions: what somebody needs to run it again."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    machine = {"system": platform.platform(), "processor": platform.machine(), "python": platform.python_version()}
    return {"gossip": __version__, "commit": _commit(), "machine": machine, "versions": versions}


def _commit() -> str | None:
    """The checkout's commit; None where gossip does not run from one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
