"""The table of a sweep: live on a terminal, a line per trial that ends elsewhere, and whole at the end."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.text import Text

from gossip.console import Cell, printable, table_that_fits
from gossip.sweep.stopping import LOOKS

if TYPE_CHECKING:
    from gossip.sweep.standings import Progress, Row
    from gossip.sweep.sweep import Sweep

COLOURS = {"finished": "", "stopped": "yellow", "running": "green", "waiting": "dim"}
LINE_EVERY_S = 10.0  # where there is no terminal, and no trial ended
ROWS_LIVE_SPARE = 8  # lines of a terminal that are not rows


class SweepConsole:
    """What a person sees of a sweep."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._sweep: Sweep | None = None
        self._line_at = time.monotonic() + LINE_EVERY_S
        self._live = Live(self, console=self._console, refresh_per_second=4) if self._console.is_terminal else None

    def __enter__(self) -> SweepConsole:
        return self

    def __exit__(self, *_: object) -> None:
        """The live view goes; the whole table comes after it."""
        if self._live is not None:
            self._live.update(Text(""), refresh=True)
            self._live.stop()

    def say(self, line: str) -> None:
        self._console.print(printable(line), markup=False, emoji=False, soft_wrap=True)

    def on_change(self, sweep: Sweep, ended: Progress | None) -> None:
        """A trial began, was looked at, or, where it is given, ended."""
        self._sweep = sweep
        if self._live is not None:
            self._live.start()
        elif ended is not None:
            self._line_at = time.monotonic() + LINE_EVERY_S
            self.say(f"{sweep.ended} of {len(sweep.trials)}: {one_line(ended, with_seed=_has_seeds(sweep))}")
        elif time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + LINE_EVERY_S
            self.say(f"{sweep.ended} of {len(sweep.trials)}; {', '.join(map(how_far, sweep.running()))}")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if self._sweep is None:
            return
        fits = max(5, shutil.get_terminal_size().lines - ROWS_LIVE_SPARE)
        rows = [row for row in self._sweep.standings() if row.state != "waiting"]
        running = [row for row in rows if row.state == "running"]
        best = [row for row in rows if row.state != "running"][: max(1, fits - len(running))]
        title = f"{self._sweep.ended} of {len(self._sweep.trials)} trials; Ctrl-C stops, the same command goes on"
        yield _table([*best, *running], title, console, options.max_width)

    def show(self, rows: Sequence[Row], title: str) -> None:
        """All rows, the best first, and below them why some were given up."""
        self._console.print(_table(rows, title, self._console, self._console.width))
        for row in rows:
            if row.why:
                self.say(f"trial {row.number} {row.state}: {row.why}")


def _has_seeds(sweep: Sweep) -> bool:
    return len({trial.seed for trial in sweep.trials}) > 1


def one_line(trial: Progress, with_seed: bool) -> str:
    """A trial that has ended."""
    accuracy = f"{trial.accuracies[-1]:.2%}" if trial.accuracies and trial.state == "finished" else trial.state
    seed = f", seed {trial.seed}" if with_seed else ""
    why = f" ({trial.why})" if trial.why else ""
    return f"trial {trial.number}, {values_of(trial.point)}{seed}: {accuracy}{why}"


def how_far(trial: Progress) -> str:
    """A trial that is under way."""
    accuracy = f" with {trial.accuracies[-1]:.1%}" if trial.accuracies else ""
    return f"trial {trial.number} at {len(trial.accuracies) / LOOKS:.0%}{accuracy}"


def values_of(point: dict[str, Any]) -> str:
    return ", ".join(f"{short(key)} = {shown(value)}" for key, value in point.items())


def short(key: str) -> str:
    """No two sections share a key that can be swept."""
    return key.rpartition(".")[2]


def shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[Row], title: str, console: Console, width: int) -> RenderableType:
    keys = list(dict.fromkeys(key for row in rows for key in row.point))
    columns = [
        "trial",
        *[short(key).replace("_", "_\n", 1) for key in keys],
        "accu-\nracy",
        "loss",
        "samples",
        "s",
        "end",
    ]
    first_to_go = ("s", "samples", "loss")
    return table_that_fits(title, columns, [_cells(row, keys) for row in rows], first_to_go, console, width)


def _cells(row: Row, keys: Sequence[str]) -> list[Cell]:
    spread = f" ±{100 * row.spread:.2f}" if row.seeds > 1 else ""
    return [
        str(row.number),
        *(shown(row.point[key]) if key in row.point else "-" for key in keys),
        f"{row.accuracy:.2%}{spread}" if row.accuracy is not None else "-",
        f"{row.loss:.3f}" if row.loss is not None else "-",
        f"{row.samples:,}",
        f"{row.seconds:.1f}" if row.seconds else "-",
        Text(row.state, style=COLOURS.get(row.state, "red")),
    ]
