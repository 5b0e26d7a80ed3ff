"""The scripts behind the figures: what others read of them, and what they say without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "analysis" / "bench"
KEYS = {"model", "batch", "threads", "ratio", "samples_per_s", "gflops", "peak_gflops", "gradient_error"}


@pytest.mark.parametrize("script", ["trainer.py", "learning.py"])
def test_without_pytorch_one_sentence_says_what_to_install(script: str) -> None:
    """It is no requirement of ours, so many will not have it."""
    code = f"import runpy, sys; sys.modules['torch'] = None; runpy.run_path({str(BENCH / script)!r}, None, '__main__')"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(BENCH)!r}); {code}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == ["this compares with PyTorch, which is not installed: pip install torch"]


@pytest.mark.parametrize("script", ["trainer.py", "learning.py", "busy_neighbour.py", "compile.py"])
def test_every_script_still_finds_what_it_imports(script: str) -> None:
    """Nothing else notices when a name it uses moves."""
    if script in ("trainer.py", "learning.py"):
        pytest.importorskip("torch")
    result = subprocess.run([sys.executable, BENCH / script, "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_comparison_checks_the_gradient_and_fills_its_table() -> None:
    """Where PyTorch is there. The ratio itself is for a quiet machine to say."""
    pytest.importorskip("torch")
    words = ["--json", "--quick", "--models", "mlp", "--batches", "32"]
    result = subprocess.run([sys.executable, BENCH / "trainer.py", *words], capture_output=True, text=True, check=True)
    (row,) = json.loads(result.stdout)["rows"]
    assert row.keys() >= KEYS
    assert (row["model"], row["batch"], row["threads"]) == ("mlp", 32, 1)
    assert row["gradient_error"] < 1e-5 and row["ratio"] > 0
