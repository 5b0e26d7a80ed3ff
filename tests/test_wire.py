"""Peer bytes become messages or a PeerError, and nothing else."""

from __future__ import annotations

import random

import msgpack
import pytest
from drawn_messages import all_messages
from hypothesis import given
from hypothesis import strategies as st

from gossip import wire
from gossip.errors import PeerError
from gossip.protocol import messages as msg

SPEC_HASH = b"the-spec"

FULL = msg.Update(
    b"k" * 32, "192.168.100.200:47700", 3, msg.State.ALIVE,
    msg.Status(9_999, msg.Phase.TRAINING, 123_456, 3_950_592, 31_234.5, 0.1234, 0.97, 16, 10**9, 10**9),
)  # fmt: skip


@given(all_messages)
def test_every_message_comes_back_as_it_was(message: msg.Message) -> None:
    """Whatever the core may say, the other core hears."""
    assert wire.decode_message(wire.encode_message(message)) == message


def _decodes_or_is_refused(frame: bytes) -> None:
    try:
        wire.decode_message(frame)
    except PeerError as error:
        assert error.code in ("BAD_VERSION", "TOO_LARGE", "DECODE_FAILED")
        assert len(str(error)) < 400, "what a peer sent must not fill our log"


@given(all_messages, st.data())
def test_damaged_frames_are_refused_by_name(message: msg.Message, data: st.DataObject) -> None:
    """Cut anywhere, or with any one bit flipped, a frame decodes or raises PeerError: no third way."""
    frame = wire.encode_message(message)
    _decodes_or_is_refused(frame[: data.draw(st.integers(0, len(frame) - 1))])
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    damaged = bytearray(frame)
    damaged[bit // 8] ^= 1 << bit % 8
    _decodes_or_is_refused(bytes(damaged))


@given(st.binary(max_size=300))
def test_garbage_is_refused_by_name(frame: bytes) -> None:
    """An admitted peer may send anything at all."""
    _decodes_or_is_refused(frame)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=40) | st.text(),
    lambda inner: st.lists(inner, max_size=12),
    max_leaves=40,
)


@given(st.lists(_json, max_size=14), st.integers(0, 9))
def test_well_formed_nonsense_is_refused_by_name(fields: list[object], kind: int) -> None:
    """Right version, right kind, and then fields of any type: what a hostile program would send."""
    _decodes_or_is_refused(msgpack.packb([msg.VERSION, kind, *fields]))


def test_nesting_and_sizes_are_bounded_before_parsing() -> None:
    """Unbounded, a frame of nothing but empty arrays costs a hundred times its size in memory."""
    _decodes_or_is_refused(b"\x91" * 60_000)
    _decodes_or_is_refused(msgpack.packb([1, 5, [[]] * 60_000]))
    _decodes_or_is_refused(msgpack.packb([1, 5, {n: n for n in range(9)}]))
    with pytest.raises(PeerError, match="TOO_LARGE"):
        wire.decode_message(bytes(wire.CONTROL_BYTES_MAX + 1))


def test_another_version_is_told_apart_from_damage() -> None:
    """Two releases that meet should say so, instead of counting decode failures."""
    values = msgpack.unpackb(wire.encode_message(msg.Ping(1)))
    with pytest.raises(PeerError, match="BAD_VERSION"):
        wire.decode_message(msgpack.packb([msg.VERSION + 1, *values[1:]]))


@pytest.mark.parametrize("address", ["\x1b[2J", "a\nb", "\u202e1.2.3.4", "x" * 129])
def test_an_address_is_plain_text(address: str) -> None:
    """Addresses end up on a terminal: no escape sequence of a peer may."""
    with pytest.raises(ValueError):
        msg.Update(b"k" * 32, address, 0, msg.State.ALIVE, msg.Status())


def test_a_full_ping_is_small() -> None:
    """Several a second and node: at most 1.2 kB each."""
    assert len(wire.encode_message(msg.Ping(2**32 - 1, (FULL,) * msg.UPDATES_MAX))) < 1_200


def test_the_largest_members_reply_fits_a_control_frame() -> None:
    """With the longest addresses and the largest counts there are."""
    big = msg.COUNT_MAX
    status = msg.Status(
        big, msg.Phase.DONE, big, big, 1e11, 1e300, 0.5, 2**16 - 1, big, big, big, 1e11, True, 2**32 - 1, big
    )
    update = msg.Update(b"k" * 32, "h" * msg.ADDRESS_CHARS_MAX, 2**32 - 1, msg.State.LEFT, status)
    frame = wire.encode_message(msg.Members((update,) * msg.MEMBERS_MAX))
    assert len(frame) == 62_950 <= wire.CONTROL_BYTES_MAX
    assert len(wire.decode_message(frame).updates) == msg.MEMBERS_MAX  # type: ignore[union-attr]


def test_a_header_comes_back_as_it_was() -> None:
    """34 bytes before every payload."""
    header = msg.Header(msg.PayloadKind.ANSWER, 7, 2**32 - 1, 10**12, 2**32 - 2, 77)
    frame = wire.encode_header(header, SPEC_HASH)
    assert len(frame) == 34
    assert wire.decode_header(frame, SPEC_HASH) == header


def test_headers_of_others_are_refused_by_name() -> None:
    """Another experiment, another version, an unknown kind, any length: each has its code."""
    frame = wire.encode_header(msg.Header(msg.PayloadKind.OFFER, 0, 1, 2), SPEC_HASH)
    for damaged, code in (
        (b"\x09" + frame[1:], "BAD_VERSION"),
        (frame[:1] + b"\x09" + frame[2:], "DECODE_FAILED"),
        (frame[:2] + b"another!" + frame[10:], "BAD_SPEC"),
        (frame[:-1], "DECODE_FAILED"),
        (frame + b"\0", "DECODE_FAILED"),
        (frame[:-16] + b"\xff" * 8 + frame[-8:], "DECODE_FAILED"),
    ):
        with pytest.raises(PeerError) as refused:
            wire.decode_header(damaged, SPEC_HASH)
        assert refused.value.code == code


@given(all_messages)
def test_the_ledger_sees_the_kind_that_was_sent(message: msg.Message) -> None:
    """The receiving side counts by a peek at the frame, the sending side by the message: one truth."""
    assert wire.kind_of_frames((wire.encode_message(message),)) == wire.kind_of_message(message)


def test_peeking_at_garbage_never_fails() -> None:
    """The ledger counts before anybody parses."""
    rng = random.Random(1)
    for _ in range(500):
        frames = [rng.randbytes(rng.randint(0, 5)) for _ in range(rng.randint(1, 2))]
        assert wire.kind_of_frames(frames) in ("membership", "state", "exchange")
