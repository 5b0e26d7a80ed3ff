"""What a person sees of many hosts at once: a line per host that changes, on a terminal; plain lines elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from gossip.console import printable

MARKS = {"ok": Text("ok", style="green"), "failed": Text("failed", style="bold red"), "waiting": Text("-", style="dim")}


class Board:
    """One row per host. Every method may be called from any thread."""

    def __init__(self, console: Console, hosts: Sequence[str]) -> None:
        self._console = console
        self._rows = dict.fromkeys(hosts, ("waiting", ""))
        self._said: dict[str, str] = {}  # in plain lines, last
        self._spinner = Spinner("line", style="cyan")
        self._lock = threading.Lock()
        self._live = Live(self, console=console, refresh_per_second=8) if console.is_terminal else None

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def connecting(self, host: str) -> None:
        """Said on a terminal only: elsewhere what comes of it is enough."""
        with self._lock:
            self._rows[host] = ("at work", "connecting")

    def news(self, host: str, text: str) -> None:
        """What is going on there now."""
        self._set(host, "at work", text)

    def done(self, host: str, text: str) -> None:
        self._set(host, "ok", text)

    def failed(self, host: str, text: str) -> None:
        self._set(host, "failed", text)

    def _set(self, host: str, state: str, text: str) -> None:
        with self._lock:
            self._rows[host] = (state, printable(text))
            # Megabytes tick: a plain line says once what is going on, without them.
            line = text.partition(", ")[0] if state == "at work" else f"{state}: {text}"
            if self._live is None and line not in (self._said.get(host), ""):
                self._said[host] = line
                self._console.print(f"{host}  {printable(line)}", markup=False, highlight=False, soft_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        with self._lock:
            for host, (state, text) in self._rows.items():
                mark = self._spinner if state == "at work" else MARKS[state]
                table.add_row(Text(host), mark, Text(text, style="red" if state == "failed" else ""))
        yield table
