"""gossip doctor: is this machine, and its way to the swarm, fit for a node?"""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from pathlib import Path

import click

MARKS = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "bad": ("BAD", "red"), "unknown": ("-", "bright_black")}


@click.command()
@click.argument("spec", required=False, type=click.Path(path_type=Path))
@click.option("--join", "ticket", default="", metavar="TICKET", help="Try the way to this swarm, too; - reads it.")
@click.option("--listen", default="", help="Where to try to listen.  [tcp://0.0.0.0:7700, with --join any port]")
@click.option("--advertise", default="", metavar="HOST:PORT", help="Where others shall reach this node, if not there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def doctor(spec: Path | None, ticket: str, listen: str, advertise: str, as_json: bool) -> None:
    """Look whether this machine can run a node, of SPEC or of the ticket's swarm, and say how to mend what is wrong.

    Exit status 1 where something is bad: a node would not run, or reach nobody.

    Example: gossip doctor --join TICKET --listen tcp://0.0.0.0:7700
    """
    from gossip.doctor import check_machine
    from gossip.findings import BAD
    from gossip.live.checkup import check_network
    from gossip.live.tickets import parse_ticket
    from gossip.observe import strict_json
    from gossip.spec import load

    experiment = load(spec) if spec else None
    invitation = parse_ticket(sys.stdin.read(8192) if ticket == "-" else ticket) if ticket else None
    default = experiment.node.listen if experiment else "tcp://0.0.0.0:7700"
    checkup = check_network(listen or ("tcp://0.0.0.0:0" if ticket else default), advertise, invitation)
    parent = Path("runs") if Path("runs").is_dir() else Path()
    findings = [*check_machine(experiment or checkup.experiment, parent), *checkup.findings]
    if as_json:
        click.echo(strict_json({"findings": [dataclasses.asdict(finding) for finding in findings]}))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            mark, colour = MARKS[finding.verdict]
            indent = " " * (width + 8)
            text = textwrap.fill(finding.found, 80, initial_indent=indent, subsequent_indent=indent)[len(indent) :]
            click.echo(f"{click.style(f'{mark:<4}', fg=colour)}  {finding.name:<{width}}  {text}")
            if finding.fix and finding.verdict != "ok":
                click.echo(f"{indent}{click.style('->', bold=True)} {finding.fix}")
    if bad := [finding.name for finding in findings if finding.verdict == BAD]:
        click.echo(f"gossip: {len(bad)} bad: {', '.join(bad)}", err=True)
        sys.exit(1)
