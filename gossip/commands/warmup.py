"""gossip warmup: compile before it matters."""

from __future__ import annotations

import click


@click.command()
def warmup() -> None:
    """Compile all kernels now, half a minute at most, and keep them on the disk.

    Every command does this by itself when it has to: once per machine, after an upgrade, and on another kind of CPU.

    Example, while a machine image is made: gossip warmup
    """
    import time
    from pathlib import Path

    from gossip.console import SwarmConsole
    from gossip.kernels import step
    from gossip.warmup import warm_up

    console, began = SwarmConsole("warmup"), time.monotonic()
    warm_up(console.on_warm_up)
    console.say(f"kernels ready ({time.monotonic() - began:.1f} s) in {Path(step.loss_and_grad.stats.cache_path)}")
