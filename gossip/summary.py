"""Adding up a run of many nodes: the mean model, the numbers, the picture, what each shard is worth alone."""

from __future__ import annotations

import os
import statistics
import textwrap
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from gossip.console import SwarmConsole, counted, table_that_fits
from gossip.data.store import Dataset, load_dataset
from gossip.errors import GossipError
from gossip.models.model import Model
from gossip.pictures import Curve, accuracy_picture
from gossip.runs import RunFolder
from gossip.spec import Experiment
from gossip.training.building import model_of
from gossip.training.trainer import Trainer

if TYPE_CHECKING:
    from gossip.launcher import Child, Launcher

COLUMNS = (
    "node", "end", "joined", "steps", "accu-\nracy", "MB up", "MB down", "ex-\nchanges", "failed", "longest\ngap",
)  # fmt: skip
FIRST_TO_GO = ("longest\ngap", "joined", "MB down", "failed", "ex-\nchanges", "MB up", "steps")  # where it is narrow
UNSORTED = "unsorted"  # bytes of nodes that never said of which kind theirs were


def summarise(launcher: Launcher, alone_steps: int) -> dict[str, Any]:
    """The result of a run. Saves the survivors' mean model and the picture. Raises GossipError if nobody survived."""
    children = list(launcher.children.values())
    survivors = launcher.survivors()
    experiment, run = launcher.experiment, launcher.run_folder
    began_at = min(child.began_at for child in children)
    training_began_at = min((child.joined_at for child in children if child.joined_at), default=began_at)
    nodes = [_node_result(child, training_began_at) for child in children]
    run.note(nodes=nodes)
    if not survivors:
        ends = "; ".join(f"{child.name} {child.end}{f': {child.why}' if child.why else ''}" for child in children)
        raise GossipError(f"no node finished the run ({ends}); more in {run.path}/nodes/")
    model = model_of(experiment)
    mean = _mean([RunFolder(child.folder).load_model(model) for child in survivors])
    run.save_model(model, mean, experiment)
    accuracies = [child.result["accuracy"] for child in survivors if child.result]
    result: dict[str, Any] = {
        "name": experiment.name,
        "run": str(run.path),
        "accuracy_mean": statistics.fmean(accuracies),
        "accuracy_min": min(accuracies),
        "accuracy_of_mean_model": _accuracy(launcher, model, mean),
        "seconds": round(max(child.ended_at or 0.0 for child in survivors) - training_began_at, 2),
        "samples": sum(node["samples"] for node in nodes),
        "survivors": [child.name for child in survivors],
        "failed": [child.name for child in children if child.end == "failed"],  # by themselves, not on purpose
        "nodes": nodes,
        "bytes_by_kind": _bytes_by_kind(children),
        "lz4_gain_by_kind": _gains(children),
    }
    steps = {child.shard: child.result["steps"] for child in survivors if child.result}
    steps = {shard: min(count, alone_steps) for shard, count in steps.items()}
    alone = _train_alone(launcher, steps) if alone_steps and not launcher.was_stopped else {}
    result["accuracy_alone_max"] = max(alone.values()) if alone else None
    result["accuracy_alone"] = {str(shard): accuracy for shard, accuracy in sorted(alone.items())}
    result["alone_steps"] = max(steps.values()) if alone else 0
    run.save_picture(_picture(launcher, result, training_began_at))
    result["picture"] = str(run.picture)
    run.note(result=result)
    return result


def print_summary(result: dict[str, Any], console: SwarmConsole) -> None:
    """The same for a person."""
    paper, nodes = console.console, result["nodes"]
    rows = [_cells(node) for node in nodes]
    paper.print(table_that_fits(result["name"], COLUMNS, rows, FIRST_TO_GO, paper, paper.width))
    console.say(_ends(nodes))
    for node in nodes:
        if node["why"]:
            console.say(f"{node['id']} failed: {node['why']}")
    if result["accuracy_alone_max"] is not None:
        console.say(
            f"alone    a node reaches at most {result['accuracy_alone_max']:.1%} "
            f"({result['alone_steps']:,} steps on its own shard)"
        )
    console.say(
        f"together every survivor reaches at least {result['accuracy_min']:.1%} (mean {result['accuracy_mean']:.1%}, "
        f"mean model {result['accuracy_of_mean_model']:.1%})"
    )
    console.say(f"{result['seconds']:.1f} s of training, {_traffic(result['bytes_by_kind'])}")
    console.say(f"picture  {result['picture']}")


def _cells(node: dict[str, Any]) -> list[str]:
    """One per name in COLUMNS."""
    joined = f"{node['joined_at']:.1f} s" if node["joined_at"] is not None else "never"
    return [
        node["id"], node["end"], joined, f"{node['steps']:,}", _percent(node["accuracy"]),
        f"{node['bytes_sent'] / 1e6:.2f}", f"{node['bytes_received'] / 1e6:.2f}", f"{node['exchanges']:,}",
        f"{node['exchanges_failed']:,}", f"{node['longest_gap_s']:.2f} s",
    ]  # fmt: skip


def _ends(nodes: list[dict[str, Any]]) -> str:
    """ "4 of 6 nodes finished, 1 killed, 1 left"."""
    ends = Counter(node["end"] for node in nodes)
    finished = ends.pop("finished", 0)
    others = "".join(f", {count} {end}" for end, count in sorted(ends.items()))
    return f"{finished} of {counted(len(nodes), 'node')} finished{others}"


