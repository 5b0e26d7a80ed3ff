"""A swarm on machines of one's own: python deploy/swarm.py up | status | logs | add | pause | ... | collect | down.

Each command is options in, one operation called, a table out. See README.md beside this file.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from collecting import accuracy_of
from deployment import Deployment, Options, StateFolder
from hostfile import Host, parse_host, read_hostfile
from operations import Operations, Outcome
from rich.console import Console, Group
from rich.live import Live

from gossip.commands.owner import key_file, tell_swarm
from gossip.console import COLOURS, Text, counted, printable, table_that_fits
from gossip.errors import GossipError, SpecError
from gossip.observe import Event
from gossip.runs import strict_json

CHECKOUT = Path(__file__).resolve().parents[1]
STATES = Path(os.environ.get("GOSSIP_DEPLOY_STATE") or CHECKOUT / ".gossip-deploy")
COLUMNS = ("host", "node", "state", "step", "accu-\nracy", "mem-\nbers", "samples\n/s", "last\nword")
FIRST_TO_GO = ("last\nword", "samples\n/s", "step", "mem-\nbers")
WATCH_EVERY_S = 2.0
WRONG = ("died", "failed")  # of a node: `up` starts it again
UNSAID = "without a word: killed, or its machine went down; up has it go on"

by_name = click.option("--name", default="", help="Which deployment.  [the only one]")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Deploy a gossip swarm to machines that your ssh can reach."""


@cli.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--hosts", "hostfile", required=True, type=click.Path(path_type=Path), help="One host a line.")
@click.option("--name", default="", help="What to call the deployment.  [the experiment's name]")
@click.option("--ssh-option", "ssh_options", multiple=True, metavar="NAME=VALUE", help="As after ssh -o; repeatable.")
@click.option(
    "--wheelhouse", default="", metavar="DIR", help="Copy the dependencies from here: hosts without internet."
)
@click.option("--system-site-packages", is_flag=True, help="Use the dependencies that the hosts' Python has already.")
@click.option("--python", default="python3", show_default=True, help="Which Python to use on the hosts.")
@click.option("--data-dir", default="", metavar="DIR", help="A folder on the hosts that holds the data files.")
def up(
    spec: Path,
    hostfile: Path,
    name: str,
    ssh_options: tuple[str, ...],
    wheelhouse: str,
    system_site_packages: bool,
    python: str,
    data_dir: str,
) -> None:
    """Install gossip on every host and start SPEC's swarm. Again: go on; nodes that died or left resume."""
    from gossip.spec import load

    experiment = load(spec)
    state = StateFolder(STATES, name or experiment.name[:32])
    options = Options(
        python=python,
        wheelhouse=str(Path(wheelhouse).resolve()) if wheelhouse else "",
        system_site_packages=system_site_packages,
        data_dir=data_dir,
        ssh_options=ssh_options,
    )
    hosts = read_hostfile(hostfile)
    with state.alone():
        experiment = state.owned(experiment)
        if state.exists():
            deployment = state.load()
            if deployment.spec_hash != experiment.hash.hex():
                raise SpecError(
                    f"{spec}: deployment {state.name} runs another experiment; choose another --name, or end that one: "
                    "down --purge"
                )
            deployment.options = options
            deployment.forget_unreached(but=[host.label for host in hosts])
        else:
            deployment = Deployment(
                name=state.name, spec_hash=experiment.hash.hex(), options=options, hosts=[], nodes=[]
            )
        for host in hosts:
            deployment.plan(host, experiment.data.shards)
        state.keep_experiment(experiment)
        state.save(deployment)
        _report_up(Operations(state, deployment, Console(highlight=False)), ())


@cli.command()
@click.argument("host", nargs=-1, required=True, metavar="HOST [slots=N ...]")
@by_name
def add(host: tuple[str, ...], name: str) -> None:
    """One more host, mid-run: a line of a hostfile, as in: add ada@lab5 slots=2."""
    state = _state(name)
    with state.alone():
        deployment = state.load()
        newcomer = parse_host(list(host), "add")
        deployment.plan(newcomer, state.shards())
        state.save(deployment)
        try:
            _report_up(Operations(state, deployment, Console(highlight=False)), (newcomer.label,))
        finally:
            if newcomer.label in deployment.unreached:
                deployment.forget_unreached(but=set(deployment.unreached) - {newcomer.label})
                state.save(deployment)


@cli.command()
@by_name
@as_json
@click.option("--watch", is_flag=True, help="Look again every other second, until Ctrl-C.")
def status(name: str, as_json: bool, watch: bool) -> None:
    """Hosts, nodes, and how far each of them is."""
    state = _state(name)
    console = Console(highlight=False)
    operations = Operations(state, state.load(), console)
    outcome = operations.look()
    if watch and console.is_terminal:
        with Live(_status_table(operations, outcome, console), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_EVERY_S)
                outcome = operations.look()
                live.update(_status_table(operations, outcome, console), refresh=True)
    console.print(_status_table(operations, outcome, console))
    if as_json:
        click.echo(strict_json(_status_json(operations, outcome)))
    _refuse_failures(operations, outcome, "asked", with_reasons=True)


