"""gossip unit: hand a node over to the user's systemd."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path

import click

from gossip.commands.background import stop_here


@click.command()
@click.argument("what", default="", metavar="[SPEC|RUN]")
@click.option("--join", "ticket", default="", metavar="TICKET", help="Join this swarm first; - reads the ticket.")
@click.option("--run-dir", default="", help="Where to keep the run, where SPEC or a ticket begins one.")
@click.option("--listen", default="", help="Where that node accepts links; it stays so.")
@click.option("--install", "is_installed", is_flag=True, help="Write it to ~/.config/systemd/user instead.")
def unit(what: str, ticket: str, run_dir: str, listen: str, is_installed: bool) -> None:
    """Print a systemd user unit that keeps the node of RUN running, over crashes and reboots.

    With SPEC or a ticket the node is begun once, so that there is a RUN, and stopped again: the unit goes on from
    its folder, and holds no ticket.

    Example: gossip unit --join TICKET --install
    """
    from gossip.detach import start_detached
    from gossip.errors import SpecError
    from gossip.pidfile import running_pid
    from gossip.runs import RunFolder
    from gossip.unit import install, unit_name, unit_text

    if ticket == "-":
        ticket = sys.stdin.read(8192).strip()
    if ticket or what.endswith(".toml"):
        words = [what] if what else []
        words += [
            word for name, value in (("--run-dir", run_dir), ("--listen", listen)) if value for word in (name, value)
        ]
        run = RunFolder(start_detached(words, ticket).run)
        unit_text(run)  # what is wrong is said before the node is stopped
        with contextlib.redirect_stdout(sys.stderr):  # what is printed there is the unit
            stop_here(str(run.path), 60.0, kill=False, as_json=False)
    else:
        if not what:
            raise SpecError("expected a run's folder, an experiment file, or --join TICKET")
        run = RunFolder.open(Path(what))
    if not is_installed:
        click.echo(unit_text(run), nl=False)
        return
    path, name = install(run), unit_name(run)
    click.echo(f"wrote  {path}")
    if running_pid(run.path):
        click.echo(f"first  gossip stop {shlex.quote(str(run.path))}    (a node runs there now)")
    click.echo(f"start  systemctl --user daemon-reload && systemctl --user enable --now {name}")
    click.echo("keep   loginctl enable-linger    (or it ends when you log out)")
    click.echo(f"watch  journalctl --user -fu {name}\nstop   systemctl --user disable --now {name}")
