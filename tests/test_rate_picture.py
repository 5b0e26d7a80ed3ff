"""The picture of a learning-rate test is well-formed whatever the losses were."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.rate_picture import rate_picture

SVG = "{http://www.w3.org/2000/svg}"


def test_rates_are_marked() -> None:
    rates = [10.0**power for power in range(-5, 1)]
    drawn = rate_picture(rates, [2.0] * 6, [2.0] * 6, "a <b>", suggested=0.01, diverged_at=1.0)
    tree = ElementTree.fromstring(drawn)
    texts = [element.text or "" for element in tree.iter(f"{SVG}text")]
    assert {"suggested 0.01", "diverges 1", "1e-05", "0.1", "a <b>"} <= set(texts)
    assert len(list(tree.iter(f"{SVG}circle"))) == 6


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(), st.floats(0, 1e6)), min_size=1, max_size=30),
    st.none() | st.floats(1e-9, 1e9),
    st.none() | st.floats(1e-9, 1e9),
)
def test_no_losses_break_it(losses: list[tuple[float, float]], suggested: float | None, diverged: float | None) -> None:
    rates = [1e-5 * 1.1**step for step in range(len(losses))]
    raw, smoothed = zip(*losses, strict=True)
    drawn = rate_picture(rates, raw, smoothed, "t", suggested=suggested, diverged_at=diverged)
    words = drawn.replace(",", '"').replace(" ", '"').split('"')
    assert ElementTree.fromstring(drawn) is not None
    assert not {"nan", "inf", "-inf"} & set(words)