@cli.command()
@click.argument("what", required=False, default="", metavar="[HOST|NODE]")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("-n", "--lines", default=20, show_default=True, type=click.IntRange(0, 10_000), help="Of each node.")
@by_name
def logs(what: str, follow: bool, lines: int, name: str) -> None:
    """What nodes print: of all, of a host's, or of one."""
    state = _state(name)
    deployment = state.load()
    hosts, nodes = _chosen(deployment, what)
    operations = Operations(state, deployment, Console(highlight=False))
    width = max((len(node.name) for node in deployment.nodes), default=2)
    show = lambda node, line: click.echo(f"{node:>{width}} | {printable(line)}")  # noqa: E731
    _refuse_failures(operations, operations.follow(hosts, nodes, lines, follow, show), "read", with_reasons=True)


@cli.command()
@by_name
@key_file
@as_json
def pause(name: str, key_file: Path | None, as_json: bool) -> None:
    """Have every node stop stepping. They go on answering each other and letting others join."""
    _tell("pause", "", name, key_file, as_json)


@cli.command()
@by_name
@key_file
@as_json
def resume(name: str, key_file: Path | None, as_json: bool) -> None:
    """Have every node of a paused swarm step on."""
    _tell("resume", "", name, key_file, as_json)


@cli.command()
@by_name
@key_file
@as_json
def stop(name: str, key_file: Path | None, as_json: bool) -> None:
    """End the run for good: all nodes agree, save and leave. After `down`, `up` goes on; after this it is over."""
    _tell("stop", "", name, key_file, as_json)


@cli.command(name="set")
@click.argument("setting", metavar="lr=NUMBER|samples=NUMBER")
@by_name
@key_file
@as_json
def set_(setting: str, name: str, key_file: Path | None, as_json: bool) -> None:
    """Change the running swarm: the learning rate's peak, or how many samples its run takes."""
    what, _, value = setting.partition("=")
    if not value or what not in ("lr", "samples"):
        raise SpecError(f"{setting}: expected lr=NUMBER or samples=NUMBER")
    _tell(f"set {what}", value, name, key_file, as_json)


def _tell(command: str, value: str, name: str, key_file: Path | None, as_json: bool) -> None:
    """The owner's word, from this machine to whichever node it reaches. Raises GossipError."""
    state = _state(name)
    key_file = key_file or state.owner_key
    if not key_file.exists():
        raise SpecError(f"{key_file}: no such key; the experiment names its owner, whose key goes in with --owner-key")
    ticket = Operations(state, state.load(), Console(highlight=False)).ticket()
    tell_swarm(command, value, ticket, key_file, as_json)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@by_name
@as_json
@click.option("--checkpoints", is_flag=True, help="Also each node's newest checkpoint: a few times the model's size.")
def collect(folder: Path, name: str, as_json: bool, checkpoints: bool) -> None:
    """Fetch models and events into DIR/NODE/, and say which model is best. Again: only what is new."""
    state = _state(name)
    operations = Operations(state, state.load(), Console(highlight=False))
    outcome = operations.collect(folder, checkpoints)
    found = {node.name: accuracy_of(folder / node.name) for node in operations.deployment.nodes}
    accuracies = {node: accuracy for node, accuracy in found.items() if accuracy is not None}
    best = max(accuracies, key=lambda node: accuracies[node], default=None)
    if best is None:
        click.echo("no node has saved a model yet: each does when it finishes or is told to leave (down)")
    else:
        others = f", of {counted(len(accuracies), 'model')}" if len(accuracies) > 1 else ""
        click.echo(f"best     {best}: {accuracies[best]:.2%}{others}")
        click.echo(f"look at it with\n  gossip eval {shlex.quote(str(folder / best))}")
    if as_json:
        failed = {operations.deployment.host(label).target: str(e) for label, e in outcome.failures.items()}
        click.echo(strict_json({"folder": str(folder), "best": best, "accuracy": accuracies, "failed": failed}))
    _refuse_failures(operations, outcome, "fetched from")


@cli.command()
@by_name
@click.option("--purge", is_flag=True, help="Also remove the environments, runs and models on the hosts.")
def down(name: str, purge: bool) -> None:
    """Every node says goodbye, saves its model and ends; `up` goes on with the run."""
    state = _state(name)
    with state.alone():
        operations = Operations(state, state.load(), Console(highlight=False))
        advice = f"; once they are back: the same again; without them: rm -r {state.path}" if purge else ""
        _refuse_failures(operations, operations.take_down(purge), "reached", advice)


def _state(name: str) -> StateFolder:
    return StateFolder(STATES, name) if name else StateFolder.only_one(STATES)


