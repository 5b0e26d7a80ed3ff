"""Real `gossip` processes, and waiting for named events instead of sleeping."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from gossip.observe import Event, read_events

GOSSIP = [sys.executable, "-m", "gossip"]
ONE_THREAD = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
LOOK_EVERY_S = 0.01  # at a file that grows: there is nothing to select on
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would every process started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
ENDLESS = 10**12  # samples: more than any test waits for


def spec_text(**changes: Any) -> str:
    """A small experiment on glyphs; `changes` replace or add keys, as section_key=value."""
    values: dict[str, Any] = {
        "data_recipe": "glyphs", "data_partition": "iid", "data_shards": 2, "model_preset": "mlp",
        "train_samples": ENDLESS, "train_batch": 32, "train_learning_rate": 0.03,
        "exchange_every_steps": 8, "exchange_blocks": 0.25, **changes,
    }  # fmt: skip
    lines = ['name = "test"', "seed = 1"]
    for section in ("data", "model", "train", "exchange", "node"):
        keys = {name.removeprefix(f"{section}_"): value for name, value in values.items() if name.startswith(section)}
        lines += [f"[{section}]"] if keys else []
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def draw_digit(digit: str) -> Image.Image:
    """Ink on paper, as somebody would photograph it."""
    image = Image.new("L", (240, 240), "white")
    ImageDraw.Draw(image).text((120, 120), digit, fill="black", font=ImageFont.load_default(size=210), anchor="mm")
    return image


def patient(seconds: float) -> float:
    """What `seconds` on a machine of our own come to on this one: twice the processes per core, twice the time."""
    return seconds * max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))


def wait_until(is_true: Callable[[], Any], within_s: float, what: str) -> Any:
    """What `is_true` returns, as soon as it is true. Fails by `what` after `within_s`."""
    began = time.monotonic()
    while not (found := is_true()):
        # Asked anew each time: a load that has just begun is in no average yet.
        assert time.monotonic() < began + patient(within_s), f"not within {within_s:g} s: {what}"
        time.sleep(LOOK_EVERY_S)
    return found


def is_running(pid: int) -> bool:
    """Is there a process with this id that has not ended? A zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class GossipProcess:
    """One `gossip` command in a folder of its own, whose output goes to files there."""

    def __init__(self, *words: str | Path, cwd: Path, name: str, prefix: tuple[str, ...] = (), **env: str) -> None:
        self.name = name
        self.cwd = cwd
        self.out, self.err = cwd / f"{name}.out", cwd / f"{name}.err"
        self.run = cwd / name  # a node's run folder; see `start_node`
        self.began_at = time.time()
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*prefix, *GOSSIP, *map(str, words)],
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=os.environ | ONE_THREAD | env,
                process_group=0,
            )

    # -- What it says --------------------------------------------------------------------------------

    @property
    def events(self) -> list[Event]:
        path = self.run / "events.jsonl"
        return list(read_events(path)) if path.exists() else []

    def all(self, name: str) -> list[Event]:
        return [event for event in self.events if event["event"] == name]

    def wait_for(self, name: str, within_s: float = 20.0, when: Callable[[Event], bool] = lambda e: True) -> Event:
        """The first event of this name for which `when` holds."""

        def look() -> Event | None:
            found = next((event for event in self.all(name) if when(event)), None)
            assert found or self.process.poll() is None, f"{self.name} ended before {name}\n{self.story()}"
            return found

        return wait_until(look, within_s, f"{name} of {self.name}")

    def wait_for_text(self, text: str, within_s: float = 20.0) -> str:
        """The rest of the first line of its output that begins with `text`."""

        def look() -> str | None:
            lines = self.out.read_text(errors="replace").splitlines(keepends=True)
            found = next((line for line in lines if line.startswith(text) and line.endswith("\n")), None)
            assert found or self.process.poll() is None, f"{self.name} ended before it said {text!r}\n{self.story()}"
            return found

        return wait_until(look, within_s, f"{self.name} says {text!r}").removeprefix(text).strip()

    def ticket(self) -> str:
        return self.wait_for_text("gossip node --join ")

    def waited_for_cpu_s(self) -> float:
        """How long its main thread could have run and was not let, since its start."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9

    def story(self) -> str:
        """Its last words, for a failure."""
        events = [json.dumps(event)[:300] for event in self.events[-12:]]
        output = [f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in (self.out, self.err)]
        return "\n".join([f"--- {self.name}, exit status {self.process.poll()}", *events, *output])

    # -- How it ends ---------------------------------------------------------------------------------

    def wait(self, within_s: float = 20.0) -> int:
        """Its exit status."""
        try:
            wait_until(lambda: self.process.poll() is not None, within_s, f"{self.name} ends")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from None
        return self.process.returncode

    def result(self, within_s: float = 20.0) -> dict[str, Any]:
        """The JSON object that is the last line of what it printed."""
        status = self.wait(within_s)
        assert status == 0, self.story()
        return json.loads(self.out.read_text().splitlines()[-1])

    def interrupt(self, number: int = signal.SIGINT) -> float:
        """Send a signal to it alone, and return the moment."""
        self.process.send_signal(number)
        return time.monotonic()

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
