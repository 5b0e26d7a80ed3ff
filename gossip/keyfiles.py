"""Secrets in files: 32 bytes as one line of hex behind a head that says what they are, for their owner's eyes only."""

from __future__ import annotations

import os
from pathlib import Path

from gossip.errors import NetworkError

SECRET_BYTES = 32


def create_secret(path: Path, head: str, secret: bytes) -> None:
    """Write a new file, mode 0600. Raises FileExistsError, and NetworkError where it cannot be made."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise
    except OSError as error:
        raise NetworkError(
            f"{path}: cannot create the key file ({error.strerror}); choose a folder you can write"
        ) from error
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(f"{head}{secret.hex()}\n")


def read_secret(path: Path, head: str, expected: str) -> bytes:
    """The 32 bytes in a file made with this head.

    expected: what the file should be, and what to do where it is not. Raises NetworkError, one sentence.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_bytes()[:1024].decode("ascii").strip()
        secret = bytes.fromhex(text.removeprefix(head))
    except OSError as error:
        raise NetworkError(
            f"{path}: cannot read the key file ({error.strerror}); give its owner read access"
        ) from error
    except ValueError:
        secret, text = b"", ""
    if len(secret) != SECRET_BYTES or not text.startswith(head):
        raise NetworkError(f"{path}: not {expected}")
    if mode & 0o077:
        raise NetworkError(f"{path}: other users can read this secret key; run: chmod 600 {path}")
    return secret
