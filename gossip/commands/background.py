"""gossip node --detach, and gossip stop of this machine's node."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gossip.detach import DetachedConsole

NOT_PASSED_ON = ("detach", "detached", "follow", "ticket", "as_json")


def words_of(context: click.Context) -> list[str]:
    """The command line again, of what was given, less what --detach itself sees to."""
    words = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        is_given = value not in (None, "") and value is not False  # shard 0 is given, though 0 == False
        if parameter.name in NOT_PASSED_ON or not is_given:
            continue
        if isinstance(parameter, click.Option):
            words.append(parameter.opts[0])
        if value is not True:
            words.append(str(value))
    return words


def console(news_fd: int) -> DetachedConsole:
    from gossip.detach import DetachedConsole

    return DetachedConsole(news_fd)


def start(words: list[str], ticket: str, as_json: bool) -> None:
    """Start a node in the background, and say how to watch and to stop it. Raises GossipError, its own words."""
    from gossip.detach import LOG_NAME, start_detached
    from gossip.observe import strict_json

    started = start_detached(words, ticket)
    run = shlex.quote(_shown(started.run))
    state = "" if started.began else ", still getting the swarm's state"
    click.echo(f"run    {run}  (pid {started.pid}{state})")
    click.echo(f"watch  gossip status {run}\n       tail -f {run}/{LOG_NAME}")
    click.echo(f"stop   gossip stop {run}")
    if started.ticket:
        click.echo(f"join   on another machine:\ngossip node --join {started.ticket}")
    if as_json:
        found = {"run": str(started.run), "pid": started.pid, "ticket": started.ticket, "began": started.began}
        click.echo(strict_json(found))


def stop_here(given: str, patience_s: float, kill: bool, as_json: bool) -> None:
    """Stop this machine's node, and say how it ended. Raises GossipError."""
    from gossip.detach import stop_node, the_running_node
    from gossip.observe import strict_json

    run = the_running_node(given)
    shown = shlex.quote(_shown(run.path))
    stopped = stop_node(run, patience_s, kill, lambda pid: click.echo(f"{shown}: asked process {pid} to leave"))
    result = stopped["result"] or {}
    if stopped["killed"]:
        click.echo(f"{shown}: killed; its last checkpoint stays")
    elif "steps" in result:
        accuracy = f", accuracy {result['accuracy']:.2%}" if result["steps"] and result.get("looked_at") else ""
        click.echo(f"{shown}: it said goodbye at step {result['steps']:,}{accuracy}; everything is saved")
    else:
        click.echo(f"{shown}: it has ended")
    if result.get("outcome") != "finished":
        click.echo(f"go on with\n  gossip node --run-dir {shown}")
    if as_json:
        click.echo(strict_json(stopped))


def _shown(path: Path) -> str:
    """As short as it can be typed here."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(path)
