"""The state of a swarm as plain data: now, from any member that answers, or as a run's folder remembers it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from typing import Any

from gossip.errors import GossipError
from gossip.live.client import Seen, SwarmClient
from gossip.observe import Event, read_events
from gossip.protocol.commands import checked_value
from gossip.protocol.messages import Phase, State
from gossip.runs import RunFolder
from gossip.spec import Experiment
from gossip.units import seconds_of

Report = dict[str, Any]  # {"when": "now" | "past", "swarm": {...}, "nodes": [{...}, ...]}: what --json prints


def report_now(client: SwarmClient, names: dict[str, str]) -> Report:
    """What the members say. names: by the first 8 digits of a key, as far as this machine knows them."""
    latest_s = max((seen.update.status.run_s for seen in client.living()), default=0.0)
    nodes = [_node(seen, names, latest_s) for seen in client.members.values()]
    nodes.sort(key=lambda node: (node["state"] in ("dead", "left"), node["name"], node["key"]))
    wanted = {name: command.name if name == "run" else command.value for name, command in client.registers.items()}
    return {"when": "now", "swarm": _swarm(client.living(), client.experiment, wanted), "nodes": nodes}


def report_past(run: RunFolder) -> Report:
    """What each node said last, and how it ended. Raises GossipError."""
    nodes: dict[str, Report] = {}
    last = 0.0
    for event in read_events(run.events) if run.events.exists() else ():
        _remember(nodes.setdefault(event["node"], _unknown(event["node"])), event)
        last = max(last, event.get("t", 0.0))
    notes = run.notes()
    swarm = {
        "experiment": run.experiment().name,
        "result": notes.get("result"),
        "progress": max((node["progress"] for node in nodes.values()), default=0.0),
        "last_event": last or None,
    }
    return {
        "when": "past",
        "run": str(run.path),
        "swarm": swarm,
        "nodes": sorted(nodes.values(), key=lambda node: node["name"]),
    }


def names_in(run: RunFolder | None) -> dict[str, str]:
    """Which of the run's nodes has which key: {first 8 hex digits: name}."""
    if run is None or not run.events.exists():
        return {}
    events = read_events(run.events, with_older=False)  # every one of them tells who is who
    return {event["key"]: event["node"] for event in events if event["event"] == "started" and "key" in event}


def _swarm(living: Iterable[Seen], experiment: Experiment, wanted: dict[str, str]) -> Report:
    """The whole swarm's clock, and when its run will be over."""
    said = [seen.update.status for seen in living]
    clocks = [status.swarm_samples for status in said if status.swarm_samples]
    samples = int(statistics.median(clocks)) if clocks else sum(status.samples for status in said)
    run_s = statistics.median([status.run_s for status in said]) if said else 0.0
    rate = sum(status.samples_per_s for status in said)
    total = int(checked_value("set samples", wanted["samples"])) if "samples" in wanted else experiment.train.samples
    limit_s = seconds_of(experiment.train.time) if experiment.train.time else None
    shares = [samples / total, *([run_s / limit_s] if limit_s else [])]
    ends = [(total - samples) / rate] if rate > 0 else []
    if limit_s is not None and rate > 0:
        ends.append(limit_s - run_s)
    return {
        "experiment": experiment.name, "spec": experiment.hash.hex(), "members": len(said),
        "training": sum(status.phase == Phase.TRAINING for status in said),
        "samples": samples, "samples_total": total, "samples_per_s": round(rate, 1), "run_s": round(run_s, 1),
        "progress": round(min(1.0, max(shares)), 5), "ends_in_s": round(max(0.0, min(ends)), 1) if ends else None,
        "owner_wants": wanted,
    }  # fmt: skip


def _node(seen: Seen, names: dict[str, str], latest_s: float) -> Report:
    update, status = seen.update, seen.update.status
    key = update.key.hex()
    return {
        "key": key, "name": names.get(key[:8], key[:8]), "address": update.address,
        "state": State(update.state).name.lower(), "phase": Phase(status.phase).name.lower(),
        "incarnation": update.incarnation, "step": status.step, "samples": status.samples,
        "samples_per_s": round(status.samples_per_s, 1), "loss": round(status.loss, 5),
        "accuracy": status.accuracy if status.accuracy >= 0 else None, "links": status.links,
        "bytes_sent": status.bytes_sent, "bytes_received": status.bytes_received, "command": status.command,
        # The run's clock is everybody's: what a member said when it read less is that much older.
        "heard_s": round(time.monotonic() - seen.at + (0.0 if seen.is_first_hand else latest_s - status.run_s), 1),
    }  # fmt: skip


def _unknown(name: str) -> Report:
    return {
        "key": "", "name": name, "address": "", "state": "unknown", "phase": "", "incarnation": 0, "step": 0,
        "samples": 0, "samples_per_s": 0.0, "loss": 0.0, "accuracy": None, "links": 0, "bytes_sent": 0,
        "bytes_received": 0, "heard_s": None, "progress": 0.0,
    }  # fmt: skip


def _remember(node: Report, event: Event) -> None:
    match event["event"]:
        case "started":
            node |= {"key": event.get("key", ""), "address": event.get("address", ""), "state": "started"}
        case "status":
            node |= {name: event[name] for name in node if name in event and name not in ("name", "accuracy")}
            node["state"] = event.get("phase", "unknown")
            node["accuracy"] = event["accuracy"] if event.get("accuracy", -1) >= 0 else None
        case "finished":
            node |= {"state": event.get("outcome", "finished"), "step": event.get("steps", node["step"])}
            node |= {name: event[name] for name in _AT_THE_END if name in event}
        case "killed" | "failed":
            node["state"] = event["event"]
    if node["state"] in ("finished", "left", "killed", "failed"):
        node |= {"samples_per_s": 0.0, "links": 0}
    node["heard_s"] = round(max(0.0, time.time() - event.get("t", 0.0)), 1)


_AT_THE_END = ("samples", "accuracy", "bytes_sent", "bytes_received")


def is_over(report: Report) -> bool:
    """Does nobody live any more?"""
    return report["when"] == "past" or not report["swarm"]["members"]


def look(client: SwarmClient | None, run: RunFolder | None, names: dict[str, str]) -> Report:
    """Now where somebody answers, else what the folder says. Raises GossipError where there is neither."""
    if client is not None and client.is_linked:
        try:
            client.look()
            return report_now(client, names)
        except GossipError:
            if run is None:
                raise
    if run is None:
        raise GossipError("the swarm is gone, and there is no run folder here to ask")
    return report_past(run)
