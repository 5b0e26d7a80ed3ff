"""The wire's formulas, and the book they are entered in."""

from __future__ import annotations

from gossip.ledger import HEARTBEAT_BYTES, Gain, Ledger, LinkMeter, Traffic, frame_bytes, message_bytes


def test_frame_sizes_as_a_recording_proxy_saw_them() -> None:
    """libzmq 4.3.5 over CURVE: the length grows from one byte to eight where the sealed frame passes 255."""
    assert frame_bytes(0) == 35
    assert frame_bytes(100) == 2 + 133
    assert frame_bytes(222) == 2 + 255
    assert frame_bytes(223) == 9 + 256
    assert message_bytes([b"x" * 100, b"y" * 222]) == 392


def test_the_ledger_adds_up_by_direction_and_kind() -> None:
    ledger = Ledger()
    ledger.record("sent", "exchange", 100)
    ledger.record("sent", "exchange", 50, messages=2)
    ledger.record("received", "membership", 7)
    assert ledger.totals() == {
        "sent": {"exchange": Traffic(150, 3)},
        "received": {"membership": Traffic(7, 1)},
    }
    assert (ledger.total_bytes("sent"), ledger.total_bytes("received")) == (150, 7)


def test_the_ledger_says_what_compression_earned() -> None:
    ledger = Ledger()
    ledger.record_gain("planes", 3744, 2081)
    ledger.record_gain("planes", 100, 100)
    ledger.record_gain("codes", 10, 10)
    assert ledger.gains() == {"codes": Gain(10, 10), "planes": Gain(3844, 2181)}


def test_both_ends_of_a_link_enter_the_same_handshake() -> None:
    dialer, listener = Ledger(), Ledger()
    LinkMeter(dialer, dialed=True, now=0.0)
    LinkMeter(listener, dialed=False, now=0.0)
    assert dialer.total_bytes("sent") == listener.total_bytes("received") == 567
    assert dialer.total_bytes("received") == listener.total_bytes("sent") == 301


def test_heartbeats_are_entered_once_however_often_one_asks() -> None:
    ledger = Ledger()
    meter = LinkMeter(ledger, dialed=True, now=100.0)
    for now in (100.5, 101.0, 101.0, 101.9, 103.2):
        meter.settle(now)
    assert ledger.totals()["sent"]["heartbeat"] == Traffic(3 * HEARTBEAT_BYTES, 6)
    assert ledger.totals()["received"]["heartbeat"] == Traffic(3 * HEARTBEAT_BYTES, 6)
