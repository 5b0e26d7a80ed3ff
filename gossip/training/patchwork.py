"""A state in the making: who gave which fragment, and what the state would be without him.

x itself is where fragments go as they come. Beside it lie the audited fragments, once per donor that
gave them, and nothing else: audited x donors x at most 133,600 bytes, 534 kB for two of each. A
comparison borrows one vector of x's size for the untrained model, and gives it back.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gossip.codec.fragment import Fragment, fragment_span
from gossip.kernels import absmax
from gossip.kernels.exchange import BLOCK


class Patchwork:
    """The origin of every fragment of a newcomer's x. Peers are names here, nothing more."""

    def __init__(self, n_blocks: int) -> None:
        self._n_blocks = n_blocks
        self._givers: dict[int, bytes] = {}  # of what lies in x only
        self._audited: dict[int, dict[bytes, Fragment]] = {}

    def note(self, index: int, peer: bytes, fragment: Fragment, keep: bool) -> None:
        """`fragment` has become part of x; `keep` holds it beside x as well."""
        if keep:
            self._audited.setdefault(index, {})[peer] = fragment
        else:
            self._givers[index] = peer

    def keep_only(self, donors: Iterable[bytes]) -> None:
        """Forget what all others gave. What of theirs lies in x is to be loaded again."""
        donors = tuple(donors)
        self._givers = {index: peer for index, peer in self._givers.items() if peer in donors}
        for index, copies in self._audited.items():
            self._audited[index] = {peer: fragment for peer, fragment in copies.items() if peer in donors}

    def audited_of(self, peer: bytes) -> list[Fragment]:
        """`peer`'s copies of what is audited."""
        return [copies[peer] for copies in self._audited.values() if peer in copies]

    def write_with(self, peer: bytes, x: NDArray[np.float32]) -> None:
        """x: float32[padded], a copy of the state; gets `peer`'s copies of what is audited."""
        for fragment in self.audited_of(peer):
            _write(fragment, x)

    def write_without(self, peer: bytes, x: NDArray[np.float32], untrained: NDArray[np.float32]) -> None:
        """What `peer` gave is replaced: by another's copy where there is one, else by the untrained model's."""
        for index, copies in self._audited.items():
            others = [fragment for giver, fragment in copies.items() if giver != peer]
            if others:
                _write(others[0], x)
            elif copies:
                self._copy(index, untrained, x)
        for index, giver in self._givers.items():
            if giver == peer:
                self._copy(index, untrained, x)

    def _copy(self, index: int, source: NDArray[np.float32], x: NDArray[np.float32]) -> None:
        first, count = fragment_span(self._n_blocks, index)
        part = slice(first * BLOCK, (first + count) * BLOCK)
        x[part] = source[part]


def _write(fragment: Fragment, x: NDArray[np.float32]) -> None:
    part = slice(fragment.first * BLOCK, (fragment.first + fragment.count) * BLOCK)
    absmax.dequantise(fragment.x_peaks, fragment.x_levels, x[part])
