"""Fixtures that start processes, end them, and show their last words when a test fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import GossipProcess, spec_text

Start = Callable[..., GossipProcess]


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels() -> None:
    """Compile once, so that no test measures the compiler. It is the machine's first run that pays for this."""
    code = "from gossip.warmup import warm_up; warm_up()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=110)


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """start(*words) runs `gossip *words` in the test's folder."""
    processes: list[GossipProcess] = []

    def start(*words: Any, name: str = "", cwd: Path = tmp_path, **more: Any) -> GossipProcess:
        name = name or f"p{len(processes)}"
        processes.append(GossipProcess(*words, cwd=cwd, name=name, **more))
        return processes[-1]

    yield start
    for process in processes:
        process.close()
    if getattr(request.node, "has_failed", False):
        print("\n".join(process.story() for process in processes))


@pytest.fixture
def start_node(start: Start, tmp_path: Path) -> Start:
    """start_node(spec or "--join", ...) runs a node on loopback that keeps its run in the test's folder."""
    count = iter(range(100))

    def start_node(*words: Any, name: str = "", **more: Any) -> GossipProcess:
        name = name or f"node{next(count)}"
        own = ("--listen", "tcp://127.0.0.1:0", "--run-dir", tmp_path / name, "--name", name)
        return start("node", *own, *words, name=name, **more)  # of an option given twice the last counts

    return start_node


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[..., Path]:
    """write_spec(section_key=value, ...) -> the file."""

    def write(file: str = "test.toml", **changes: Any) -> Path:
        path = tmp_path / file
        path.write_text(spec_text(**changes), encoding="utf-8")
        return path

    return write


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call" and report.failed:
        item.has_failed = True  # type: ignore[attr-defined]
    return report
