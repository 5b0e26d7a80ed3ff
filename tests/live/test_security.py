"""Keys, permits, hellos: who gets in, and what the others are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.errors import NetworkError, PeerError
from gossip.live import security
from gossip.live.security import (
    Admitted,
    HelloVerifier,
    KeyPair,
    Permit,
    Refusal,
    Welcome,
    encode_refusal,
    encode_welcome,
    load_or_create_keys,
    make_hello,
    mint_permit,
    parse_hello,
    parse_reply,
    spec_hash,
)
from gossip.protocol.messages import ADDRESS_CHARS_MAX
from gossip.spec import without_owner

SWARM_KEY, DIALER, LISTENER, OTHER = b"s" * 32, b"d" * 32, b"l" * 32, b"o" * 32
SPEC = b'{"name":"test"}'
NOW = 1_700_000_000.0


def verifier(now: float = NOW) -> HelloVerifier:
    return HelloVerifier(SWARM_KEY, LISTENER, spec_hash(SPEC), lambda: now)


def hello(permit: Permit | None = None, spec: bytes = b"", address: str = "") -> bytes:
    permit = permit or mint_permit(SWARM_KEY, valid_for_s=60, now=NOW)
    return make_hello(permit, DIALER, LISTENER, spec, address)


def refusal_code(verdict: Admitted | Refusal) -> str:
    assert isinstance(verdict, Refusal)
    assert verdict.reason
    return verdict.code


def test_a_good_hello_is_admitted_and_fits_its_limit() -> None:
    address = "[2001:db8::7]:65535"
    verdict = verifier().verify(hello(address=address), DIALER)
    assert verdict == Admitted(DIALER, address, wants_spec=True)
    longest = "a" * (ADDRESS_CHARS_MAX - 6) + ":65535"
    assert len(hello(address=longest)) <= security.HELLO_BYTES_MAX
    assert parse_hello(hello(address=longest)).address == longest


def test_who_brings_the_swarms_spec_is_not_sent_it_again() -> None:
    assert verifier().verify(hello(spec=SPEC), DIALER) == Admitted(DIALER, "", wants_spec=False)


def test_who_brings_the_file_the_swarm_was_founded_with_is_sent_what_names_its_owner() -> None:
    """A file names no owner, since its swarm's was made with the swarm."""
    owned = b'{"name":"test","owner":"' + b"0f" * 32 + b'"}'
    file = without_owner(owned)
    judge = HelloVerifier(SWARM_KEY, LISTENER, spec_hash(owned), lambda: NOW, spec_hash(file))
    assert judge.verify(hello(spec=file), DIALER) == Admitted(DIALER, "", wants_spec=True)
    assert judge.verify(hello(spec=owned), DIALER) == Admitted(DIALER, "", wants_spec=False)
    other = owned.replace(b"0f0f", b"aaaa")
    assert refusal_code(judge.verify(hello(spec=other), DIALER)) == "BAD_SPEC", "another owner's swarm"


def test_another_spec_is_refused() -> None:
    assert refusal_code(verifier().verify(hello(spec=b"other"), DIALER)) == "BAD_SPEC"


def test_a_hello_overheard_is_of_no_use_to_another_key_or_at_another_node() -> None:
    assert refusal_code(verifier().verify(hello(), OTHER)) == "BAD_TICKET"
    elsewhere = HelloVerifier(SWARM_KEY, OTHER, spec_hash(SPEC), lambda: NOW)
    assert refusal_code(elsewhere.verify(hello(), DIALER)) == "BAD_TICKET"


def test_a_ticket_cannot_be_prolonged() -> None:
    """The expiry is part of what the permit's key is made from."""
    permit = mint_permit(SWARM_KEY, valid_for_s=60, now=NOW)
    assert refusal_code(verifier().verify(hello(replace(permit, expiry=2**32 - 1)), DIALER)) == "BAD_TICKET"


def test_expiry_leaves_a_minute_for_clocks_that_disagree() -> None:
    permit = mint_permit(SWARM_KEY, valid_for_s=60, now=NOW)
    assert isinstance(verifier(NOW + 60 + 59).verify(hello(permit), DIALER), Admitted)
    assert refusal_code(verifier(NOW + 60 + 61).verify(hello(permit), DIALER)) == "TICKET_EXPIRED"


def test_another_version_is_told_so() -> None:
    frame = bytearray(hello())
    frame[4] = 9
    verdict = verifier().verify(bytes(frame), DIALER)
    assert refusal_code(verdict) == "BAD_VERSION"
    assert isinstance(verdict, Refusal) and "version 9" in verdict.reason


def test_replies_survive_the_way_back() -> None:
    assert parse_reply(encode_welcome(SWARM_KEY, SPEC), LISTENER) == Welcome(LISTENER, SWARM_KEY, SPEC)
    refusal = Refusal("BAD_SPEC", "not ours")
    assert parse_reply(encode_refusal(refusal), LISTENER) == refusal


def test_a_refusal_of_a_future_version_is_still_understood() -> None:
    frame = bytearray(encode_refusal(Refusal("BAD_VERSION", "use 2")))
    frame[4] = 2
    assert parse_reply(bytes(frame), LISTENER) == Refusal("BAD_VERSION", "use 2")


def test_a_refusal_cannot_write_to_the_terminal() -> None:
    reply = parse_reply(encode_refusal(Refusal("<script>", "\x1b[2J" + "x" * 1000)), LISTENER)
    assert isinstance(reply, Refusal)
    assert reply.code == "REFUSED"
    assert reply.reason.isprintable() and len(reply.reason) <= 300


@given(st.binary(max_size=300), st.booleans())
def test_no_frame_breaks_the_parsers(noise: bytes, is_prefixed: bool) -> None:
    frame = (b"gsip\x01" if is_prefixed else b"") + noise
    for parse in (parse_hello, lambda frame: parse_reply(frame, LISTENER)):
        try:
            parse(frame)
        except PeerError as error:
            assert error.code in ("BAD_HELLO", "BAD_WELCOME", "BAD_VERSION")


@given(st.integers(0, 57), st.integers(1, 255))
def test_no_flipped_byte_is_admitted_with_a_right_it_did_not_have(position: int, flip: int) -> None:
    frame = bytearray(hello(spec=SPEC))
    frame[position] ^= flip
    assert not isinstance(verifier().verify(bytes(frame), DIALER), Admitted)


def test_a_key_file_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "key"
    keys = load_or_create_keys(path)
    assert load_or_create_keys(path) == keys
    assert len(keys.public) == len(keys.secret) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.secret.hex() not in repr(keys)


@pytest.mark.parametrize("content", ["", "gossip secret key 1: abc", "gossip secret key 1: zz" * 4, "ä"])
def test_a_broken_key_file_says_what_to_do(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(NetworkError, match="delete it"):
        load_or_create_keys(path)


def test_a_key_file_others_can_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "key"
    load_or_create_keys(path)
    path.chmod(0o644)
    with pytest.raises(NetworkError, match="chmod 600"):
        load_or_create_keys(path)


def test_a_key_file_where_nobody_can_write_says_so(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="choose a folder"):
        load_or_create_keys(tmp_path / "nowhere" / "key")
    (tmp_path / "folder").mkdir()
    with pytest.raises(NetworkError, match="cannot read"):
        load_or_create_keys(tmp_path / "folder")


def test_a_key_pair_follows_from_its_secret() -> None:
    keys = KeyPair.new()
    assert KeyPair.from_secret(keys.secret) == keys
