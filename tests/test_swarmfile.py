"""swarm.json comes back as it was, is nobody else's to read, and says so when it is damaged."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from gossip.errors import SpecError
from gossip.swarmfile import Door, SwarmFile, read_swarm_file, write_swarm_file

OWN, A, B, C = ((letter * 32).encode().hex() for letter in "oabc")
FILE = SwarmFile(
    swarm_id=bytes(8).hex(),
    swarm_key=bytes(32).hex(),
    spec_hash=bytes(8).hex(),
    key=OWN,
    incarnation=3,
    seeds=(Door("a:1", A), Door("b:1", B)),
    members=(Door("c:1", C), Door("b:2", B), Door("me:1", OWN)),
)


def test_it_comes_back_and_is_its_owners_alone(tmp_path: Path) -> None:
    """It holds the swarm's key."""
    assert read_swarm_file(tmp_path) is None
    write_swarm_file(tmp_path, FILE)
    write_swarm_file(tmp_path, msgspec.structs.replace(FILE, incarnation=4))
    found = read_swarm_file(tmp_path)
    assert found == msgspec.structs.replace(FILE, incarnation=4)
    assert stat.S_IMODE((tmp_path / "swarm.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["swarm.json"]


def test_members_are_knocked_at_before_the_tickets_seeds() -> None:
    """Each once, under the address it was last seen at; never at our own door."""
    assert FILE.doors() == (Door("c:1", C), Door("b:2", B), Door("a:1", A))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b'{"format": 1}', b"\xff"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "swarm.json").write_bytes(damage)
    with pytest.raises(SpecError, match=r"swarm\.json: damaged .*; remove it"):
        read_swarm_file(tmp_path)


def test_another_version_and_cut_keys_are_refused(tmp_path: Path) -> None:
    for wrong in ({"format": 2}, {"swarm_key": "00"}, {"members": (Door("c:1", "00"),)}):
        write_swarm_file(tmp_path, msgspec.structs.replace(FILE, **wrong))
        with pytest.raises(SpecError, match="not of this version"):
            read_swarm_file(tmp_path)
