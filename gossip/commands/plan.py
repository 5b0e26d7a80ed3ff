"""gossip plan: what a run will cost, before it begins."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--nodes", default=4, show_default=True, type=click.IntRange(1, 100_000), help="How many nodes.")
@click.option("--data-dir", default="", help="A folder that holds the data files.")
@click.option("--upload", default="", metavar="RATE", help='What a node may send, such as "1 mbit/s".  [no limit]')
@click.option(
    "--round-trip", "round_trip_ms", default=40.0, show_default=True, metavar="MS", type=click.FloatRange(min=0),
    help="Between two nodes.",
)  # fmt: skip
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(min=0.1), help="How long to measure.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def plan(
    spec: Path, nodes: int, data_dir: str, upload: str, round_trip_ms: float, seconds: float, as_json: bool
) -> None:
    """How much memory, disk, traffic and time SPEC takes on --nodes machines like this one.

    Measures real steps and exchanges for a few seconds; nothing else should run here meanwhile.

    Example: gossip plan experiment.toml --nodes 16 --upload "2 mbit/s"
    """
    from gossip.observe import strict_json
    from gossip.plan import lines
    from gossip.plan import plan as forecast
    from gossip.spec import load

    found = forecast(
        load(spec), nodes=nodes, data_dir=data_dir, upload=upload, round_trip_s=round_trip_ms / 1e3, seconds=seconds
    )
    click.echo(strict_json(found) if as_json else "\n".join(lines(found)))