def _chosen(deployment: Deployment, what: str) -> tuple[list[Host], list[str]]:
    """Hosts, and the names of the nodes wanted there; [] for all of them. Raises SpecError."""
    if not what:
        return deployment.hosts, []
    for node in deployment.nodes:
        if node.name == what:
            return [deployment.host(node.host)], [node.name]
    if hosts := [host for host in deployment.hosts if what in (host.target, host.name, host.label)]:
        return hosts, []
    nodes = ", ".join(node.name for node in deployment.nodes)
    raise SpecError(
        f"{what}: no such host or node; nodes are {nodes}, hosts {', '.join(h.name for h in deployment.hosts)}"
    )


# -- What is printed --------------------------------------------------------------------------------


def _report_up(operations: Operations, only: tuple[str, ...]) -> None:
    outcome = operations.bring_up(only)
    name = operations.deployment.name
    _refuse_failures(operations, outcome, "brought up", "; put that right and run the same again, the others train on")
    click.echo(f"{name} is up: {counted(len(operations.deployment.nodes), 'node')} on "
               f"{counted(len(operations.deployment.hosts), 'host')}")  # fmt: skip
    click.echo(f"  python deploy/swarm.py status --name {name} --watch")


def _refuse_failures(
    operations: Operations, outcome: Outcome, done: str, advice: str = "", with_reasons: bool = False
) -> None:
    """Raises GossipError that names the hosts where it did not work; where no board has said why, that too."""
    if not outcome.failures:
        return
    failed = [(operations.deployment.host(label).target, error) for label, error in outcome.failures.items()]
    words = (
        "".join(f"\n  {name}: {e}" for name, e in failed) if with_reasons else ": " + ", ".join(n for n, _ in failed)
    )
    hosts = counted(len(operations.deployment.hosts), "host")
    raise GossipError(f"{len(failed)} of {hosts} could not be {done}{words}{advice}")


def _status_table(operations: Operations, outcome: Outcome, console: Console) -> Group:
    """A table of nodes, how far the swarm is, and why nodes ended that should not have."""
    rows: list[list[Any]] = []
    for host in operations.deployment.hosts:
        for look in _looks(operations, outcome, host):
            state, accuracy, seen = look["state"], look.get("accuracy"), look.get("seen_s_ago")
            rows.append([
                host.name, look["node"], Text(state, style=COLOURS.get(state, "red")), f"{look.get('step') or 0:,}",
                "-" if accuracy is None else f"{accuracy:.1%}", str(look.get("members") or "-"),
                f"{look.get('samples_per_s') or 0:,.0f}", "-" if seen is None else _ago(seen),
            ])  # fmt: skip
    nodes = outcome.nodes()
    progress = max((node["progress"] or 0.0 for node in nodes), default=0.0)
    running = sum(bool(node["pid"]) for node in nodes)
    line = f"{running} of {counted(len(operations.deployment.nodes), 'node')} running, {progress:.0%} of the samples"
    ended = [f"{node['node']} {node['state']}: {node['why'] or UNSAID}" for node in nodes if node["state"] in WRONG]
    table = table_that_fits(operations.deployment.name, COLUMNS, rows, FIRST_TO_GO, console, console.width)
    return Group(table, Text(line), *(Text(f"  {printable(text)}", style="red") for text in ended))


def _looks(operations: Operations, outcome: Outcome, host: Host) -> list[Event]:
    """What is known of every node planned there; of one that nobody could be asked about, why."""
    error = outcome.failures.get(host.label)
    found = {node["node"]: node for node in outcome.answers.get(host.label, {"nodes": []})["nodes"]}
    unknown = {"state": error.code if error else "not started"}
    return [
        {"node": node.name, "shard": node.shard} | found.get(node.name, unknown)
        for node in operations.deployment.nodes_on(host)
    ]


def _ago(seconds: float) -> str:
    """ "3 s", "12 min", "5 h"."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _status_json(operations: Operations, outcome: Outcome) -> dict[str, Any]:
    """Everything but tickets."""
    hosts = []
    for host in operations.deployment.hosts:
        error = outcome.failures.get(host.label)
        nodes = [
            {key: value for key, value in look.items() if key != "ticket"} for look in _looks(operations, outcome, host)
        ]
        hosts.append({"host": host.target, "error": str(error) if error else None, "nodes": nodes})
    return {"name": operations.deployment.name, "hosts": hosts}


def main(run: Callable[..., Any] = cli.main) -> None:
    """Exit status: 0 done; 1 something failed on a host or can be put right; 2 wrong usage; 130 Ctrl-C."""
    try:
        run(prog_name="python deploy/swarm.py", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        print("\nswarm: interrupted; nodes that run go on: `up` goes on too, `down` ends it", file=sys.stderr)
        sys.exit(130)
    except GossipError as error:
        print(f"swarm: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
