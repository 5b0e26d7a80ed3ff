"""What is sent is what arrives; what no honest peer sends is a PeerError("DECODE_FAILED") and nothing else.

Hypothesis prints the failing bytes; other cases are replayed by their id, which holds the seed.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from typing import Any

import lz4.block
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.codec.answer import Answer, decode_answer, encode_answer
from gossip.codec.body import BODY_BYTES_MAX, LZ4_FLAG, Encoded, Part, Reader, join
from gossip.codec.fragment import (
    FRAGMENT_BLOCKS,
    Fragment,
    decode_fragment,
    encode_fragment,
    fragment_count,
    fragment_span,
)
from gossip.codec.momentum import Momentum
from gossip.codec.request import (
    MAX_OFFER_BLOCKS,
    MAX_OFFER_BLOCKS_WITH_MOMENTUM,
    MODEL_BLOCKS_MAX,
    Request,
    decode_request,
    encode_request,
)
from gossip.errors import PeerError
from gossip.kernels.exchange import BLOCK, RANGE_CODE_MAX
from gossip.kernels.momentum import BLOCK_BYTES

SEEDS = range(5)
MODEL_BLOCKS = 21


def a_request(rng: np.random.Generator, n_blocks: int = MODEL_BLOCKS, offered: int | None = None) -> Request:
    n = offered or int(rng.integers(1, n_blocks + 1))
    return Request(
        blocks=np.sort(rng.choice(n_blocks, n, replace=False)).astype(np.int32),
        range_codes=rng.integers(1, RANGE_CODE_MAX + 1, n).astype(np.uint8),
        checks=rng.integers(0, 2**16, n).astype(np.uint16),
        symbols=rng.integers(0, 16, n * BLOCK).astype(np.uint8),
    )


def an_answer(rng: np.random.Generator, n: int = 9, still: float = 0.69, failing: float = 0.2) -> Answer:
    failed = rng.uniform(size=n) < failing
    levels = rng.integers(-3, 4, (n, BLOCK)) * (rng.uniform(size=(n, BLOCK)) > still) * ~failed[:, None]
    codes = rng.integers(1, RANGE_CODE_MAX + 1, n).astype(np.uint8)
    return Answer(codes, failed, levels.astype(np.int8).ravel())


def some_momentum(rng: np.random.Generator, n: int) -> Momentum:
    planes = rng.integers(0, 256, (2, n * BLOCK_BYTES)).astype(np.uint8)
    return Momentum(int(rng.integers(2**63)), rng.integers(0, RANGE_CODE_MAX + 1, n).astype(np.uint8), *planes)


def with_momentum(rng: np.random.Generator, half: Any, n: int) -> Any:
    """The same request or answer, with momentum of its n blocks."""
    return dataclasses.replace(half, momentum=some_momentum(rng, n))


def a_fragment(rng: np.random.Generator, n_blocks: int = MODEL_BLOCKS, index: int = 0) -> Fragment:
    first, n = fragment_span(n_blocks, index)
    peaks = rng.uniform(0, 5, (2, n)).astype(np.float32)
    levels = rng.integers(-127, 128, (2, n * BLOCK)).astype(np.int8)
    codes = rng.integers(0, RANGE_CODE_MAX + 1, n).astype(np.uint8)
    return Fragment(first, codes, peaks[0], levels[0], peaks[1], levels[1])


def bodies(seed: int) -> list[tuple[bytes, Callable[[bytes], Any]]]:
    """An honest body of every kind, and how its receiver reads it."""
    rng = np.random.default_rng(seed)
    request = with_momentum(rng, a_request(rng, offered=9), 9)
    answer = an_answer(rng)
    answer = with_momentum(rng, answer, int((~answer.failed).sum()))
    return [
        (encode_request(a_request(rng), MODEL_BLOCKS).body, lambda body: decode_request(body, MODEL_BLOCKS)),
        (encode_answer(an_answer(rng)).body, lambda body: decode_answer(body, 9)),
        (encode_fragment(a_fragment(rng)).body, lambda body: decode_fragment(body, MODEL_BLOCKS, 0)),
        (encode_request(request, MODEL_BLOCKS).body, lambda body: decode_request(body, MODEL_BLOCKS)),
        (encode_answer(answer).body, lambda body: decode_answer(body, 9, with_momentum=True)),
    ]


def assert_equal(left: Any, right: Any) -> None:
    for field in dataclasses.fields(left):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if dataclasses.is_dataclass(a):
            assert_equal(a, b)
            continue
        assert np.array_equal(a, b), field.name
        assert np.asarray(a).dtype == np.asarray(b).dtype, field.name


def reads_or_refuses(decode: Callable[[bytes], Any], body: bytes) -> None:
    try:
        decode(body)
    except PeerError as error:
        assert error.code == "DECODE_FAILED"


# -- There and back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_a_request_survives_the_wire(seed: int) -> None:
    request = a_request(np.random.default_rng(seed))
    encoded = encode_request(request, MODEL_BLOCKS)
    arrived = decode_request(encoded.body, MODEL_BLOCKS)
    assert_equal(arrived, request)
    assert len(encoded.body) == sum(4 + part.wire_bytes for part in encoded.parts)
    for array in (arrived.blocks, arrived.range_codes, arrived.checks, arrived.symbols):
        assert array.flags.writeable and array.flags.c_contiguous


@pytest.mark.parametrize("failing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("still", [0.0, 0.69, 1.0])
def test_an_answer_survives_the_wire(still: float, failing: float) -> None:
    answer = an_answer(np.random.default_rng(1), still=still, failing=failing)
    assert_equal(decode_answer(encode_answer(answer).body, 9), answer)


def test_momentum_survives_the_wire() -> None:
    rng = np.random.default_rng(1)
    request = with_momentum(rng, a_request(rng, offered=5), 5)
    assert_equal(decode_request(encode_request(request, MODEL_BLOCKS).body, MODEL_BLOCKS), request)
    answer = an_answer(rng, n=9, failing=0.3)
    answer = with_momentum(rng, answer, int((~answer.failed).sum()))
    assert_equal(decode_answer(encode_answer(answer).body, 9, with_momentum=True), answer)


def test_whoever_sent_momentum_need_not_get_any() -> None:
    """A peer that could read nothing, or keeps no momentum, has none to give: its displacement still counts."""
    for failing in (0.2, 1.0):
        answer = an_answer(np.random.default_rng(2), failing=failing)
        assert_equal(decode_answer(encode_answer(answer).body, 9, with_momentum=True), answer)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_fragment_survives_the_wire(index: int) -> None:
    n_blocks = 2 * FRAGMENT_BLOCKS + 3
    fragment = a_fragment(np.random.default_rng(index), n_blocks, index)
    assert fragment_count(n_blocks) == 3
    assert fragment.count == (FRAGMENT_BLOCKS, FRAGMENT_BLOCKS, 3)[index]
    assert_equal(decode_fragment(encode_fragment(fragment).body, n_blocks, index), fragment)


def test_the_largest_bodies_fit() -> None:
    rng = np.random.default_rng(1)
    request = a_request(rng, MODEL_BLOCKS_MAX, MAX_OFFER_BLOCKS)
    assert len(encode_request(request, MODEL_BLOCKS_MAX).body) <= BODY_BYTES_MAX
    assert len(encode_answer(an_answer(rng, MAX_OFFER_BLOCKS, still=0, failing=0)).body) <= BODY_BYTES_MAX
    assert len(encode_fragment(a_fragment(rng, FRAGMENT_BLOCKS)).body) <= BODY_BYTES_MAX
    n = MAX_OFFER_BLOCKS_WITH_MOMENTUM
    request = with_momentum(rng, a_request(rng, MODEL_BLOCKS_MAX, n), n)
    assert len(encode_request(request, MODEL_BLOCKS_MAX).body) <= BODY_BYTES_MAX
    answer = with_momentum(rng, an_answer(rng, n, still=0, failing=0), n)
    assert len(encode_answer(answer).body) <= BODY_BYTES_MAX


def test_lz4_earns_on_displacements_and_the_ledger_says_so() -> None:
    encoded = encode_answer(an_answer(np.random.default_rng(1), n=100, still=0.95))
    parts = {part.kind: part for part in encoded.parts}
    assert parts["planes_low"].wire_bytes < parts["planes_low"].raw_bytes
    assert parts["planes_high"].wire_bytes < parts["planes_high"].raw_bytes
    assert parts["signs"].wire_bytes == parts["signs"].raw_bytes


# -- What no honest peer sends ----------------------------------------------------------------------


@settings(max_examples=60)
@given(st.binary(max_size=600))
def test_random_bytes_are_refused(noise: bytes) -> None:
    for _, decode in bodies(0):
        with pytest.raises(PeerError, match="DECODE_FAILED"):
            decode(noise)


@pytest.mark.parametrize("kind", range(5))
def test_a_body_that_is_cut_or_goes_on_is_refused(kind: int) -> None:
    body, decode = bodies(1)[kind]
    for length in [*range(40), *range(40, len(body), 37), len(body) - 1]:
        with pytest.raises(PeerError, match="DECODE_FAILED"):
            decode(body[:length])
    with pytest.raises(PeerError, match=r"after the last part|momentum_key: the body ends before it"):
        decode(body + b"\0")


@settings(max_examples=150)
@given(st.integers(0, 4), st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_read_or_refused_but_never_crash(kind: int, changes: list[tuple[int, int]]) -> None:
    body, decode = bodies(2)[kind]
    changed = bytearray(body)
    for at, value in changes:
        changed[at % len(body)] = value
    reads_or_refuses(decode, bytes(changed))


@settings(max_examples=100)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), max_size=6))
def test_well_framed_nonsense_is_refused(parts: list[tuple[bool, bytes]]) -> None:
    """Lengths and flags are right, what they hold is not: gets past the frame, into lz4 and the arrays."""
    body = b"".join(struct.pack("<I", len(p) | (LZ4_FLAG if is_lz4 else 0)) + p for is_lz4, p in parts)
    for _, decode in bodies(3):
        reads_or_refuses(decode, body)


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    bomb = lz4.block.compress(bytes(100_000_000), store_size=False)
    framed = struct.pack("<I", len(bomb) | LZ4_FLAG) + bomb
    for _, decode in bodies(4):
        with pytest.raises(PeerError, match="DECODE_FAILED"):
            decode(framed)
    with pytest.raises(PeerError, match="not lz4 of 1000000 bytes"):
        Reader(framed).take("bomb", 1_000_000)


def test_a_body_above_the_limit_is_refused_unread() -> None:
    with pytest.raises(PeerError, match="expected at most 1048576"):
        Reader(bytes(BODY_BYTES_MAX + 1))


def replaced(encoded: Encoded, body: bytes, kind: str, raw: bytes) -> bytes:
    """The same body, with one part replaced by these raw bytes."""
    out, at = b"", 0
    for part in encoded.parts:
        stored = body[at : at + 4 + part.wire_bytes]
        out += join(Part(kind, raw, is_uniform=True)).body if part.kind == kind else stored
        at += 4 + part.wire_bytes
    return out


@pytest.mark.parametrize(
    ("kind", "raw", "complaint"),
    [
        ("block_bitmap", bytes(3), "0 blocks offered"),
        ("block_bitmap", b"\xff\xff\xff", "beyond the 21 expected"),
        ("block_bitmap", b"\x1f\0\0", "ranges: 4 raw bytes, expected 5"),
        ("ranges", b"\x01\x01\x01\x00", "codes 0..1"),
        ("ranges", b"\x01\x01\x01\xc9", "codes 1..201"),
    ],
)
def test_a_request_with_one_wrong_part(kind: str, raw: bytes, complaint: str) -> None:
    encoded = encode_request(a_request(np.random.default_rng(5), offered=4), MODEL_BLOCKS)
    with pytest.raises(PeerError, match=complaint):
        decode_request(replaced(encoded, encoded.body, kind, raw), MODEL_BLOCKS)


@pytest.mark.parametrize(
    ("kind", "raw", "complaint"),
    [
        ("momentum_key", bytes(7), "momentum_key: 7 raw bytes, expected 8"),
        ("momentum_scales", b"\x00\x00\x00\xc9", "momentum_scales: codes 0..201"),
        ("momentum_scales", bytes(5), "momentum_scales: 5 raw bytes, expected 4"),
        ("momentum_signs", bytes(4 * BLOCK_BYTES - 1), "momentum_signs: 127 raw bytes, expected 128"),
        ("momentum_outer", bytes(4 * BLOCK_BYTES + 1), "momentum_outer: 129 raw bytes, expected 128"),
    ],
)
def test_momentum_with_one_wrong_part(kind: str, raw: bytes, complaint: str) -> None:
    rng = np.random.default_rng(5)
    encoded = encode_request(with_momentum(rng, a_request(rng, offered=4), 4), MODEL_BLOCKS)
    with pytest.raises(PeerError, match=complaint):
        decode_request(replaced(encoded, encoded.body, kind, raw), MODEL_BLOCKS)


def test_momentum_nobody_asked_for_is_refused() -> None:
    rng = np.random.default_rng(6)
    body = encode_answer(with_momentum(rng, an_answer(rng, n=9, failing=0), 9)).body
    with pytest.raises(PeerError, match="after the last part"):
        decode_answer(body, 9)
    nothing_read = encode_answer(with_momentum(rng, an_answer(rng, n=9, failing=1), 0)).body
    with pytest.raises(PeerError, match="after the last part"):
        decode_answer(nothing_read, 9, with_momentum=True)


def test_an_offer_of_too_many_blocks_is_refused_before_its_arrays() -> None:
    n_blocks = 8 * (MAX_OFFER_BLOCKS // 8 + 1)
    with pytest.raises(PeerError, match="blocks offered, expected 1 to"):
        decode_request(join(Part("block_bitmap", b"\xff" * (n_blocks // 8))).body, n_blocks)


def test_signs_must_be_as_many_as_the_planes_have_levels() -> None:
    answer = an_answer(np.random.default_rng(6), n=1, failing=0)
    count = int(np.count_nonzero(answer.levels))
    encoded = encode_answer(answer)
    for signs in (bytes(count // 8 + 2), bytes(count // 8 - 1)):
        with pytest.raises(PeerError, match="signs"):
            decode_answer(replaced(encoded, encoded.body, "signs", signs), 1)
    assert count % 8, "the next check needs unused bits"
    with pytest.raises(PeerError, match="beyond the"):
        decode_answer(replaced(encoded, encoded.body, "signs", b"\xff" * (count // 8 + 1)), 1)


@pytest.mark.parametrize("peak", [np.nan, np.inf, -1.0, 2.0**21])
def test_an_absurd_peak_is_refused(peak: float) -> None:
    fragment = a_fragment(np.random.default_rng(7))
    fragment.momentum_peaks[3] = peak
    with pytest.raises(PeerError, match="momentum: a peak outside"):
        decode_fragment(encode_fragment(fragment).body, MODEL_BLOCKS, 0)


def test_a_fragment_beyond_the_model_is_refused() -> None:
    body = encode_fragment(a_fragment(np.random.default_rng(8))).body
    for index in (-1, 1):
        with pytest.raises(PeerError, match="of 1"):
            decode_fragment(body, MODEL_BLOCKS, index)
