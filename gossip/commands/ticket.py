"""gossip ticket: let others in, from what a run's folder on this machine knows of its swarm."""

from __future__ import annotations

import time
from pathlib import Path

import click


def _duration(context: click.Context, option: click.Parameter, text: str) -> float:
    from gossip.errors import SpecError
    from gossip.units import seconds_of

    try:
        return seconds_of(text)
    except SpecError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.argument("run", default="", metavar="[RUN]")
@click.option(
    "--valid", "valid_s", default="1 day", show_default=True, metavar="TIME", callback=_duration,
    help='How long it lets others in, such as "2 h" or "30 days".',
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def ticket(run: str, valid_s: float, as_json: bool) -> None:
    """Print a new ticket for the swarm of RUN, the newest run under runs/ if none is given.

    Whoever has a ticket may join until it expires: pass it on like a password.

    Example: gossip ticket runs/mnist-mlp --valid "3 days"
    """
    from gossip.errors import SpecError
    from gossip.live.tickets import SEEDS_MAX, mint
    from gossip.live.whereabouts import newest_run, swarm_files, whereabouts_of
    from gossip.observe import strict_json
    from gossip.runs import RunFolder

    folder = RunFolder.open(Path(run)) if run else newest_run()
    files = list(swarm_files(folder.path))
    doors = whereabouts_of(folder).doors[:SEEDS_MAX]
    if not doors:
        raise SpecError(f"{folder.path}: knows nobody who listens, so there is no door a ticket could name")
    minted = mint(files[0].swarm_key_bytes, doors, valid_s, now=time.time())
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(minted.expiry))
    click.echo(f"gossip node --join {minted.text()}")
    click.echo(f"valid until {until}; knocks at {', '.join(address for address, _ in doors)}", err=True)
    if as_json:
        found = {"ticket": minted.text(), "expires": minted.expiry, "doors": [address for address, _ in doors]}
        click.echo(strict_json(found))
