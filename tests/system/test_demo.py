"""`gossip demo`: everything it says happened did happen, and it takes a minute at most."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import GossipProcess, patient

from gossip.observe import read_events

pytestmark = pytest.mark.slow
Start = Callable[..., GossipProcess]


def test_the_demo(start: Start, tmp_path: Path) -> None:
    result = start("demo", "--json").result(75)
    ends = {node["id"]: node["end"] for node in result["nodes"]}
    assert ends == {"n0": "killed", "n1": "left", **dict.fromkeys(("n2", "n3", "n4", "n5"), "finished")}
    assert result["survivors"] == ["n2", "n3", "n4", "n5"]
    assert {node["shard"] for node in result["nodes"] if node["end"] == "finished"} == {0, 1, 2, 3}
    assert result["accuracy_alone_max"] <= 0.35
    assert result["accuracy_min"] >= 0.96
    print({key: result[key] for key in ("accuracy_min", "accuracy_alone_max", "seconds", "seconds_total")})
    assert result["seconds_total"] <= patient(60)

    run = tmp_path / "runs" / "demo"
    files = {path.name for path in run.iterdir()}
    assert {"spec.toml", "run.json", "events.jsonl", "model.safetensors", "accuracy.svg"} <= files
    assert ET.parse(run / "accuracy.svg").getroot().tag.endswith("svg")
    events = list(read_events(run / "events.jsonl"))
    assert [event["node"] for event in events if event["event"] == "killed"] == ["n0"]
    joined_late = {e["node"] for e in events if e["event"] == "training" and e["progress"] > 0.25}
    assert joined_late == {"n4", "n5"}

    survivor = list(read_events(run / "nodes" / "n2" / "events.jsonl"))
    gone = [(e["event"], e["peer"]) for e in survivor if e["event"] in ("member_dead", "member_left")]
    keys = {e["node"]: e["key"] for e in events if e["event"] == "started"}
    assert ("member_dead", keys["n0"]) in gone
    assert ("member_left", keys["n1"]) in gone
