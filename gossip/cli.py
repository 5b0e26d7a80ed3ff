"""The `gossip` command. Each command is a few lines: options in, one function called, result out.

Heavy imports happen inside the commands, so that --help is instant.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from gossip import __version__
from gossip.commands import background, doctor, export, lr_find, owner, plan, status, sweep, unit, warmup
from gossip.commands import ticket as tickets
from gossip.commands.options import sample

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
data_dir = click.option("--data-dir", default="", help="A folder that holds the data files.")
run_dir = click.option("--run-dir", type=click.Path(path_type=Path), help="Where to keep the run. [runs/NAME]")

NODE_NAME = re.compile(r"[A-Za-z0-9._-]{1,32}")


def _node_name(context: click.Context, option: click.Parameter, name: str | None) -> str | None:
    if name is not None and not NODE_NAME.fullmatch(name):
        raise click.BadParameter(f"{name!r}: expected 1 to 32 letters, digits, '.', '_' or '-'")
    return name


def _rate(context: click.Context, option: click.Parameter, rate: str) -> str:
    from gossip.errors import SpecError
    from gossip.units import bytes_per_s_of

    try:
        _ = rate and bytes_per_s_of(rate)
    except SpecError as error:
        raise click.BadParameter(str(error)) from error
    return rate


upload = click.option(
    "--upload", default="", metavar="RATE", callback=_rate, help='What a node may send, such as "1 mbit/s".  [no limit]'
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gossip")
def cli() -> None:
    """Train one neural network together, over ordinary internet links, with no server."""


@cli.command()
@click.argument("spec", required=False, type=click.Path(path_type=Path))
@click.option(
    "--join", "ticket", default="", metavar="TICKET", help="Join the swarm whose member printed this; - reads it."
)
@click.option("--listen", help="Where to accept links, or none.  [tcp://0.0.0.0:7700, with --join tcp://0.0.0.0:0]")
@click.option(
    "--advertise", default="", metavar="HOST:PORT,...", help="Where others reach this node, if not there; or none."
)
@click.option("--shard", type=click.IntRange(min=0), help="Which shard to train on.  [from the node's key]")
@click.option("--key", "key_file", type=click.Path(path_type=Path), help="Keep this node's identity in a file.")
@click.option("--name", callback=_node_name, help="The node's name in events and pictures.  [node]")
@click.option("--fresh", is_flag=True, help="Begin a new run, also where there is one to go on with.")
@data_dir
@upload
@run_dir
@as_json
@click.option("--detach", is_flag=True, help="Run in the background: come back once it has begun, or has failed.")
@click.option("--detached", type=int, hidden=True, help="We are that: where to tell how it begins; -1: nowhere.")
@click.option("--follow", is_flag=True, hidden=True, help="Events on standard output; end with standard input.")
def node(
    spec: Path | None,
    ticket: str,
    listen: str | None,
    advertise: str,
    shard: int | None,
    key_file: Path | None,
    name: str | None,
    fresh: bool,
    data_dir: str,
    upload: str,
    run_dir: Path | None,
    as_json: bool,
    detach: bool,
    detached: int | None,
    follow: bool,
) -> None:
    """Start a node: the first of a swarm with SPEC, a further one with --join TICKET.

    A run that was interrupted goes on where it stood: the newest one of SPEC or of the ticket's swarm under runs/,
    or the one that --run-dir names. Prints one line to paste on another machine: gossip node --join TICKET.

    Example, for days on a machine nobody watches: gossip node experiment.toml --detach
    """
    from gossip.console import FollowedConsole, NodeConsole
    from gossip.spec import load

    if ticket == "-":
        # A launcher's pipe stays open: its end is the word to go.
        ticket = (sys.stdin.readline(8192) if follow else sys.stdin.read(8192)).strip()
    experiment = load(spec) if spec else None
    if detach:
        context = click.get_current_context()
        background.start(background.words_of(context), ticket, as_json)
        return
    from gossip.live.node import NodeOptions, run_node

    if experiment is not None:
        advertise = advertise or experiment.node.advertise
    console: Any = background.console(detached) if detached is not None else NodeConsole()
    console = FollowedConsole() if follow else console
    options = NodeOptions(
        listen=listen or "",
        advertise=advertise,
        ticket=ticket,
        shard=shard,
        data_dir=data_dir,
        upload=upload,
        key_file=key_file,
        run_dir=run_dir,
        name=name or "",
        fresh=fresh,
        follow=follow,
        on_home=getattr(console, "move_in", lambda run: None),
    )
    with console:
        result = run_node(experiment, options, console)
    if not follow:
        _print_whereabouts(result["run"])
    _print_json(result, as_json)


@cli.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--nodes", default=4, show_default=True, type=click.IntRange(1, 256), help="How many nodes.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on and advertise.")
@click.option(
    "--alone-steps",
    default=1000,
    show_default=True,
    type=click.IntRange(min=0),
    help=(
        "Also train every shard alone for as many steps as its node took, at most this many, to show what the swarm "
        "is worth. 0: do not."
    ),
)
@sample
@data_dir
@upload
@run_dir
@as_json
def train(
    spec: Path,
    nodes: int,
    host: str,
    alone_steps: int,
    changes: dict[str, Any],
    data_dir: str,
    upload: str,
    run_dir: Path | None,
    as_json: bool,
) -> None:
    """Run a swarm of --nodes on this machine, one process each, and watch it.

    The run ends at train.samples, or earlier: at train.target_accuracy, after train.time, or, with train.plateau = 5,
    once five looks at the held-out samples in a row brought no progress.
    """
    from gossip.launcher import Launcher
    from gossip.spec import load

    launcher = Launcher(load(spec, changes), nodes=nodes, host=host, data_dir=data_dir, upload=upload, run_dir=run_dir)
    result = launcher.run(alone_steps=alone_steps)
    _print_json(result, as_json)
    _refuse_failures(result)


@cli.command()
@run_dir
@as_json
def demo(run_dir: Path | None, as_json: bool) -> None:
    """Half a minute: four nodes, three digits each, joins, a kill and a goodbye; together they read all ten."""
    from gossip.demo import run_demo

    result = run_demo(run_dir)
    _print_json(result, as_json)
    _refuse_failures(result)


@cli.command(name="eval")
@click.argument("run", metavar="RUN|MODEL.safetensors")
@click.option("--recipe", default="", help="Another data set: a recipe's name, or its .toml.  [what it learnt from]")
@data_dir
@as_json
def evaluate(run: str, recipe: str, data_dir: str, as_json: bool) -> None:
    """Accuracy and confusion table of a model on the held-out samples.

    A model is a run's, or a bare file from anywhere: it says itself what it is made of.
    """
    from gossip.inspect import evaluate_run

    _print_json(evaluate_run(run, data_dir, recipe), as_json)


@cli.command()
@click.argument("run", metavar="RUN|MODEL.safetensors")
@click.argument("image", type=click.Path(path_type=Path))
@as_json
def predict(run: str, image: Path, as_json: bool) -> None:
    """What a model sees in IMAGE, a picture of any size."""
    from gossip.inspect import predict_image

    _print_json(predict_image(run, image), as_json)


for command in (
    owner.pause,
    owner.resume,
    owner.stop,
    owner.set_,
    owner.owner_key,
    status.status,
    tickets.ticket,
    plan.plan,
    lr_find.lr_find,
    sweep.sweep,
    doctor.doctor,
    unit.unit,
    export.export,
    warmup.warmup,
):
    cli.add_command(command)


def _print_json(result: dict[str, Any], wanted: bool) -> None:
    from gossip.runs import strict_json

    if wanted:
        click.echo(strict_json(result))


def _print_whereabouts(run: str) -> None:
    """Where a node's model is, and what to do with it. A node that never trained has none."""
    import shlex

    from gossip.runs import RunFolder

    model = RunFolder(Path(run)).model
    if model.is_file():
        click.echo(f"model    {model}\nlook at it with\n  gossip eval {shlex.quote(run)}")


def _refuse_failures(result: dict[str, Any]) -> None:
    """A node that failed by itself is the command's failure too, however well the others did. Raises GossipError."""
    from gossip.errors import GossipError

    if failed := result["failed"]:
        raise GossipError(
            f"{len(failed)} of {len(result['nodes'])} nodes failed: {', '.join(failed)}; more in {result['run']}/nodes/"
        )
