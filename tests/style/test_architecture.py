"""The rules of the house, read from the code itself: who may import whom, and how pure the core is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gossip"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "_datasets" not in path.parts)
PROTOCOL = sorted((PACKAGE / "protocol").glob("*.py"))
LINES_MAX = 400

# Room -> what of the project it may import, besides itself, gossip.errors and the standard library.
MAY_IMPORT = {
    "protocol": (),
    "kernels": (),
    "codec": ("kernels", "codec"),
    "models": ("kernels",),
    "data": ("kernels",),
    "training": (
        "kernels",
        "codec",
        "models",
        "data",
        "sections",
        "beginning",
        "spec",
        "protocol.events",
        "protocol.messages",
    ),
    "beginning": ("data", "models", "sections"),
    "engine": ("protocol", "wire", "observe", "ledger"),
    "wire": ("protocol.messages",),
    "observe": (),
    "ledger": (),
    "errors": (),
}
# Packages from outside, by room; whoever is not named here may import any runtime dependency.
MAY_DEPEND_ON = {
    "protocol": (),
    "kernels": ("numpy", "numba", "llvmlite"),
    "engine": (),
    "wire": ("msgpack", "msgspec"),
    "observe": (),
    "ledger": (),
    "errors": (),
}
PERSON_FACING = {"click", "rich"}
MAY_FACE_PERSONS = {
    "cli",
    "__main__",
    "board",
    "commands",
    "console",
    "demo",
    "inspect",
    "launcher",
    "data",
}  # data: a download's progress
IMPURE = {"time", "threading", "socket", "os", "logging", "numpy", "asyncio", "datetime", "secrets", "uuid"}


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            module = node.module or ""
            is_folder = (ROOT / module.replace(".", "/")).is_dir()
            yield from (f"{module}.{alias.name}" if is_folder else module for alias in node.names)


def by_name(paths: list[Path]) -> object:
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


@by_name([path for path in FILES if room_of(path) in MAY_IMPORT])
def test_imports_go_one_way(path: Path) -> None:
    """A reader may understand a room without those above it; a cycle would end that."""
    room = room_of(path)
    allowed = (room, "errors", *MAY_IMPORT[room])
    for module in imports(path):
        if module.startswith("gossip."):
            inside = module.removeprefix("gossip.")
            assert any(inside == name or inside.startswith(name + ".") for name in allowed), (
                f"{path.name} imports {module}; {room} may import {allowed}"
            )


@by_name([path for path in FILES if room_of(path) in MAY_DEPEND_ON])
def test_dependencies_stay_in_their_rooms(path: Path) -> None:
    """The core runs on the standard library, the kernels on arrays alone."""
    room = room_of(path)
    for module in imports(path):
        package = module.split(".")[0]
        is_known = package in sys.stdlib_module_names or package in ("gossip", *MAY_DEPEND_ON[room])
        assert is_known, f"{path.name} imports {module}"


def test_the_two_worlds_never_meet() -> None:
    """What runs live must not lean on the simulator, nor the simulator on sockets."""
    for path in FILES:
        for module in imports(path):
            assert not (room_of(path) == "live" and module.startswith("gossip.sim")), path
            assert not (room_of(path) == "sim" and module.startswith("gossip.live")), path


def test_only_the_surface_talks_to_persons() -> None:
    """Everything else says named events, and lets the console print them."""
    for path in FILES:
        used = PERSON_FACING.intersection(module.split(".")[0] for module in imports(path))
        assert not used or room_of(path) in MAY_FACE_PERSONS, f"{path} imports {sorted(used)}"


@by_name(PROTOCOL)
def test_the_core_is_pure(path: Path) -> None:
    """No clock, no chance of its own, no I/O: that is why the simulation plays the shipped code."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not IMPURE.intersection(module.split(".")[0] for module in imports(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            assert node.attr == "Random", f"{path.name}:{node.lineno}: random.{node.attr} has a hidden seed"
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            assert [alias.name for alias in node.names] == ["Random"], f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "open", "input", "hash", "id"), f"{path.name}:{node.lineno}"


@by_name(PROTOCOL)
def test_the_core_iterates_over_no_set(path: Path) -> None:
    """The order of a set of bytes changes with every process: a story could not be replayed."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    sets = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _is_set(node.value, set())
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        loops = [node.iter] if isinstance(node, ast.For | ast.comprehension) else []
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("list", "tuple", "next", "iter")
        ):
            loops += node.args[:1]
        for iterated in loops:
            assert not _is_set(iterated, sets), f"{path.name}:{iterated.lineno}: sort it first"


def _is_set(node: ast.expr, sets: set[str]) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in ("set", "frozenset")
    return isinstance(node, ast.Set | ast.SetComp) or (isinstance(node, ast.Name) and node.id in sets)


def test_nobody_sleeps() -> None:
    """A sleep is too long on one machine and too short on another: wait for an event.

    Only a `wait_...` of the tests may look again and again, where the event is another process's.
    """
    for path in [*FILES, *sorted((ROOT / "tests").rglob("*.py"))]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            if "tests" in path.relative_to(ROOT).parts and function.name.startswith("wait_"):
                tree = _Without(function).visit(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("time", "sleep"), f"{path}:{node.lineno}"


class _Without(ast.NodeTransformer):
    """The tree, less one function."""

    def __init__(self, function: ast.FunctionDef) -> None:
        self._function = function

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        return None if node is self._function else self.generic_visit(node)


@by_name(FILES)
def test_a_module_says_what_it_knows(path: Path) -> None:
    """And tells one story, in a few hundred lines."""
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
    assert len(text.splitlines()) <= LINES_MAX, f"{path} is longer than {LINES_MAX} lines"


@pytest.mark.parametrize("code", ["import gossip", "import gossip.protocol.node", "import gossip.engine"])
def test_the_light_parts_load_nothing_heavy(code: str) -> None:
    """`import gossip` takes milliseconds: numba alone would take a second."""
    heavy = "[name for name in ('numpy', 'numba', 'zmq', 'torch') if name in sys.modules]"
    shown = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print({heavy})"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"
