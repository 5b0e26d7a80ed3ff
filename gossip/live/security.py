"""Who may speak: key pairs, and the hello with which a link begins.

CURVE proves which key is at the other end; the hello proves that this key may be here. It carries a
permit's id and expiry and an HMAC made with the permit's key, which is itself an HMAC made with the swarm
key: so every member can check it alone, without asking anybody. A ticket contains a permit. A member, who
holds the swarm key, makes itself a fresh permit for each hello: one way in, no special case.

Knows bytes and keys, no sockets. These frames are parsed here and nowhere else.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from gossip.errors import NetworkError, PeerError
from gossip.keyfiles import create_secret, read_secret
from gossip.live.tcp import checked_addresses

KEY_BYTES = 32
NO_SPEC = bytes(8)  # "I have no spec yet, send it"
HELLO_BYTES_MAX = 256
REPLY_BYTES_MAX = 65_536
PROTOCOL_VERSION = 1

# A member's own permit lives ten minutes, so a member whose clock is that far behind still gets in; after
# expiry we allow another minute for ours. More would only let a leaked ticket live longer.
MEMBER_PERMIT_S = 600
CLOCK_SKEW_S = 60

# Every frame here starts with these five bytes, in every version, so that versions can refuse each other.
_MAGIC = b"gsip"
_PREFIX = struct.Struct("!4sB")
_HELLO = struct.Struct("!8sI32s8sB")  # permit id, expiry, mac, spec hash, length of the address
_WELCOMED, _REFUSED = b"\x01", b"\x00"

REFUSAL_CODES = ("BAD_VERSION", "BAD_HELLO", "BAD_TICKET", "TICKET_EXPIRED", "BAD_SPEC", "NOT_READY")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A node's identity: a CURVE key pair, 32 raw bytes each."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def new(cls) -> KeyPair:
        return cls(*(z85.decode(key) for key in zmq.curve_keypair()))

    @classmethod
    def from_secret(cls, secret: bytes) -> KeyPair:
        return cls(z85.decode(zmq.curve_public(z85.encode(secret))), secret)


KEY_FILE_HEAD = "gossip secret key 1: "


def load_or_create_keys(path: Path) -> KeyPair:
    """The key pair in `path`, made on first use, readable by its owner only. Raises NetworkError."""
    keys = KeyPair.new()
    try:
        create_secret(path, KEY_FILE_HEAD, keys.secret)
    except FileExistsError:
        return load_keys(path)
    return keys


def load_keys(path: Path) -> KeyPair:
    """The key pair in `path`. Raises NetworkError."""
    expected = "a gossip key file; delete it and a new identity is made"
    return KeyPair.from_secret(read_secret(path, KEY_FILE_HEAD, expected))


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to enter a swarm until `expiry` (unix seconds)."""

    permit_id: bytes
    expiry: int
    key: bytes = field(repr=False)


def permit_key(swarm_key: bytes, permit_id: bytes, expiry: int) -> bytes:
    return hmac.digest(swarm_key, permit_id + expiry.to_bytes(4, "big"), "sha256")


def mint_permit(swarm_key: bytes, *, valid_for_s: float, now: float) -> Permit:
    """A new permit; whoever holds the swarm key can make one. `now` is the wall clock."""
    permit_id, expiry = secrets.token_bytes(8), min(int(now + valid_for_s), 2**32 - 1)
    return Permit(permit_id, expiry, permit_key(swarm_key, permit_id, expiry))


