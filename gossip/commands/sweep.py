"""gossip sweep: many short trainings with other values, and which did best."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip.commands.options import part, warm_up

if TYPE_CHECKING:
    from gossip.sweep.folder import SweepFolder
    from gossip.sweep.standings import Row


class _RunByDefault(click.Group):
    """`gossip sweep SPEC` is `gossip sweep run SPEC`."""

    def parse_args(self, context: click.Context, words: list[str]) -> list[str]:
        return super().parse_args(context, words if words and words[0] in self.commands else ["run", *words])


@click.group(cls=_RunByDefault)
def sweep() -> None:
    """Train SPEC many times with other values, and say which did best; promote writes that down.

    gossip sweep SPEC --grid KEY=VALUES ..., and gossip sweep promote FOLDER OUT.toml
    """


@sweep.command(hidden=True)
def worker() -> None:
    """Train what standard input says."""
    from gossip.sweep.worker import serve

    serve()


def _jobs(context: click.Context, option: click.Parameter, text: str) -> int:
    if text == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 1024:
        return int(text)
    raise click.BadParameter(f'{text!r}: expected a whole number from 1 to 1024, or "auto"')


@sweep.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option(
    "--grid",
    "grid_words",
    multiple=True,
    metavar="KEY=VALUES",
    help="A key of the file and what to try: train.batch=32,64 or, with --random, train.learning_rate=1e-3..1.",
)
@click.option("--random", type=click.IntRange(1, 10_000), help="Draw so many trials; ranges are drawn log-uniformly.")
@click.option("--sample", metavar="PART", help='Train on a part of the training data: "10%" or 2000 samples.')
@click.option("--samples", type=click.IntRange(1, 10**15), help="What a trial trains on.  [as many epochs as in SPEC]")
@click.option("--seeds", type=click.IntRange(1, 100), help="Train every trial so often and show mean and spread.  [1]")
@click.option(
    "--stop-early",
    is_flag=True,
    default=None,
    help="After a third of its samples give a trial up that is worse than the median of the others there.",
)
@click.option("--jobs", default="auto", show_default=True, callback=_jobs, help="How many at once, one core each.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where trials are kept; the same again goes on.  [runs/NAME-sweep]",
)
@click.option("--data-dir", default="", help="A folder that holds the data files.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def run(
    spec: Path, grid_words: tuple[str, ...], jobs: int, folder: Path | None, data_dir: str, as_json: bool, **given: Any
) -> None:  # fmt: skip
    """Train SPEC, an experiment or a sweep file, once per combination of --grid, and sort by accuracy.

    Each trial is one node alone on one core. They are judged on a tenth of the training data that none of them trains
    on; the test set is not looked at. Ctrl-C keeps every trial that has ended, and the same command goes on.

    \b
    gossip sweep mnist.toml --grid train.learning_rate=0.03,0.1,0.3 --grid train.batch=32,64 --sample 10%
    gossip sweep mnist.toml --grid train.learning_rate=1e-3..1 --random 20 --stop-early
    gossip sweep promote runs/mnist-sweep best.toml
    """
    from gossip.commands.sweep_table import SweepConsole
    from gossip.data.store import load_dataset
    from gossip.observe import strict_json
    from gossip.sweep.folder import open_folder
    from gossip.sweep.orders import read_orders
    from gossip.sweep.plan import trials_of
    from gossip.sweep.pool import Pool
    from gossip.sweep.sweep import Sweep

    if given["sample"] is not None:
        given["sample"] = part(given["sample"])
    orders = read_orders(spec, grid_words, {key: value for key, value in given.items() if value is not None})
    base, experiment = orders.base, orders.base.shared()
    load_dataset(experiment.recipe, data_dir or experiment.node.data_dir)
    kept = open_folder(folder or Path("runs") / f"{experiment.name}-sweep", base)
    try:
        rows = kept.keep(orders.points)
        trials = trials_of(rows, orders.seed, orders.seeds)
        shared = {"base": base.to_json(), "data_dir": data_dir or experiment.node.data_dir}
        with SweepConsole() as console:
            pool = Pool(shared, min(jobs, len(trials)), kept.path)
            under_way = Sweep(kept, rows, trials, pool, orders.stop_early, console.on_change)
            _say_what(console.say, kept, base, under_way.ended, len(trials), pool.size)
            if not under_way.is_whole:
                warm_up("sweep")  # once here, and not in every worker at the same time
                under_way.run()
        found = under_way.standings()
        console.show(found, f"{experiment.name}, best first")
        _say_best(console.say, kept, found)
        if as_json:
            click.echo(strict_json(_result(kept, found, base, under_way.is_whole)))
    finally:
        kept.close()
    _refuse(under_way, kept)


def _say_what(say: Any, kept: SweepFolder, base: Any, ended: int, trials: int, jobs: int) -> None:
    from gossip.console import counted
    from gossip.sweep.trial import samples_to_learn, validation_size

    experiment = base.shared()
    learnt, held_out = samples_to_learn(experiment), validation_size(experiment)
    say(f"folder {kept.path}" + (f": {ended} of {trials} trials are there already" if ended else ""))
    say(
        f"{counted(trials, 'trial')}, {jobs} at a time: each trains on {learnt:,} of "
        f"{experiment.recipe.train_samples:,} training samples, {base.budget_of(experiment):,} samples in all"
    )
    say(f"judged by {held_out:,} other training samples, the same for all; the test set is not looked at")


def _say_best(say: Any, kept: SweepFolder, rows: list[Row]) -> None:
    from gossip.commands.sweep_table import values_of

    if rows and rows[0].state == "finished" and rows[0].accuracy is not None:
        best = rows[0]
        say(f"best: trial {best.number}, {values_of(best.point)}: {best.accuracy:.2%}")
        say(f"write it down with\n  gossip sweep promote {shlex.quote(str(kept.path))} {kept.base.path.stem}-best.toml")


def _result(kept: SweepFolder, rows: list[Row], base: Any, is_whole: bool) -> dict[str, Any]:
    from gossip.sweep.trial import samples_to_learn, validation_size

    experiment = base.shared()
    best = rows[0].number if rows and rows[0].state == "finished" else None
    return {
        "folder": str(kept.path), "is_whole": is_whole, "best": best, "rows": [row.to_json() for row in rows],
        "validation_samples": validation_size(experiment), "training_samples": samples_to_learn(experiment),
        "samples": base.budget_of(experiment),
    }  # fmt: skip


def _refuse(under_way: Any, kept: SweepFolder) -> None:
    """A sweep that is not whole is no success. Raises GossipError, SystemExit."""
    from gossip.console import counted
    from gossip.errors import GossipError

    left = sum(trial.key not in kept.records for trial in under_way.trials)
    if under_way.stopped_by:
        click.echo(f"gossip: stopped; {counted(left, 'trial')} to go, the same command goes on", err=True)
        sys.exit(128 + under_way.stopped_by)
    if left:
        raise GossipError(
            f"{counted(left, 'trial')} failed; the same command tries again; more in {kept.path}/worker-*.log"
        )


@sweep.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--trial", type=click.IntRange(min=1), help="Which row of the table.  [the best]")
def promote(folder: Path, out: Path, trial: int | None) -> None:
    """Write the best of a sweep's FOLDER, or --trial, as the experiment file OUT.

    OUT is the swept file with these values, its comments kept. What the sweep trained on a sample of the data, OUT
    trains on all that the file says.
    """
    from gossip.commands.sweep_table import values_of
    from gossip.errors import SpecError
    from gossip.observe import write_atomically
    from gossip.sweep.folder import read_folder
    from gossip.sweep.promote import promoted
    from gossip.sweep.standings import progress_of, standings

    kept = read_folder(folder)
    rows = standings(kept.rows, map(progress_of, kept.records.values()))
    if trial is None and not (rows and rows[0].state == "finished"):
        raise SpecError(f"{folder}: no trial has finished yet; go on with the sweep, or give --trial N")
    chosen = next((row for row in rows if trial in (None, row.number)), None)
    if chosen is None:
        raise SpecError(f"--trial {trial}: this sweep has trials 1 to {len(rows)}")
    if out.exists():
        raise SpecError(f"{out}: is there already; choose another name, or remove it")
    text, has_comments = promoted(kept.base, chosen.point, out)
    judged = f"{chosen.accuracy:.2%} on validation samples" if chosen.accuracy is not None else chosen.state
    head = f"# Trial {chosen.number} of {folder}: {values_of(chosen.point)}; {judged}.\n"
    try:
        write_atomically(out, (head + text).encode())
    except OSError as error:
        raise SpecError(f"{out}: cannot be written ({error.strerror}); choose another name") from error
    click.echo(f"{out}: trial {chosen.number}, {values_of(chosen.point)} ({judged})")
    if not has_comments:
        click.echo("its comments could not be kept: the file's layout is unusual")
