"""The picture is well-formed whatever the run was, and shows what happened to whom."""

import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.pictures import LEGEND_ENTRIES_MAX, MARKS, Curve, accuracy_picture

SVG = "{http://www.w3.org/2000/svg}"
POINTS = [(0, 0, 0.1), (500_000, 800_000, 0.8), (1_000_000, 1_500_000, 0.97)]


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def test_a_run_is_drawn_twice_with_its_numbers() -> None:
    """Once over samples and once over bytes, with units, names and last accuracies."""
    picture = accuracy_picture([Curve("north", POINTS), Curve("south", POINTS[:2])], "Demo", "mlp", 0.96, 0.31)
    shown = texts(picture)
    assert {"Demo", "mlp", "1 M", "1 MB", "target 96.0 %", "alone 31.0 %"} <= set(shown)
    assert "north  97.0 %" in shown and "south  80.0 %" in shown
    assert len(list(ElementTree.fromstring(picture).iter(f"{SVG}polyline"))) == 4


@pytest.mark.parametrize("end", ["killed", "left", "finished"])
def test_joins_and_ends_are_marked_and_explained(end: str) -> None:
    """Only marks that occur are in the legend."""
    picture = accuracy_picture([Curve("late", POINTS, joined=True, end=end)], "Demo")
    explained = {text for _, text in MARKS.values()} & set(texts(picture))
    assert explained == {MARKS["joined"][1], MARKS[end][1]}


@settings(max_examples=50)
@given(
    st.lists(
        st.builds(
            Curve,
            st.text(max_size=40),
            st.lists(st.tuples(st.integers(0, 10**15), st.integers(0, 10**15), st.floats()), max_size=5),
            st.booleans(),
            st.sampled_from(["finished", "killed", "left", "lost"]),
        ),
        max_size=30,
    ),
    st.text(max_size=40),
)
def test_no_run_breaks_the_picture(history: list[Curve], title: str) -> None:
    """Names come from peers and accuracies may be nan: still well-formed XML with finite coordinates."""
    picture = accuracy_picture(history, title, title)
    ElementTree.fromstring(picture.encode())
    assert not [word for word in picture.split('"')[1::2] if word in ("nan", "inf", "-inf")]


def test_a_name_cannot_smuggle_markup() -> None:
    """A peer's name is text."""
    picture = accuracy_picture([Curve("<script>&'\"", POINTS)], "<b>")
    assert "<script>" not in picture and "<b>" not in picture


def test_a_long_run_and_a_large_swarm_stay_readable() -> None:
    """Points are thinned to what can be seen, and the legend ends somewhere."""
    points = [(k, k, math.tanh(k / 10_000)) for k in range(20_000)]
    history = [Curve(f"node-{k}", points if k == 0 else POINTS) for k in range(LEGEND_ENTRIES_MAX + 5)]
    picture = accuracy_picture(history, "Many")
    assert len(picture) < 100_000 and "and 5 more" in texts(picture)


def test_nothing_measured_is_said() -> None:
    """A run killed before its first look still gets a picture."""
    assert "nothing measured yet" in texts(accuracy_picture([], "Empty"))