def spec_hash(canonical: bytes) -> bytes:
    """First 8 bytes of the SHA-256 of a spec's canonical form; NO_SPEC for no spec."""
    return hashlib.sha256(canonical).digest()[:8] if canonical else NO_SPEC


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame on a link, from the side that dialed."""

    permit_id: bytes
    expiry: int
    mac: bytes
    spec_hash: bytes
    address: str  # where the sender listens; "" if it only dials out


def _mac(key: bytes, dialer: bytes, listener: bytes) -> bytes:
    return hmac.digest(key, dialer + listener, "sha256")


def make_hello(permit: Permit, own: bytes, peer: bytes, spec: bytes, address: str) -> bytes:
    """The hello with which `own` introduces itself to `peer`. It says nothing to anybody else."""
    text = address.encode("ascii")
    mac = _mac(permit.key, own, peer)
    return (
        _PREFIX.pack(_MAGIC, PROTOCOL_VERSION)
        + _HELLO.pack(permit.permit_id, permit.expiry, mac, spec_hash(spec), len(text))
        + text
    )


def parse_hello(frame: bytes) -> Hello:
    """Raises PeerError, BAD_VERSION or BAD_HELLO."""
    _check_prefix(frame, HELLO_BYTES_MAX, "BAD_HELLO")
    start = _PREFIX.size + _HELLO.size
    if len(frame) < start:
        raise PeerError("BAD_HELLO", f"{len(frame)} bytes, expected at least {start}")
    permit_id, expiry, mac, spec, length = _HELLO.unpack_from(frame, _PREFIX.size)
    if len(frame) != start + length:
        raise PeerError("BAD_HELLO", "its length is not what it says")
    try:
        address = checked_addresses(frame[start:].decode("ascii")) if length else ""
    except (UnicodeDecodeError, NetworkError) as error:
        raise PeerError("BAD_HELLO", "the address is not HOST:PORT") from error
    return Hello(permit_id, expiry, mac, spec, address)


def _check_prefix(frame: bytes, bytes_max: int, code: str) -> None:
    if len(frame) < _PREFIX.size or len(frame) > bytes_max:
        raise PeerError(code, f"{len(frame)} bytes, expected {_PREFIX.size} to {bytes_max}")
    magic, version = _PREFIX.unpack_from(frame)
    if magic != _MAGIC:
        raise PeerError(code, "the first frame on a link must be a hello or its answer")
    if version != PROTOCOL_VERSION:
        raise PeerError(
            "BAD_VERSION",
            f"protocol version {version} met version {PROTOCOL_VERSION}; use the same release of gossip",
        )


@dataclass(frozen=True, slots=True)
class Welcome:
    """Admitted by `seed`. `spec` is the swarm's canonical spec if the hello had none or named no owner, else empty."""

    seed: bytes
    swarm_key: bytes = field(repr=False)
    spec: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """Turned away: a code to count, a sentence for the person at the other end."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """A hello that verified."""

    peer: bytes
    address: str
    wants_spec: bool


class HelloVerifier:
    """Judges hellos sent to one node, by its own clock and with no help from anybody."""

    def __init__(
        self,
        swarm_key: bytes,
        own_public_key: bytes,
        spec_hash: bytes,
        wall_clock: Callable[[], float],
        file_hash: bytes = NO_SPEC,
    ) -> None:
        """file_hash: of the spec as a file has it that names no owner; who brings that is sent the swarm's own."""
        self._swarm_key = swarm_key
        self._own = own_public_key
        self._spec_hash = spec_hash
        self._file_hash = file_hash
        self._wall_clock = wall_clock

    def verify(self, frame: bytes, peer: bytes) -> Admitted | Refusal:
        """`peer` is the key CURVE proved for the link the frame came through."""
        try:
            hello = parse_hello(frame)
        except PeerError as error:
            return Refusal(error.code, str(error).removeprefix(f"{error.code}: "))
        key = permit_key(self._swarm_key, hello.permit_id, hello.expiry)
        if not hmac.compare_digest(hello.mac, _mac(key, peer, self._own)):
            return Refusal("BAD_TICKET", "this ticket is not one of this swarm's; ask a member for a new one")
        late_s = self._wall_clock() - hello.expiry
        if late_s > CLOCK_SKEW_S:
            return Refusal(
                "TICKET_EXPIRED",
                f"it expired {late_s:.0f} s ago by this member's clock; ask a member for a new ticket",
            )
        if hello.spec_hash not in (NO_SPEC, self._spec_hash, self._file_hash):
            return Refusal(
                "BAD_SPEC",
                f"experiment {hello.spec_hash.hex()} is not this swarm's {self._spec_hash.hex()}; "
                "join without a spec and the swarm sends its own",
            )
        return Admitted(peer, hello.address, wants_spec=hello.spec_hash != self._spec_hash)


def encode_welcome(swarm_key: bytes, spec: bytes) -> bytes:
    return _PREFIX.pack(_MAGIC, PROTOCOL_VERSION) + _WELCOMED + swarm_key + spec


def encode_refusal(refusal: Refusal) -> bytes:
    return _PREFIX.pack(_MAGIC, PROTOCOL_VERSION) + _REFUSED + f"{refusal.code} {refusal.reason}".encode()


def parse_reply(frame: bytes, peer: bytes) -> Welcome | Refusal:
    """What `peer` answered to our hello. Refusals look alike in every version. Raises PeerError."""
    is_refusal = frame[:4] == _MAGIC and frame[5:6] == _REFUSED and len(frame) <= REPLY_BYTES_MAX
    if is_refusal:
        return _parse_refusal(frame[6:])
    _check_prefix(frame, REPLY_BYTES_MAX, "BAD_WELCOME")
    body = frame[_PREFIX.size :]
    if body[:1] != _WELCOMED or len(body) < 1 + KEY_BYTES:
        raise PeerError("BAD_WELCOME", "neither a welcome nor a refusal")
    return Welcome(peer, body[1 : 1 + KEY_BYTES], body[1 + KEY_BYTES :])


def _parse_refusal(text: bytes) -> Refusal:
    """A stranger's words reach a terminal: only known codes, only printable text, only so much of it."""
    code, _, reason = text[:300].decode("utf-8", errors="replace").partition(" ")
    printable = "".join(letter if letter.isprintable() else "?" for letter in reason)
    return Refusal(code if code in REFUSAL_CODES else "REFUSED", printable or "no reason given")
