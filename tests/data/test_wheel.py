"""What a wheel carries: recipes inside the package, and no top-level folder that is somebody else's name."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_holds_the_recipes_inside_the_package(tmp_path: Path) -> None:
    """A top-level `datasets` would break Hugging Face's; a missing recipe would break `gossip run`."""
    source = tmp_path / "source"
    hidden = shutil.ignore_patterns("__pycache__", "_datasets")
    for folder in ("gossip", "datasets"):
        shutil.copytree(CHECKOUT / folder, source / folder, ignore=hidden)
    for file in ("pyproject.toml", "setup.py", "MANIFEST.in", "requirements.txt", "README.md"):
        if (CHECKOUT / file).exists():
            shutil.copy(CHECKOUT / file, source)
    (source / "README.md").touch()
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(source),
    ]
    result = subprocess.run(build, capture_output=True, text=True)
    if "invalid command 'bdist_wheel'" in result.stdout + result.stderr:
        pytest.skip("building a wheel needs setuptools >= 70.1, or the package wheel")
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    recipes = {path.name for path in CHECKOUT.glob("datasets/*.toml")}
    assert {name.removeprefix("gossip/_datasets/") for name in names if "_datasets/" in name} == recipes
    assert all(name.startswith(("gossip/", "gossip_sgd-")) for name in names)
