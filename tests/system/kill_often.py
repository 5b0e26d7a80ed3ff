"""A run whose node is killed again and again, and one that is left alone: what do they end at?

    python tests/system/kill_often.py --kills 200
    python tests/system/kill_often.py --kills 30 --others 2

Each life ends by SIGKILL at a random moment, while it starts, trains or saves; the next one is started at once with
nothing but the run folder. With --others it has a swarm around it, which goes on, and which it must find again
(`kill_in_swarm.py`). Prints one JSON object; fails where a state does not load or more than an interval is lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from kill_in_swarm import kill_in_swarm
from lives import INTERVAL_S, SLACK_S, Life, Losses, Story, check_lives, drawn_hour
from processes import GossipProcess, patient, spec_text


def write_spec(folder: Path, samples: int) -> Path:
    path = folder / "killed.toml"
    text = spec_text(
        data_shards=1, train_samples=samples, node_checkpoint_every_s=INTERVAL_S, node_listen="tcp://127.0.0.1:0"
    )
    path.write_text(text, encoding="utf-8")
    return path


def kill_often(folder: Path, kills: int, seed: int, samples: int) -> dict[str, Any]:
    """Play both runs in `folder`."""
    draw = random.Random(seed)
    spec = write_spec(folder, samples)
    words = ("node", spec, "--run-dir", folder / "victim")
    story, losses = Story(folder / "victim"), Losses()
    while len(losses) < kills:
        life = Life.start(story, *words, cwd=folder, name="victim")
        drawn_hour(draw, life)
        loss = life.kill()
        if loss is None:
            break
        losses.add(loss)
    else:
        life = Life.start(story, *words, cwd=folder, name="victim")
        life.process.wait(600.0)
    story.read()
    check_lives(story.events)
    calm = GossipProcess("node", spec, "--run-dir", folder / "calm", "--json", cwd=folder, name="calm")
    calm.wait(600.0)
    ends = [life.process.result(), calm.result()]
    return {
        "kills": len(losses),
        "restored": sum(event["event"] == "restored" for event in story.events),
        **losses.report(),
        "accuracy_killed": ends[0]["accuracy"],
        "accuracy_calm": ends[1]["accuracy"],
        "steps_killed": ends[0]["steps"],
        "steps_calm": ends[1]["steps"],
        "incarnation": [event["incarnation"] for event in story.events if event["event"] == "started"][-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--others", type=int, default=0, help="calm nodes beside it, in its swarm")
    parser.add_argument("--joins", action="store_true", help="with --others: it came by a ticket, and did not found")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", type=int, default=0, help="of the run; 0 for some that outlast the kills")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the runs in this new folder")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=not given.keep)
        if given.others:
            found = kill_in_swarm(
                folder, given.kills, given.seed, given.others, founds=not given.joins, samples=given.samples
            )
        else:
            found = kill_often(folder, given.kills, given.seed, given.samples or 450_000 * given.kills)
    print(json.dumps(found))
    assert found["longest_lost_s"] < patient(INTERVAL_S + SLACK_S), "more than an interval and a save is lost"


if __name__ == "__main__":
    main()
