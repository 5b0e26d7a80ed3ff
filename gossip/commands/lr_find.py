"""gossip lr-find: which learning rate to train with."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from gossip.commands.options import sample, warm_up

LINE_EVERY_S = 5.0  # where there is no terminal


@click.command(name="lr-find")
@click.argument("spec", type=click.Path(path_type=Path))
@sample
@click.option(
    "--from", "lowest", default=1e-5, show_default=True, type=click.FloatRange(min=0, min_open=True),
    help="The first rate.",
)  # fmt: skip
@click.option(
    "--to",
    "highest",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0, 100, min_open=True),
    help="The last one, if it gets there.",
)
@click.option(
    "--steps", default=300, show_default=True, type=click.IntRange(20, 100_000), help="How many, one batch each."
)
@click.option(
    "--picture", type=click.Path(path_type=Path, dir_okay=False), help="Where to draw it. [runs/NAME-lr-find.svg]"
)
@click.option("--data-dir", default="", help="A folder that holds the data files.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def lr_find(
    spec: Path,
    changes: dict[str, Any],
    lowest: float,
    highest: float,
    steps: int,
    picture: Path | None,
    data_dir: str,
    as_json: bool,
) -> None:
    """Which learning rate SPEC should train with: seconds, on this machine, with SPEC's optimizer and batch.

    One node trains while the rate grows with every step, until the loss flies apart (Smith 2017, arXiv 1506.01186).
    Suggests a rate, says why, and draws the loss over the rate.

    Example: gossip lr-find experiment.toml --sample 10%
    """
    from gossip.data.store import load_dataset
    from gossip.errors import GossipError
    from gossip.observe import strict_json, write_atomically
    from gossip.rate_picture import rate_picture
    from gossip.spec import load
    from gossip.training.alone import all_of_the_sample, lone_trainer
    from gossip.training.range_test import growing_rates, range_test, suggest

    experiment = load(spec, {**changes, "train.learning_rate": highest})  # the file may have none yet
    rates = growing_rates(lowest, highest, steps)
    picture = picture or Path("runs") / f"{experiment.name}-lr-find.svg"
    dataset = load_dataset(experiment.recipe, data_dir or experiment.node.data_dir)
    indices = all_of_the_sample(experiment, dataset)
    click.echo(f"{experiment.name}: {len(indices):,} training samples, batches of {experiment.train.batch_first}")
    warm_up("lr-find")
    trainer = lone_trainer(experiment, dataset, indices)
    with _progress(rates) as on_step:
        curve = range_test(trainer, rates, on_step)
    found = suggest(curve)
    title = experiment.name + (f": learning rate {found.rate:.2g}" if found.rate else ": no learning rate found")
    drawing = rate_picture(
        curve.rates.tolist(), curve.losses.tolist(), curve.smoothed.tolist(), title, found.reason,
        suggested=found.rate, diverged_at=curve.diverged_at,
    )  # fmt: skip
    try:
        write_atomically(picture, drawing.encode())
    except OSError as error:
        raise GossipError(f"{picture}: cannot be written ({error.strerror}); choose another --picture") from error
    click.echo(f"picture  {picture}")
    if found.rate is None:
        raise GossipError(f"{spec}: {found.reason}")
    click.echo(f"learning_rate = {found.rate:.2g}   # {found.reason}")
    if as_json:
        click.echo(
            strict_json(
                {
                    "learning_rate": found.rate, "reason": found.reason, "steepest": found.steepest,
                    "diverged_at": curve.diverged_at,
                    "samples": len(indices), "steps": len(curve.rates), "picture": str(picture),
                    "rates": curve.rates.tolist(), "losses": curve.losses.tolist(),
                    "smoothed": curve.smoothed.tolist(),
                }
            )
        )  # fmt: skip


@contextlib.contextmanager
def _progress(rates: list[float]) -> Iterator[Callable[[int, float], None]]:
    """How far it is: a bar on a terminal, else a line now and then; on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True, highlight=False)
    line_at = time.monotonic() + LINE_EVERY_S
    columns = (TextColumn("step {task.completed} of {task.total}"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(rates))

        def on_step(done: int, loss: float) -> None:
            nonlocal line_at
            said = f"rate {rates[done - 1]:.2g}, loss {loss:.3f}"
            bar.update(task, completed=done, description=said)
            if not console.is_terminal and time.monotonic() >= line_at:
                line_at = time.monotonic() + LINE_EVERY_S
                console.print(f"step {done} of {len(rates)}: {said}")

        yield on_step
