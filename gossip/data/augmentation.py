"""What is done to training images so that no two epochs are the same: "flip", "crop 4".

Knows the words and what fits an image. `gossip.kernels.augment` does it. Held-out samples are never touched.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gossip.errors import SpecError

AUGMENT_EXPECTED = 'a list of "flip" and "crop N", such as ["flip", "crop 4"]'


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Made by `parse_augment`."""

    is_flipped: bool = False  # every second image is mirrored, left to right
    margin: int = 0  # pixels by which an image is moved at most; what was outside has the mean colour

    @property
    def is_none(self) -> bool:
        return not self.is_flipped and self.margin == 0

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raises SpecError for what leaves nothing of an image. shape: height, width, channels."""
        shorter = min(shape[:2])
        if self.margin > shorter // 2:
            raise SpecError(
                f'"crop {self.margin}" would move images of {shape[0]}x{shape[1]} by more than half of them; '
                f'expected at most "crop {shorter // 2}"'
            )


def parse_augment(words: Sequence[str]) -> Augmentation:
    """Raises SpecError: the word that is wrong, and the one that may have been meant."""
    is_flipped, margin = False, 0
    for word in words:
        crop = re.fullmatch(r"crop ([1-9][0-9]{0,2})", word)
        if word == "flip" and not is_flipped:
            is_flipped = True
        elif crop and not margin:
            margin = int(crop[1])
        elif word == "flip" or crop:
            raise SpecError(f'"{word}" comes after another one; expected each at most once')
        else:
            raise SpecError(f'"{word}" is unknown; {_nearest(word)}')
    return Augmentation(is_flipped, margin)


def _nearest(word: str) -> str:
    if word.split()[:1] == ["crop"]:
        return 'expected a whole number of pixels from 1 to 999 behind it, such as "crop 4"'
    near = difflib.get_close_matches(word, ("flip", "crop 4"), n=1, cutoff=0.4)
    return f'did you mean "{near[0]}"?' if near else f"expected {AUGMENT_EXPECTED}"
