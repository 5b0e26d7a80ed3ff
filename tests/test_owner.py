"""The owner's key: where it lies, what it signs, and what that is good for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.errors import NetworkError
from gossip.owner import OwnerKey, SwarmName, load_owner_key, signed_bytes, verifier

KEY = OwnerKey(b"o" * 32)
HERE = SwarmName(b"the spec", b"swarm id")
texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


def test_what_the_owner_signed_is_the_owners() -> None:
    command = KEY.command(HERE, 7, "set lr", "0.01")
    assert verifier(KEY.public, HERE)(command)
    for forged in (
        replace(command, sequence=8),
        replace(command, value="0.02"),
        replace(command, name="set l", value="r0.01"),
        replace(command, signature=bytes(64)),
    ):
        assert not verifier(KEY.public, HERE)(forged)


def test_a_command_is_for_one_swarm_only() -> None:
    """Not for another experiment of this owner, not for the same one run again, not by another owner."""
    is_ours = verifier(KEY.public, HERE)
    assert not is_ours(KEY.command(replace(HERE, spec_hash=b"another."), 1, "stop"))
    assert not is_ours(KEY.command(replace(HERE, swarm_id=b"another."), 1, "stop"))
    assert not is_ours(OwnerKey.new().command(HERE, 1, "stop"))
    assert not verifier("", HERE)(KEY.command(HERE, 1, "stop")), "a swarm without an owner"


@given(st.tuples(st.integers(1, 9), texts, texts), st.tuples(st.integers(1, 9), texts, texts))
def test_no_two_commands_have_the_same_bytes(one: tuple[int, str, str], other: tuple[int, str, str]) -> None:
    """Or a signature would serve for both."""
    assert (signed_bytes(HERE, *one) == signed_bytes(HERE, *other)) == (one == other)


def test_a_key_file_is_private_and_made_once(tmp_path: Path) -> None:
    path = tmp_path / "owner.key"
    KEY.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_owner_key(path).public == KEY.public
    with pytest.raises(NetworkError, match="never overwritten"):
        OwnerKey.new().save(path)
    path.chmod(0o640)
    with pytest.raises(NetworkError, match="chmod 600"):
        load_owner_key(path)


def test_what_is_no_owner_key_says_so(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    path.write_text("gossip secret key 1: " + "00" * 32)
    path.chmod(0o600)
    with pytest.raises(NetworkError, match="not a gossip owner key file; gossip owner-key FILE makes one"):
        load_owner_key(path)
    with pytest.raises(NetworkError, match="cannot read"):
        load_owner_key(tmp_path / "none")
    with pytest.raises(NetworkError, match="cannot create"):
        KEY.save(tmp_path / "none" / "owner.key")
