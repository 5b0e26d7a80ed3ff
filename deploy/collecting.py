"""Nodes' run folders, fetched: whole files only under their names, and nothing twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from remote import CHECKPOINT, KEPT
from ssh import HostError

from gossip.errors import SpecError

COPY_BYTES = 1 << 18


class Collection:
    """What one host's nodes leave in DIR/NODE/."""

    def __init__(
        self, folder: Path, nodes: list[str], on_news: Callable[[str], None], checkpoints: bool = False
    ) -> None:
        self._folder, self._nodes, self._on_news, self._checkpoints = folder, nodes, on_news, checkpoints
        self.bytes = self.files = 0

    def have(self) -> dict[str, tuple[int, str]]:
        """Path -> (bytes, SHA-256) of what is here already: of a copy that was cut off, its beginning."""
        found = {}
        for path in sorted([*self._folder.glob("*/*"), *self._folder.glob("*/checkpoints/*")]):
            relative = path.relative_to(self._folder).as_posix().removesuffix(".part")
            if self._is_ours(relative) and path.is_file():  # NAME.part sorts behind NAME, and is what is newer
                content = path.read_bytes()
                found[relative] = (len(content), hashlib.sha256(content).hexdigest())
        return found

    def on_piece(self, message: dict[str, Any], read: Callable[[int], bytes]) -> None:
        """One file's content follows, or the rest of it. Raises HostError."""
        if "file" not in message:
            return
        relative = message["file"]
        if not self._is_ours(relative):  # a host does not choose where we write
            raise HostError("refused", f"it sends {relative!r}, which nobody asked for")
        path = self._folder / relative
        part = path.with_name(path.name + ".part")
        try:
            self._receive(path, part, message, read)
        except OSError as error:
            raise SpecError(
                f"{path}: cannot be written ({error.strerror}); make room or choose another folder"
            ) from error

    def _receive(self, path: Path, part: Path, message: dict[str, Any], read: Callable[[int], bytes]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        source = part if part.exists() else path
        begun = source.read_bytes()[: message["offset"]] if message["offset"] else b""
        digest, left = hashlib.sha256(begun), message["bytes"]
        with part.open("wb") as file:
            file.write(begun)
            while left:
                data = read(min(left, COPY_BYTES))
                if not data:
                    raise HostError("cut off", f"{message['file']} was cut off; collect again goes on from there")
                file.write(data)
                digest.update(data)
                left -= len(data)
                self.bytes += len(data)
                self._on_news(f"fetching, {self.bytes / 1e6:.1f} MB")
        if digest.hexdigest() != message["sha256"]:
            part.unlink()
            raise HostError("damaged", f"{message['file']} is not what was sent; collect again")
        part.replace(path)
        self.files += 1

    def _is_ours(self, relative: str) -> bool:
        node, _, name = relative.partition("/")
        folder, _, file = name.partition("/")
        is_checkpoint = self._checkpoints and folder == "checkpoints" and CHECKPOINT.fullmatch(file) is not None
        return node in self._nodes and (name in KEPT or is_checkpoint)


def accuracy_of(run: Path) -> float | None:
    """Of a collected run's model, on all held-out samples; None where there is no model."""
    if not (run / "model.safetensors").is_file():
        return None
    try:
        return json.loads((run / "run.json").read_text(encoding="utf-8"))["result"]["accuracy"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
