"""Bytes <-> control messages and payload headers: the one place where peer bytes are parsed.

A control message is one msgpack frame `[version, kind, field, ...]`; a payload is a packed header
and a body whose decoding belongs to codec/. Nothing here allocates more than the frame's own size
times a small constant: msgpack is bounded before it runs (unbounded, a 10 MB frame of empty arrays
costs 751 MB).
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from typing import Any

import msgpack
import msgspec

from gossip.errors import PeerError
from gossip.protocol import messages
from gossip.protocol.messages import VERSION, Header, Message, PayloadKind

CONTROL_BYTES_MAX = 64 * 1024
_KINDS: tuple[type[Message], ...] = (
    messages.Ping,
    messages.PingRequest,
    messages.Ack,
    messages.News,
    messages.MembersRequest,
    messages.Members,
    messages.FragmentRequest,
    messages.Refusal,
    messages.Parting,
    messages.Command,
    messages.DialBackRequest,
    messages.DialBack,
)
_NUMBER_OF = {kind: number for number, kind in enumerate(_KINDS)}
_FIELDS = {
    kind: tuple(f.name for f in dataclasses.fields(kind)) for kind in (*_KINDS, messages.Update, messages.Status)
}
_HEADER = struct.Struct("<BB8sIIQII")


def encode_message(message: Message) -> bytes:
    """One control frame. The message checked itself when it was made."""
    return msgpack.packb([VERSION, _NUMBER_OF[type(message)], *_values(message)])


def decode_message(frame: bytes) -> Message:
    """The message in a control frame. Raises PeerError (BAD_VERSION, TOO_LARGE, DECODE_FAILED)."""
    if len(frame) > CONTROL_BYTES_MAX:
        raise PeerError("TOO_LARGE", f"control frame of {len(frame)} bytes, at most {CONTROL_BYTES_MAX}")
    try:
        values = msgpack.unpackb(
            frame,
            max_array_len=max(messages.MEMBERS_MAX, 32),
            max_map_len=0,
            max_str_len=messages.ADDRESS_CHARS_MAX * 4,
            max_bin_len=messages.SIGNATURE_BYTES,
            max_ext_len=0,
        )
        version, number, *fields = values
        if version != VERSION:
            raise PeerError("BAD_VERSION", f"wire version {version!r:.20}, this node speaks {VERSION}")
        return _build(_KINDS[_index(number)], fields)
    except PeerError:
        raise
    except (ValueError, TypeError, LookupError, RecursionError, msgspec.ValidationError) as error:
        raise PeerError("DECODE_FAILED", f"control frame: {error!s:.200}") from error
    except msgpack.exceptions.UnpackException as error:
        raise PeerError("DECODE_FAILED", f"control frame: {error!s:.200}") from error


def encode_header(header: Header, spec_hash: bytes) -> bytes:
    return _HEADER.pack(
        VERSION, header.kind, spec_hash, header.incarnation, header.number, header.step, header.sent_at, header.lag
    )


def decode_header(frame: bytes, spec_hash: bytes) -> Header:
    """A payload's header. Raises PeerError (BAD_VERSION, BAD_SPEC, DECODE_FAILED)."""
    if len(frame) != _HEADER.size:
        raise PeerError("DECODE_FAILED", f"payload header of {len(frame)} bytes, expected {_HEADER.size}")
    version, kind, peer_hash, incarnation, number, step, sent_at, lag = _HEADER.unpack(frame)
    if version != VERSION:
        raise PeerError("BAD_VERSION", f"wire version {version!r:.20}, this node speaks {VERSION}")
    if peer_hash != spec_hash:
        raise PeerError("BAD_SPEC", f"payload of experiment {peer_hash.hex()}, this node runs {spec_hash.hex()}")
    try:
        return Header(PayloadKind(kind), incarnation, number, step, sent_at, lag)
    except ValueError as error:
        raise PeerError("DECODE_FAILED", f"payload header: {error}") from error


def kind_of_message(message: Message) -> str:
    """Under which kind the ledger counts it."""
    if isinstance(message, messages.FragmentRequest):
        return "state"
    if isinstance(message, messages.Refusal):
        return "state" if message.kind == PayloadKind.FRAGMENT else "exchange"
    return "membership"


def kind_of_payload(kind: PayloadKind) -> str:
    return "state" if kind == PayloadKind.FRAGMENT else "exchange"


def _values(item: Any) -> list[Any]:
    return [_plain(getattr(item, name)) for name in _FIELDS[type(item)]]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return _values(value) if type(value) in _FIELDS else value


def _index(number: Any) -> int:
    if type(number) is not int or not 0 <= number < len(_KINDS):
        raise ValueError(f"unknown message kind {number!r:.20}")
    return number


def _build(kind: type[Message], values: Sequence[Any]) -> Message:
    """Fields in their order -> the dataclass, with msgspec checking every type."""
    named = _named(kind, values)
    if "updates" in named:
        named["updates"] = [_update(update) for update in _list(named["updates"])]
    return msgspec.convert(named, kind, builtin_types=(bytes,), strict=True)


def _update(values: Any) -> dict[str, Any]:
    named = _named(messages.Update, _list(values))
    named["status"] = _named(messages.Status, _list(named["status"]))
    return named


def _named(kind: type, values: Sequence[Any]) -> dict[str, Any]:
    names = _FIELDS[kind]
    if len(values) != len(names):
        raise ValueError(f"{kind.__name__} has {len(values)} fields, expected {len(names)}")
    return dict(zip(names, values, strict=True))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {type(value).__name__}")
    return value


def kind_of_frames(frames: Sequence[bytes]) -> str:
    """Under which kind the ledger counts received frames: a peek at their kind byte, nothing is parsed.

    A kind nobody knows counts as membership: it costs bytes all the same.
    """
    if len(frames) == 2:
        return "state" if frames[0][1:2] == bytes([PayloadKind.FRAGMENT]) else "exchange"
    number = frames[0][2] if len(frames[0]) > 2 else 0
    if number == _NUMBER_OF[messages.FragmentRequest]:
        return "state"
    if number == _NUMBER_OF[messages.Refusal] and len(frames[0]) > 3:
        return "state" if frames[0][3] == PayloadKind.FRAGMENT else "exchange"
    return "membership"
