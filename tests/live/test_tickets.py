"""A ticket survives mail and dictation, or says that it did not."""

from __future__ import annotations

import base64
import hashlib
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.errors import NetworkError
from gossip.live.security import permit_key
from gossip.live.tickets import SEEDS_MAX, Ticket, mint, mint_again, parse_ticket, swarm_id
from gossip.swarmfile import Door, SwarmFile

SWARM_KEY = b"s" * 32
NOW = 1_700_000_000.0
SEEDS = [("192.0.2.7:7700", b"a" * 32), ("[2001:db8::7]:7700", b"b" * 32), ("gossip.example:1", b"c" * 32)]


def ticket(seeds: int = 3) -> Ticket:
    return mint(SWARM_KEY, SEEDS[:seeds], 60.0, now=NOW)


def test_a_ticket_survives_a_mail_program() -> None:
    minted = ticket()
    text = minted.text()
    assert "=" not in text
    assert parse_ticket(text) == minted
    assert parse_ticket("  " + "\r\n".join(textwrap.wrap(text.lower(), 40)) + "\n") == minted


def test_a_ticket_admits_until_its_expiry_and_not_longer() -> None:
    minted = ticket()
    assert minted.expiry == NOW + 60
    assert minted.permit.key == permit_key(SWARM_KEY, minted.ticket_id, minted.expiry)
    assert minted.swarm_id == swarm_id(SWARM_KEY)


def test_a_ticket_does_not_show_its_key_by_accident() -> None:
    minted = ticket()
    assert repr(minted.ticket_key) not in repr(minted)
    assert SWARM_KEY not in base64.b32decode(minted.text() + "=" * (-len(minted.text()) % 8))


@given(st.data())
def test_a_typo_is_noticed(data: st.DataObject) -> None:
    text = ticket().text()
    position = data.draw(st.integers(0, len(text) - 2))  # the last letter has bits to spare
    letter = data.draw(st.sampled_from([c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" if c != text[position]]))
    with pytest.raises(NetworkError, match="typo"):
        parse_ticket(text[:position] + letter + text[position + 1 :])


@given(st.text(max_size=300) | st.text(alphabet="ABCDEFGHIJ234567", max_size=300))
def test_no_text_breaks_the_parser(text: str) -> None:
    with pytest.raises(NetworkError):
        parse_ticket(text)


@given(st.binary(max_size=200))
def test_no_forged_content_breaks_the_parser(noise: bytes) -> None:
    """The checksum is no secret: behind it anything may come."""
    body = b"\x01" + noise
    raw = body + hashlib.sha256(body).digest()[:4]
    try:
        parsed = parse_ticket(base64.b32encode(raw).decode())
        assert 1 <= len(parsed.seeds) <= 8
    except NetworkError:
        pass


def test_half_a_ticket_is_refused() -> None:
    text = ticket().text()
    for length in range(len(text)):
        with pytest.raises(NetworkError):
            parse_ticket(text[:length])
    with pytest.raises(NetworkError, match="at most 4096"):
        parse_ticket(text * 100)


def test_a_ticket_without_seeds_or_with_a_crowd_is_never_minted() -> None:
    for seeds in ([], SEEDS * 3):
        with pytest.raises(NetworkError, match="1 to 8"):
            mint(SWARM_KEY, seeds, now=NOW)
    with pytest.raises(NetworkError, match="HOST:PORT"):
        mint(SWARM_KEY, [("*:7700", b"a" * 32)], now=NOW)


def test_a_run_folder_is_enough_for_a_new_ticket() -> None:
    """The first one expires; whoever holds the swarm's key invites again, at its own door first."""
    doors = tuple(Door(f"192.0.2.{n}:7700,gossip.example:1", bytes([n] * 32).hex()) for n in range(1, 20))
    swarm = SwarmFile(
        swarm_id=swarm_id(SWARM_KEY).hex(), swarm_key=SWARM_KEY.hex(), spec_hash="00" * 8, key=(b"a" * 32).hex(),
        address="192.0.2.7:7700", members=doors,
    )  # fmt: skip
    again = parse_ticket(mint_again(swarm, now=NOW).text())
    assert again.seeds[:2] == (("192.0.2.7:7700", b"a" * 32), ("192.0.2.1:7700", b"\x01" * 32))
    assert len(again.seeds) == SEEDS_MAX and again.swarm_id == swarm_id(SWARM_KEY)
    assert again.permit.key == permit_key(SWARM_KEY, again.ticket_id, again.expiry)
