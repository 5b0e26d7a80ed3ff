"""What several commands share: options, and the wait for kernels to compile."""

from __future__ import annotations

from typing import Any

import click

sample = click.option(
    "--sample",
    "changes",
    default="",
    metavar="PART",
    callback=lambda context, option, text: _sampled(text),
    help='Train on a part of the training data, "10%" or 2000 samples: of every class its share, chosen by the seed. '
    "What data.sample is in the file.",
)


def _sampled(text: str) -> dict[str, Any]:
    """What the option changes in the experiment, for `spec.load`."""
    return {"data.sample": part(text)} if text else {}


def part(text: str) -> str | int:
    """As data.sample is written: a number of samples is a number."""
    return int(text) if text.isascii() and text.isdigit() else text


def warm_up(title: str) -> None:
    """Compile the kernels, or load them from the disk, and say how far that is."""
    from gossip import warmup
    from gossip.console import SwarmConsole

    warmup.warm_up(SwarmConsole(title).on_warm_up)
