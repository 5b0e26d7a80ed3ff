"""The main job in half a minute: six lives of a swarm whose nodes know three digits each.

Four nodes start; two more join at a third of the run; at half of it the very first node is killed
without a goodbye, and another leaves with one. The four that stay hold all ten digits together.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from gossip.launcher import Launcher
from gossip.spec import load

SPEC = """\
name = "demo"
seed = 1

[data]
recipe = "glyphs"           # drawn on this machine: nothing to download
partition = "classes(3)"    # nobody holds more than three of the ten digits
shards = 4

[model]
preset = "lenet"

[train]
samples = 900_000           # by all nodes together
batch = 32
learning_rate = 0.03
momentum = 0.9

[exchange]
every_steps = 8
blocks = 0.25
"""
ALONE_STEPS = 500


def run_demo(run_dir: Path | None) -> dict[str, Any]:
    """Play it, and return what `gossip train` returns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.toml"
        path.write_text(SPEC, encoding="utf-8")
        experiment = load(path)
    launcher = Launcher(experiment, nodes=4, run_dir=run_dir)
    note = launcher.console.note

    newcomers: list[str] = []

    def join() -> None:
        newcomers.extend(launcher.add_node() for _ in range(2))
        note(f"{' and '.join(newcomers)} join: they hold a ticket, nothing else")

    def may_die() -> bool:
        """Not before the newcomers hold what n0 and n1 take with them, however fast the machine."""
        have_joined = all(launcher.children[name].joined_at for name in newcomers)
        return launcher.progress >= 1 / 2 and have_joined

    def die() -> None:
        launcher.kill("n0")
        note("n0, the very first node, is killed (SIGKILL)")
        launcher.say_goodbye("n1")
        note("n1 says goodbye")

    launcher.schedule = [(lambda: launcher.progress >= 1 / 3, join), (may_die, die)]
    result = launcher.run(alone_steps=ALONE_STEPS)
    spec = launcher.run_folder.path / "spec.toml"
    launcher.console.say(
        f"\nAcross two machines: start the first with\n  gossip node {spec} --listen tcp://0.0.0.0:7700\n"
        "and paste the line it prints, gossip node --join TICKET, on the second."
    )
    return result
