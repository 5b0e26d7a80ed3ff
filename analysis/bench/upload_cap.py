"""Does an upload cap cost the trainer anything? CPU time of its thread per step, with the cap and without.

Cores are shared and clocks drift, so the two alternate and the medians of CPU time are compared, not seconds.

    python analysis/bench/upload_cap.py deploy/experiments/two-machines.toml --upload "1 mbit/s" --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from gossip.observe import read_events

NODES = 2
SETTLED = 5  # reports at the start of a node: kernels are loaded, caches are cold


def step_cpu_s(spec: Path, upload: str, folder: Path) -> float:
    """Median CPU seconds per step over all reports of all nodes of one run."""
    words = ["train", str(spec), "--nodes", str(NODES), "--alone-steps", "0", "--run-dir", str(folder)]
    words += ["--upload", upload] if upload else []
    subprocess.run([sys.executable, "-m", "gossip", *words], check=True, stdout=subprocess.DEVNULL)
    found: list[float] = []
    for events in sorted(folder.glob("nodes/*/events.jsonl")):
        reports = [event["step_cpu_s"] for event in read_events(events) if event["event"] == "status"]
        found += [cpu_s for cpu_s in reports[SETTLED:] if cpu_s > 0]
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--upload", default="1 mbit/s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            free = step_cpu_s(options.spec, "", Path(folder) / f"free{number}")
            capped = step_cpu_s(options.spec, options.upload, Path(folder) / f"capped{number}")
            ratios.append(capped / free)
            if not options.json:
                print(f"round {number + 1}: {1e6 * free:.0f} us without, {1e6 * capped:.0f} us with the cap")
    result = {"upload": options.upload, "ratios": [round(r, 4) for r in ratios], "ratio": statistics.median(ratios)}
    print(json.dumps(result) if options.json else f"with the cap {result['ratio']:.3f} of the CPU time without")


if __name__ == "__main__":
    main()
