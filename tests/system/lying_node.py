"""A `gossip` node that trains like any other, and gives newcomers its model a thousand times too large.

Started before the usual command line: lying_node.py PYTHON -m gossip node ...
"""

from __future__ import annotations

import sys

import numpy as np

from gossip.__main__ import main
from gossip.codec.fragment import Fragment
from gossip.training.mixer import Mixer


class Liar(Mixer):
    honest = Mixer.fragment

    def lie(self, x: np.ndarray, momentum: np.ndarray, index: int) -> Fragment | None:
        fragment = Liar.honest(self, x, momentum, index)
        if fragment is not None:
            fragment.x_peaks[:] *= 1_000
        return fragment


Mixer.fragment = Liar.lie  # type: ignore[method-assign, assignment]
sys.argv = ["gossip", *sys.argv[4:]]
main()
