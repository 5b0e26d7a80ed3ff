"""Addresses as text: one, several, none."""

from __future__ import annotations

import pytest

from gossip.addresses import are_addresses, is_advertisable, is_listenable, joined
from gossip.protocol.messages import ADDRESS_CHARS_MAX


@pytest.mark.parametrize("text", ["a:1", "192.0.2.7:7700,[2001:db8::7]:7700", "a:1,b:1,c:1,d:1"])
def test_a_node_may_have_several_addresses(text: str) -> None:
    assert are_addresses(text) and is_advertisable(text)


@pytest.mark.parametrize(
    "text", ["", ",", "a:1,", "a:1, b:1", "a:1,a", "a:1,b:1,c:1,d:1,e:1", f"a:1,{'h' * 124}:1", "*:1"]
)
def test_what_is_no_list_of_addresses_is_refused(text: str) -> None:
    """An update carries 128 characters, and nothing but names, numbers and ports may reach libzmq."""
    assert not are_addresses(text) and not is_advertisable(text)


def test_as_many_are_told_as_fit() -> None:
    """The best ones first; a long one does not keep out a short one behind it."""
    long = "h" * 60 + ":7700"
    assert joined([long, long, "b:1", "c:1"]) == f"{long},b:1,c:1"
    assert joined(f"{letter}:1" for letter in "abcdef") == "a:1,b:1,c:1,d:1"
    assert len(joined([long] * 4)) <= ADDRESS_CHARS_MAX and joined([]) == ""


def test_a_node_may_say_that_nobody_can_dial_it() -> None:
    assert is_advertisable("none") and is_listenable("none") and is_listenable("tcp://[::]:0")
    assert not is_listenable("") and not is_listenable("None")
