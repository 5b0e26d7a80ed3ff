"""This checkout as a wheel: what travels to the hosts."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from gossip.errors import GossipError, SpecError

CHECKOUT = Path(__file__).resolve().parents[1]
SETUPTOOLS_MIN = 77  # pyproject.toml asks for it
BUILD_TIMEOUT_S = 300.0


def build_wheel(goal: Path) -> Path:
    """The wheel of this checkout, in the folder `goal`, instead of any other that lies there.

    Built from a copy: a build folder left in the checkout would put files into the wheel that are there no more.
    Raises GossipError.
    """
    with tempfile.TemporaryDirectory(prefix="gossip-wheel-") as scratch:
        source, made = Path(scratch, "source"), Path(scratch, "made")
        _copy_sources(source)
        isolation = ["--no-build-isolation"] if _has_setuptools() else []  # else pip fetches it
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps",
                   *isolation, "--wheel-dir", str(made), str(source)]  # fmt: skip
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise GossipError(f"cannot build the wheel of {CHECKOUT}: {error}") from error
        wheels = sorted(made.glob("*.whl")) if made.is_dir() else []
        if result.returncode != 0 or len(wheels) != 1:
            words = (result.stderr or result.stdout).strip().splitlines() or [f"exit status {result.returncode}"]
            errors = [word for word in words if word.lstrip().startswith("ERROR: ")]  # the last line is pip's advice
            raise GossipError(
                f"cannot build the wheel of {CHECKOUT}: {(errors or words)[-1].strip()}; without internet: "
                "pip install 'setuptools>=77' beforehand"
            )
        goal.mkdir(parents=True, exist_ok=True)
        for old in goal.glob("*.whl"):
            old.unlink()
        return Path(shutil.copy(wheels[0], goal))


def fingerprint(wheel: Path) -> str:
    """Of what the wheel holds: two builds of the same sources agree, though their time stamps differ."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            content = archive.read(name)
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def wheels_in(folder: Path) -> list[Path]:
    """The wheels of a wheelhouse. Raises SpecError where there are none."""
    found = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if not found:
        raise SpecError(f"{folder}: no wheels there; make them with: pip download -r requirements.txt -d {folder}")
    return found


def _copy_sources(goal: Path) -> None:
    hidden = shutil.ignore_patterns("__pycache__", "_datasets", "*.nbi", "*.nbc")
    for folder in ("gossip", "datasets"):
        shutil.copytree(CHECKOUT / folder, goal / folder, ignore=hidden)
    for file in ("pyproject.toml", "setup.py", "MANIFEST.in", "requirements.txt", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(CHECKOUT / file, goal)


def _has_setuptools() -> bool:
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0]) >= SETUPTOOLS_MIN
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
