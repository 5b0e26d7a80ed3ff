"""Kernels check nothing, so this does: no number is read or written beside the arrays they are given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("side", ["end", "begin"])
def test_nothing_beside_an_array_is_touched(side: str) -> None:
    """Every array of a step ends (begins) at a page that nobody may touch, and all that is not data is NaN."""
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    done = subprocess.run(
        [sys.executable, HERE / "guarded.py", side],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=100,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
