"""The repository as a stranger finds it: whole, theirs to use, and about nobody's machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from gossip import spec

CHECKOUT = Path(__file__).parents[2]
TEXT_BYTES_MAX = 2_000_000
# Written in pieces, or this file would find itself.
FORBIDDEN = re.compile("|".join(("/ho" + "me/[a-z]", "/ro" + "ot/", "/wo" + "rk/", "/Us" + "ers/[A-Za-z]")))


def tracked() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip("needs a git checkout")
    paths = [CHECKOUT / name for name in result.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and path.stat().st_size < TEXT_BYTES_MAX]


def test_no_file_names_a_folder_of_one_machine() -> None:
    """Such a path works for one person once."""
    found = []
    for path in tracked():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(CHECKOUT)}:{n}: {line}" for n, line in enumerate(lines, 1) if FORBIDDEN.search(line)
        ]
    assert not found, "\n".join(found)


def test_the_licence_is_whole() -> None:
    """Apache-2.0, with its appendix, and named so in the package."""
    text = (CHECKOUT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text and "9. Accepting Warranty or Additional Liability" in text
    assert "limitations under the License." in text.splitlines()[-1]
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0"
    assert all((CHECKOUT / name).is_file() for name in project["license-files"])


@pytest.mark.parametrize("path", sorted(CHECKOUT.glob("deploy/experiments/*.toml")), ids=lambda path: path.name)
def test_every_experiment_loads(path: Path) -> None:
    """The file a beginner starts with must not be the one that went stale."""
    assert spec.load(path).name


def test_files_named_in_the_readme_exist() -> None:
    """Commands in README's fenced blocks name files of this repository."""
    readme = CHECKOUT / "README.md"
    if not readme.is_file():
        pytest.skip("no README.md")
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", readme.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    words = " ".join(blocks).split()
    folders = [path.name for path in CHECKOUT.iterdir() if path.is_dir() and path.name not in ("runs", "build", "dist")]
    named = [word for word in words if re.fullmatch(rf"({'|'.join(map(re.escape, folders))})/[\w./-]+\.\w+", word)]
    assert [name for name in named if not (CHECKOUT / name).exists()] == []


def test_the_readme_shows_the_experiment_that_is_shipped(tmp_path: Path) -> None:
    """The annotated file in README is mnist-mlp.toml, so its values are that file's."""
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```toml\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert len(shown) == 1
    (tmp_path / "shown.toml").write_text(shown[0], encoding="utf-8")
    assert spec.load(tmp_path / "shown.toml").hash == spec.load(CHECKOUT / "deploy/experiments/mnist-mlp.toml").hash


# -- Makefile ---------------------------------------------------------------------------------------


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    shutil.copy(CHECKOUT / "Makefile", folder)
    for name in ("requirements.txt", "pyproject.toml", "setup.py"):
        (folder / name).touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *words], cwd=folder, env=kept, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("goal", ["demo", "test", "check", "recording"])
def test_a_bare_machine_is_told_what_to_install_in_one_line(tmp_path: Path, goal: str) -> None:
    """No Python, an old one, or one without venv: the same line, and nothing half-made."""
    result = make(tmp_path, goal, "PYTHON=no-such-python")
    (line,) = result.stderr.splitlines()
    assert "sudo apt-get install git make python3 python3-venv" in line
    assert result.returncode != 0 and result.stdout == "" and not (tmp_path / ".venv").exists()


def test_nothing_is_installed_twice(tmp_path: Path) -> None:
    """With stamps newer than their sources only the goal's own command is left."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    make(tmp_path, "--version")
    for name in ("bin/pip", "installed", "installed-dev"):
        (tmp_path / ".venv" / name).touch()
    demo = make(
        tmp_path, "--dry-run", "demo", "--old-file=requirements.txt", "--old-file=pyproject.toml", "--old-file=setup.py"
    )
    assert demo.stdout.splitlines() == [".venv/bin/gossip demo"], demo
    changed = make(tmp_path, "--dry-run", "demo", "--what-if=requirements.txt")
    assert "pip --disable-pip-version-check install" in changed.stdout


def test_the_check_script_is_executable() -> None:
    assert os.access(CHECKOUT / ".ci" / "run", os.X_OK)