def _traffic(bytes_by_kind: dict[str, dict[str, int]]) -> str:
    sent = {kind: count["sent"] for kind, count in bytes_by_kind.items() if count["sent"]}
    if not sent:
        return "nothing sent"
    words = {UNSORTED: "of nodes killed or failed"}
    kinds = ", ".join(f"{words.get(kind, kind)} {count / 1e6:.2f}" for kind, count in sent.items())
    lines = textwrap.wrap(kinds, 78, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([f"{sum(sent.values()) / 1e6:.2f} MB sent in all:", *lines])


def _mean(models: list[np.ndarray]) -> np.ndarray:
    """Of float32[dim] each, summed in float64."""
    return np.asarray(np.mean(models, axis=0, dtype=np.float64), np.float32)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _node_result(child: Child, began_at: float) -> dict[str, Any]:
    """One row of `nodes`. Times are seconds since the first node began to train."""
    last, status = child.result or {}, child.status
    known = status | last
    steps = last.get("steps", status.get("step", 0))
    accuracy = known.get("accuracy", -1.0) if steps else -1.0  # of the first random numbers: worth nothing
    ended_early = child.end != "finished" and child.ended_at is not None
    return {
        "id": child.name,
        "shard": child.shard,
        "end": child.end,
        "why": child.why,
        "steps": steps,
        "samples": known.get("samples", 0),
        "accuracy": accuracy if accuracy >= 0 else None,
        "bytes_sent": known.get("bytes_sent", 0),
        "bytes_received": known.get("bytes_received", 0),
        "exchanges": known.get("exchanges", 0),
        "exchanges_failed": known.get("exchanges_failed", 0),
        "longest_gap_s": known.get("longest_gap_s", 0.0),
        "joined_at": round(child.joined_at - began_at, 3) if child.joined_at else None,
        "left": round(child.ended_at - began_at, 3) if ended_early and child.ended_at else None,
    }


def _bytes_by_kind(children: list[Child]) -> dict[str, dict[str, int]]:
    """Bytes on the wire by kind. A killed node never said of which kind its own were: those are UNSORTED."""
    totals: dict[str, Counter[str]] = {}
    for child in children:
        unsorted = {"sent": child.status.get("bytes_sent", 0), "received": child.status.get("bytes_received", 0)}
        by_kind = child.result["bytes_by_kind"] if child.result else {UNSORTED: unsorted}
        for kind, ways in by_kind.items():
            totals.setdefault(kind, Counter()).update(ways)
    return {kind: dict(count) for kind, count in sorted(totals.items())}


def _gains(children: list[Child]) -> dict[str, dict[str, float]]:
    """What lz4 made of each kind of part: bytes before and after, and their ratio."""
    raw: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    for child in children:
        for kind, gain in (child.result or {}).get("lz4_gain_by_kind", {}).items():
            raw[kind] += gain["raw"]
            stored[kind] += gain["stored"]
    return {
        kind: {"raw": raw[kind], "stored": stored[kind], "ratio": round(raw[kind] / max(1, stored[kind]), 3)}
        for kind in sorted(raw)
    }


def _accuracy(launcher: Launcher, model: Model, x: np.ndarray) -> float:
    experiment = launcher.experiment
    dataset = load_dataset(experiment.recipe, launcher.data_dir or experiment.node.data_dir)
    return model.evaluate(x, dataset.test_images, dataset.test_labels).accuracy


# -- What a shard is worth alone --------------------------------------------------------------------


def _train_alone(launcher: Launcher, steps: dict[int, int]) -> dict[int, float]:
    """Accuracy of each shard trained alone, on as many threads as there are cores. steps: per shard."""
    experiment = launcher.experiment
    dataset = load_dataset(experiment.recipe, launcher.data_dir or experiment.node.data_dir)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # kernels release the GIL
        futures = {shard: pool.submit(train_alone, experiment, dataset, shard, n) for shard, n in steps.items()}
        return {shard: future.result() for shard, future in futures.items()}


def train_alone(experiment: Experiment, dataset: Dataset, shard: int, steps: int) -> float:
    """Held-out accuracy of one shard after `steps` steps without anybody, learning rate decayed over them."""
    indices = experiment.indices_of(shard, dataset.train_labels)
    model = model_of(experiment)
    trainer = Trainer(experiment.train, experiment.seed, model, dataset, indices, order_seed=shard)
    for step in range(steps):
        trainer.progress = step / steps
        trainer.step()
    return model.evaluate(trainer.x, dataset.test_images, dataset.test_labels).accuracy


# -- The picture ------------------------------------------------------------------------------------


def _picture(launcher: Launcher, result: dict[str, Any], began_at: float) -> str:
    curves = [_curve(child) for child in launcher.children.values()]
    alone = result["accuracy_alone_max"]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(began_at))
    subtitle = f"{len(curves)} nodes, {launcher.experiment.data.partition}, {when}"
    return accuracy_picture(
        [curve for curve in curves if curve.points], launcher.experiment.name, subtitle, alone=alone
    )


def _curve(child: Child) -> Curve:
    """A node's accuracy over the swarm's samples and its own bytes."""
    points = [(look["swarm_samples"], look["bytes_sent"], look["accuracy"]) for look in child.looks]
    return Curve(child.name, points, joined=child.is_late, end=child.end)
