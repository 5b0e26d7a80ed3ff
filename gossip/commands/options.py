"""Options that several commands share."""

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
    if not text:
        return {}
    return {"data.sample": int(text) if text.isascii() and text.isdigit() else text}
