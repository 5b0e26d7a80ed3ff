"""What may be under way: each node's own line sets it, a peer's line sets what goes to that peer."""

from __future__ import annotations

from gossip.protocol.queues import STAMPS, STAMPS_PER_S
from gossip.protocol.windows import OURS_WANTED_S, THEIRS_WANTED_S, WINDOW_MIN_BYTES, Window, Windows

A, B = b"a" * 32, b"b" * 32


def lags(there_s: float, back_s: float, ahead_s: float = 1_000.0) -> tuple[int, int]:
    """Raw, of a peer whose clock shows so much more than ours."""
    return round((there_s + ahead_s) * STAMPS_PER_S) % STAMPS, round((back_s - ahead_s) * STAMPS_PER_S) % STAMPS


def trips(windows: Windows, peer: bytes, there_s: float, back_s: float, count: int = 40, at: float = 0.0) -> None:
    for turn in range(count):
        round_trip_s = there_s + back_s + 0.01
        windows.on_trip(peer, lags(there_s, back_s), round_trip_s, 10_000, (1e9, 1e9), at + turn * 0.5)


def test_a_window_doubles_until_there_is_a_queue_and_then_holds_it() -> None:
    """A queue that grows with what is under way ends near what is wanted, and never at nothing."""
    window, line_bytes_per_s = Window(OURS_WANTED_S), 125_000
    for _ in range(300):
        queue_s = max(0.0, window.bytes / line_bytes_per_s - 0.1)
        window.on_trip(queue_s, window.bytes / 4, window.bytes)
    assert window.has_queued and 0.5 * OURS_WANTED_S < queue_s < 2 * OURS_WANTED_S
    for _ in range(300):
        window.on_trip(5.0, window.bytes / 4, window.bytes)
    assert window.bytes == WINDOW_MIN_BYTES


def test_a_window_that_is_not_used_does_not_grow() -> None:
    """Else it would allow anything by the time it is needed (RFC 7661)."""
    window = Window(OURS_WANTED_S)
    for _ in range(100):
        window.on_trip(0.0, 1_000, 1_000)
    assert window.bytes == Window(OURS_WANTED_S).bytes


def test_our_queue_shrinks_our_window_and_a_peers_only_its_own() -> None:
    """One queue, two ends: whose line is not full has no reason to send less. Round trips could not tell."""
    for there_s, back_s in ((1.0, 0.0), (0.0, 1.0)):
        windows = Windows()
        trips(windows, A, 0.05, 0.05, 4)
        trips(windows, A, 0.05 + there_s, 0.05 + back_s, at=2.0)
        assert (windows.ours.bytes < 20_000) == bool(there_s)
        assert (windows.with_peer(A).bytes < 20_000) == bool(back_s)


def test_a_full_peer_does_not_narrow_what_others_get() -> None:
    """One household on a slow line must not slow a swarm of fast ones."""
    windows = Windows()
    for peer in (A, B):
        trips(windows, peer, 0.01, 0.01, 4)
    trips(windows, B, 0.01, 3 * THEIRS_WANTED_S, at=2.0)
    trips(windows, A, 0.01, 0.01, at=2.0)
    assert windows.with_peer(B).bytes == WINDOW_MIN_BYTES and not windows.has_queued
    assert windows.total_bytes > 400_000


def test_stamps_that_cannot_be_cost_their_sender_only() -> None:
    """A peer whose clock says that an answer arrived before it left gets less of us; others as before."""
    windows = Windows()
    for turn in range(40):
        windows.on_trip(A, (turn * 7_919_000 % STAMPS, 5), 0.1, 10_000, (1e9, 1e9), turn * 0.5)
        windows.on_trip(B, lags(0.02, 0.02), 0.1, 10_000, (1e9, 1e9), turn * 0.5)
    assert windows.with_peer(A).bytes == WINDOW_MIN_BYTES
    assert windows.with_peer(B).bytes > 400_000 and windows.ours.bytes > 400_000


def test_a_link_that_comes_again_begins_anew() -> None:
    """The next one may take another road, to a process whose clock counts from elsewhere."""
    windows = Windows()
    trips(windows, A, 0.05, 0.05, 4)
    windows.forget(A)
    assert windows.peers == 0
    windows.on_trip(A, lags(0.5, 0.5, ahead_s=-77.0), 1.1, 10_000, (1e9, 1e9), 9.0)
    assert windows.queues.theirs_s(A) == 0.0
