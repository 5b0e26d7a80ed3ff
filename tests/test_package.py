"""The package as a user meets it: quick to import, alone in its folder, complete when built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
HEAVY = ("numba", "numpy", "zmq", "torch", "PIL")


def run_python(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("words", [("-c", "import gossip"), ("-m", "gossip", "--help")], ids=["import", "help"])
def test_it_starts_light_and_at_once(words: tuple[str, ...], tmp_path: Path) -> None:
    """Somebody who asks for help must not wait for a compiler. The best of five: the machine may be busy."""
    times_s = []
    for _ in range(5):
        began = time.perf_counter()
        result = run_python("-X", "importtime", *words, cwd=tmp_path)
        times_s.append(time.perf_counter() - began)
        assert result.returncode == 0, result.stderr
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "gossip" in loaded
    assert not loaded & set(HEAVY)
    assert min(times_s) < 0.5


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, as in a site-packages folder."""
    return shutil.copytree(CHECKOUT / "gossip", tmp_path / "gossip", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.mark.parametrize("name", ["hooks.py", "registry.py"])
def test_import_refuses_the_other_gossip_in_our_folder(package: Path, name: str) -> None:
    """PyPI's `gossip` (hooks and signals) was installed first, then ours over it."""
    (package / name).touch()
    result = run_python("-c", "import gossip", cwd=package.parent, PYTHONPATH=str(package.parent))
    assert result.returncode != 0
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {package} also holds files of an unrelated package")
    assert "pip uninstall gossip gossip-sgd" in last


def test_the_command_refuses_when_the_other_init_replaced_ours(package: Path) -> None:
    """PyPI's `gossip` was installed after ours."""
    (package / "hooks.py").touch()
    (package / "__init__.py").write_text('"""Somebody else\'s."""\n', encoding="utf-8")
    result = run_python("-m", "gossip", "--help", cwd=package.parent, PYTHONPATH=str(package.parent))
    assert result.returncode != 0
    assert "pip uninstall gossip gossip-sgd" in result.stderr.splitlines()[-1]


def test_a_clean_copy_imports(package: Path) -> None:
    """The tests above fail for the right reason."""
    result = run_python(
        "-c", "import gossip; print(gossip.__file__)", cwd=package.parent, PYTHONPATH=str(package.parent)
    )
    assert result.stdout.strip() == str(package / "__init__.py")


def test_nothing_but_gossip_is_importable_from_the_checkout(tmp_path: Path) -> None:
    """A top-level `datasets` would break Hugging Face's; `tests` and `analysis` would break somebody else's."""
    look = (
        "import importlib.util as u\n"
        "for name in ('datasets', 'deploy', 'analysis', 'tests'):\n"
        "    found = u.find_spec(name)\n"
        "    print(name, list(found.submodule_search_locations or []) if found else [])\n"
    )
    result = run_python("-c", look, cwd=tmp_path, PYTHONPATH="")
    assert result.returncode == 0, result.stderr
    assert str(CHECKOUT) not in result.stdout


def test_requirements_are_the_fixed_few() -> None:
    """Anything heavy is an extra."""
    lines = (CHECKOUT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {line.partition(">")[0] for line in lines if line and not line.startswith("#")}
    assert names == {
        "pyzmq", "numpy", "numba", "msgpack", "lz4", "pillow",
        "click", "rich", "psutil", "safetensors", "msgspec", "cryptography",
    }  # fmt: skip
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "dependencies" in project["dynamic"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_sdist_installs_and_finds_its_recipes(tmp_path: Path) -> None:
    """checkout -> sdist -> wheel -> a fresh environment that borrows only our dependencies."""
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("needs a git checkout, to know which files a clone would hold")
    for name in filter(None, tracked.stdout.split("\0")):
        if (CHECKOUT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, source / name)
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    result = run_python("-c", build, cwd=source)
    assert result.returncode == 0, result.stderr
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"requirements.txt", "setup.py", "LICENSE", "NOTICE", "datasets/glyphs.toml"} <= names

    pip = ("-m", "pip", "--disable-pip-version-check")
    wheel = (*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(sdist))
    result = run_python(*wheel, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    install = (*pip, "--python", str(python), "install", "--quiet", "--no-deps", *map(str, wheels.glob("*.whl")))
    result = run_python(*install, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    # Through PYTHONPATH the tests' environment lends its folders, and its .pth files, an editable gossip, stay out.
    lent = os.environ | {"PYTHONPATH": str(Path(pytest.__file__).parents[1])}
    look = "import gossip; from gossip.data.recipes import find_recipe as f; print(gossip.__file__, f('glyphs').name)"
    for command, expected in (
        ([python, "-c", look], str(tmp_path / "env")),
        ([python, "-c", look], "glyphs"),
        ([python.with_name("gossip"), "--help"], "Start a node"),
    ):
        result = subprocess.run(command, cwd=tmp_path, env=lent, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        assert expected in result.stdout
