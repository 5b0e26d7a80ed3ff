"""gossip status: the whole swarm, as any member that answers sees it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gossip.live.client import SwarmClient
    from gossip.live.whereabouts import Whereabouts
    from gossip.status import Report

WATCH_EVERY_S = 2.0


@click.command()
@click.argument("where", default="", metavar="[RUN|HOST:PORT|TICKET]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with --watch one per look.")
@click.option("--watch", is_flag=True, help=f"Look again every {WATCH_EVERY_S:g} s, until the run is over.")
def status(where: str, as_json: bool, watch: bool) -> None:
    """How a swarm is doing: asks any member that answers; else tells what the run's folder says.

    Without an argument: the newest run under runs/.
    """
    from gossip.live.whereabouts import find_swarm
    from gossip.status import look, names_in

    found = find_swarm(where)
    client, why = _visit(found)
    with contextlib.ExitStack() as stack:
        if client is not None:
            stack.enter_context(client)
        report = look(client, found.run, names_in(found.run))
        if watch and client is not None:
            _watch(client, found, report, as_json)
        else:
            _show(report, as_json, why)


def _visit(found: Whereabouts) -> tuple[SwarmClient | None, str]:
    """A link with some member; or None, and why not. Raises NetworkError where a run's folder cannot stand in."""
    from gossip.errors import NetworkError
    from gossip.live.client import SwarmClient

    if found.permit is None:
        return None, "no swarm.json in that folder: nobody could be asked"
    try:
        return SwarmClient(found.permit, found.doors), ""
    except NetworkError as error:
        if found.run is None:
            raise
        return None, str(error)


def _show(report: Report, as_json: bool, why: str = "") -> None:
    from rich.console import Console

    from gossip.board import Board
    from gossip.runs import strict_json

    if as_json:
        click.echo(strict_json(report))
    else:
        Console(highlight=False).print(Board(report, why))


def _watch(client: SwarmClient, found: Whereabouts, report: Report, as_json: bool) -> None:
    """Until the run is over or somebody presses Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    from gossip.board import Board
    from gossip.status import is_over, look, names_in

    console = Console(highlight=False)
    live = Live(Board(report), console=console, auto_refresh=False) if console.is_terminal and not as_json else None
    with live or contextlib.nullcontext(), contextlib.suppress(KeyboardInterrupt):
        while True:
            if live is not None:
                live.update(Board(report, "Ctrl-C ends this view; the swarm goes on"), refresh=True)
            else:
                _show(report, as_json)
            if is_over(report):
                return
            client.listen(WATCH_EVERY_S)
            report = look(client, found.run, names_in(found.run))
