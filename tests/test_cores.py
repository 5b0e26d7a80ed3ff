"""Nodes of one machine share its cores without knowing each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gossip import cores
from gossip.cores import Cores


@contextmanager
def another_node(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds its place until it is killed."""
    code = "import sys; from pathlib import Path; from gossip.cores import Cores\n"
    code += "with Cores('auto', Path(sys.argv[1])): print('here', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def _six_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "available", lambda: 6)
    monkeypatch.setattr(cores, "LOOK_EVERY_S", 0.0)


def test_a_node_alone_has_all_cores(tmp_path: Path) -> None:
    with Cores("auto", tmp_path / "nodes") as mine:
        assert mine.threads() == 6
    assert not list((tmp_path / "nodes").iterdir())


def test_nodes_share(tmp_path: Path) -> None:
    """And who is killed gives its part back."""
    with Cores("auto", tmp_path) as mine, another_node(tmp_path) as second:
        assert mine.threads() == 3
        with another_node(tmp_path):
            assert mine.threads() == 2
        second.send_signal(signal.SIGKILL)
        second.wait()
        assert mine.threads() == 6


def test_what_somebody_asks_for_is_not_shared(tmp_path: Path) -> None:
    with Cores(5, tmp_path) as mine, another_node(tmp_path):
        assert mine.threads() == 5


def test_more_nodes_than_cores_have_one_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "available", lambda: 1)
    with Cores("auto", tmp_path) as mine, another_node(tmp_path):
        assert mine.threads() == 1


def test_without_a_folder_a_node_is_alone(tmp_path: Path) -> None:
    """A disk that does not take it stops nobody."""
    (tmp_path / "file").write_text("in the way")
    with Cores("auto", tmp_path / "file") as mine:
        assert mine.threads() == 6


def test_this_process_may_run_somewhere() -> None:
    assert 1 <= len(os.sched_getaffinity(0)) <= (os.cpu_count() or 1)
