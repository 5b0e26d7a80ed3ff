"""A run whose node is killed again and again, and one that is left alone: what do they end at?

    python tests/system/kill_often.py --kills 200

Each life ends by SIGKILL at a random moment, while it starts, trains or saves; the next one is started at once with
nothing but the run folder. Prints one JSON object; fails where a state does not load or more than an interval is lost.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from processes import GossipProcess, spec_text

from gossip.observe import Event

INTERVAL_S = 1.0
EARLY = 0.2  # the share of lives that end at any moment of the start, which takes about a second
START_S, LIFE_S = 1.5, 3.0  # at most, after the process began, or after it began to train
SLACK_S = 2.0  # a save's duration, and a tick's lateness on a busy machine


def write_spec(folder: Path, samples: int) -> Path:
    path = folder / "killed.toml"
    text = spec_text(
        data_shards=1, train_samples=samples, node_checkpoint_every_s=INTERVAL_S, node_listen="tcp://127.0.0.1:0"
    )
    path.write_text(text, encoding="utf-8")
    return path


def lost_s(victim: GossipProcess, killed_at: float) -> float:
    """Seconds of training of the life that was just ended which the disk knows nothing of."""
    marks = [e["t"] for e in victim.events if e["event"] in ("training", "checkpoint_saved")]
    return killed_at - marks[-1] if marks and marks[-1] > victim.began_at else 0.0


def wait_for_its_hour(victim: GossipProcess, draw: random.Random) -> bool:
    """Until a random moment of this life; False where it has ended by itself before."""
    is_early, start_s, life_s = draw.random() < EARLY, draw.uniform(0, START_S), draw.uniform(0, LIFE_S)
    try:
        if is_early:
            victim.process.wait(start_s)
        else:
            victim.wait_for("training", 60.0, when=lambda e: e["t"] > victim.began_at)
            victim.process.wait(life_s)
    except subprocess.TimeoutExpired:
        return True
    return False


def check_life(events: list[Event]) -> None:
    """What the last start restored is the newest checkpoint that was said to be saved before it, or a newer one."""
    start = max((n for n, event in enumerate(events) if event["event"] == "started"), default=0)
    saved = [event["step"] for event in events[:start] if event["event"] == "checkpoint_saved"]
    restored = [event["step"] for event in events[start:] if event["event"] == "restored"]
    assert not any(event["event"] in ("checkpoint_refused", "checkpoint_failed") for event in events)
    assert not restored or restored[0] >= max(saved, default=0), f"restored {restored[0]}, saved {saved[-1]}"


def kill_often(folder: Path, kills: int, seed: int, samples: int) -> dict[str, Any]:
    """Play both runs in `folder`."""
    draw = random.Random(seed)
    spec = write_spec(folder, samples)
    words = ("node", spec, "--run-dir", folder / "victim", "--json")
    done, longest_lost_s = 0, 0.0
    while done < kills:
        victim = GossipProcess(*words, cwd=folder, name="victim")
        done += wait_for_its_hour(victim, draw)
        victim.process.kill()
        killed_at = time.time()
        is_over = victim.process.wait() == 0
        victim.close()
        assert is_over or victim.process.returncode == -9, victim.story()
        if victim.events:
            check_life(victim.events)
            longest_lost_s = max(longest_lost_s, lost_s(victim, killed_at))
        if is_over:
            break
    else:
        victim = GossipProcess(*words, cwd=folder, name="victim")
        victim.wait(600.0)
        check_life(victim.events)
    calm = GossipProcess("node", spec, "--run-dir", folder / "calm", "--json", cwd=folder, name="calm")
    calm.wait(600.0)
    ends = [victim.result(), calm.result()]
    starts = [event for event in victim.events if event["event"] == "restored"]
    return {
        "kills": done,
        "restored": len(starts),
        "longest_lost_s": round(longest_lost_s, 2),
        "accuracy_killed": ends[0]["accuracy"],
        "accuracy_calm": ends[1]["accuracy"],
        "steps_killed": ends[0]["steps"],
        "steps_calm": ends[1]["steps"],
        "incarnation": [event["incarnation"] for event in victim.events if event["event"] == "started"][-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", type=int, default=0, help="of the run; 0 for some that outlast the kills")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(kill_often(Path(folder), given.kills, given.seed, given.samples or 150_000 * given.kills)))


if __name__ == "__main__":
    main()
