"""Pairwise exchange: each displacement is applied once, however the network treats it."""

from __future__ import annotations

from gossip.protocol import events as ev
from gossip.protocol.exchange import ANSWERING_MAX, DEADLINE_FIRST_S, DEADLINE_MAX_S, LATE_MAX, OPEN_MAX, Exchanges
from gossip.protocol.messages import Header, PayloadKind, Refusal

A, B = b"a" * 32, b"b" * 32


def kinds(effects: list[ev.Effect]) -> list[type]:
    return [type(effect) for effect in effects]


def names(effects: list[ev.Effect]) -> list[str]:
    return [effect.name for effect in effects if isinstance(effect, ev.Emit)]


def answer(exchange_id: int, incarnation: int = 0) -> Header:
    return Header(PayloadKind.ANSWER, incarnation, exchange_id, 5)


def offer(exchange_id: int, incarnation: int = 0) -> Header:
    return Header(PayloadKind.OFFER, incarnation, exchange_id, 5)


def offered(exchanges: Exchanges, now: float = 0.0, peer: bytes = B) -> int:
    """Begin an exchange and send its offer. Returns its id."""
    (pick,) = exchanges.begin(peer, 0.1, 1.0, now)
    assert isinstance(pick, ev.PickBlocks)
    assert kinds(exchanges.on_offer_ready(pick.exchange_id, b"blocks", 7, now)) == [ev.SendPayload]
    return pick.exchange_id


def test_an_exchange_from_offer_to_mix() -> None:
    """The happy road, both counters and the round trip at its end."""
    exchanges = Exchanges()
    number = offered(exchanges)
    assert exchanges.on_answer(B, answer(number), b"half") == [ev.Apply(B, answer(number), b"half")]
    (mixed,) = exchanges.on_mixed(number, 10, 1, now=0.4)
    assert isinstance(mixed, ev.Emit) and mixed.name == "exchange_mixed" and not mixed.fields["late"]
    assert (exchanges.completed, exchanges.failed, exchanges.round_trip_s) == (1, 0, 0.4)
    assert exchanges.counts().open == 0


def test_a_duplicated_answer_is_mixed_once() -> None:
    """The network may deliver twice; averaging twice would pull us past the midpoint."""
    exchanges = Exchanges()
    number = offered(exchanges)
    exchanges.on_answer(B, answer(number), b"half")
    assert names(exchanges.on_answer(B, answer(number), b"half")) == ["exchange_dropped"]
    exchanges.on_mixed(number, 1, 0, 0.1)
    assert names(exchanges.on_answer(B, answer(number), b"half")) == ["exchange_dropped"]


def test_answers_nobody_asked_for_change_nothing() -> None:
    """From somebody else, to an id never used, before our offer was even sent, to a former life of ours."""
    exchanges = Exchanges(incarnation=2)
    number = offered(exchanges)
    assert names(exchanges.on_answer(A, answer(number, 2), b"")) == ["exchange_dropped"]
    assert names(exchanges.on_answer(B, answer(number + 1, 2), b"")) == ["exchange_dropped"]
    assert names(exchanges.on_answer(B, answer(number, 1), b"")) == ["exchange_dropped"]
    unsent = Exchanges()
    (pick,) = unsent.begin(B, 0.1, 1.0, 0.0)
    assert names(unsent.on_answer(B, answer(pick.exchange_id), b"")) == ["exchange_dropped"]  # type: ignore[union-attr]
    assert names(unsent.on_refusal(B, pick.exchange_id, "NO")) == ["exchange_dropped"]  # type: ignore[union-attr]


def test_a_late_answer_still_counts() -> None:
    """The peer has moved by its half: a deadline frees slot and blocks, never the id."""
    exchanges = Exchanges()
    number = offered(exchanges)
    assert kinds(exchanges.on_tick(DEADLINE_FIRST_S)) == [ev.GiveUp, ev.Emit]
    assert exchanges.counts().open == 0 and exchanges.counts().late == 1 and exchanges.failed == 1
    assert kinds(exchanges.on_answer(B, answer(number), b"half")) == [ev.Apply]
    exchanges.on_mixed(number, 1, 0, now=60.0)
    assert exchanges.completed == 1 and exchanges.counts().late == 0


def test_a_lost_link_frees_the_slot_at_once() -> None:
    """Nobody waits for a dead peer; should its answer come over another link, it counts."""
    exchanges = Exchanges()
    number = offered(exchanges)
    assert kinds(exchanges.on_link_down(B)) == [ev.GiveUp, ev.Emit]
    assert kinds(exchanges.on_answer(B, answer(number), b"half")) == [ev.Apply]


def test_the_table_of_late_exchanges_is_bounded() -> None:
    """The oldest is forgotten, by name: what the peer moved by stays as disagreement."""
    exchanges = Exchanges()
    said: list[str] = []
    for turn in range(LATE_MAX + 10):
        effects = exchanges.begin(B, 0.1, 1.0, now=20.0 * turn)
        said += names(effects)
        exchanges.on_offer_ready(effects[-1].exchange_id, b"", 0, 0.0)  # type: ignore[union-attr]
        exchanges.on_tick(20.0 * turn + DEADLINE_MAX_S)
    assert exchanges.counts().late <= LATE_MAX + 1
    assert said.count("exchange_evicted") >= 8


def test_an_offer_that_was_never_sent_leaves_nothing_behind() -> None:
    """Nothing to offer, or too late to: no peer can have moved, so there is nothing to remember."""
    exchanges = Exchanges()
    (nothing,) = exchanges.begin(B, 0.1, 1.0, 0.0)
    assert kinds(exchanges.on_offer_ready(nothing.exchange_id, None, 0, 0.0)) == [ev.Forget, ev.Emit]  # type: ignore[union-attr]
    (slow,) = exchanges.begin(B, 0.1, 1.0, 0.0)
    exchanges.on_tick(DEADLINE_FIRST_S)
    assert kinds(exchanges.on_offer_ready(slow.exchange_id, b"x", 0, 9.0)) == [ev.Forget, ev.Emit]  # type: ignore[union-attr]
    assert exchanges.counts().late == exchanges.counts().open == 0


def test_a_refused_exchange_is_over_for_good() -> None:
    """BUSY means the peer has not moved: the id is free, and a refusal of a late one is no second failure."""
    exchanges = Exchanges()
    number = offered(exchanges)
    assert kinds(exchanges.on_refusal(B, number, "BUSY")) == [ev.Forget, ev.Emit]
    number = offered(exchanges)
    exchanges.on_tick(99.0)
    assert kinds(exchanges.on_refusal(B, number, "BUSY")) == [ev.Forget]
    assert exchanges.failed == 2


def test_as_many_are_open_as_the_round_trip_makes_useful() -> None:
    """With answers that take 3 periods one way, 3 at once keep the road full; never more than OPEN_MAX."""
    exchanges = Exchanges()
    exchanges.on_answer(B, answer(offered(exchanges)), b"")
    exchanges.on_mixed(1, 1, 0, now=0.6)
    begun = [exchanges.begin(B, 0.1, every_s=0.1, now=1.0) for _ in range(5)]
    assert [kinds(effects) for effects in begun] == [[ev.PickBlocks]] * 3 + [[ev.Emit]] * 2
    assert all(effects[0].skip_in_flight for effects in begun[:3])  # type: ignore[union-attr]
    while names(exchanges.begin(B, 0.1, every_s=0.0, now=1.0)) == []:
        assert exchanges.counts().open <= OPEN_MAX


def test_lost_answers_do_not_stretch_the_deadline() -> None:
    """A wait for what was lost measures nothing: fed back, 20 % loss doubled every deadline up to 15 s."""
    exchanges = Exchanges()
    now = 0.0
    for turn in range(60):
        now += 10.0
        number = offered(exchanges, now)
        if turn % 3:
            exchanges.on_answer(B, answer(number), b"")
            exchanges.on_mixed(number, 1, 0, now + 0.05)
        else:
            exchanges.on_tick(now + 9.0)
    offered(exchanges, now)
    assert exchanges.next_deadline() - now < 0.3


def test_one_paused_peer_does_not_spoil_the_estimate() -> None:
    """An answer that slept for 20 s in a suspended laptop says little about the others."""
    exchanges = Exchanges()
    for turn in range(20):
        exchanges.on_answer(B, answer(offered(exchanges, turn)), b"")
        exchanges.on_mixed(turn + 1, 1, 0, turn + 0.1)
    slept = offered(exchanges, 100.0)
    exchanges.on_tick(110.0)
    exchanges.on_answer(B, answer(slept), b"")
    exchanges.on_mixed(slept, 1, 0, 120.0)
    assert exchanges.round_trip_s < 0.2


def test_a_slower_road_is_learnt_from_late_answers() -> None:
    """When every answer comes after its deadline, the deadline must grow until they are in time."""
    exchanges = Exchanges()
    exchanges.on_answer(B, answer(offered(exchanges)), b"")
    exchanges.on_mixed(1, 1, 0, 0.01)
    for turn in range(1, 60):
        number = offered(exchanges, 100.0 * turn)
        exchanges.on_tick(100.0 * turn + 2.0)
        exchanges.on_answer(B, answer(number), b"")
        exchanges.on_mixed(number, 1, 0, 100.0 * turn + 2.0)
    offered(exchanges, 9_000.0)
    assert exchanges.next_deadline() - 9_000.0 > 2.0


# -- The answering side -----------------------------------------------------------------------------


def test_an_offer_is_answered_once() -> None:
    """A duplicated offer would move us twice and the peer once."""
    exchanges = Exchanges()
    assert kinds(exchanges.on_offer(B, offer(3), b"blocks", 2.5, able=True)) == [ev.Respond]
    assert names(exchanges.on_offer(B, offer(3), b"blocks", 2.5, able=True)) == ["exchange_dropped"]
    send, _ = exchanges.on_answer_ready(B, 3, b"half", 10, 0, step=9, now=3.0)
    assert isinstance(send, ev.SendPayload) and send.header == Header(PayloadKind.ANSWER, 0, 3, 9, 30_000, 25_000)
    assert names(exchanges.on_offer(B, offer(3), b"blocks", 2.5, able=True)) == ["exchange_dropped"]
    assert kinds(exchanges.on_offer(A, offer(3), b"blocks", 2.5, able=True)) == [ev.Respond], "ids are per peer"
    assert exchanges.answered == 1


def test_an_answer_says_which_life_of_the_asker_it_is_for() -> None:
    """A restarted peer must not apply what its former self asked for."""
    exchanges = Exchanges(incarnation=1)
    exchanges.on_offer(B, offer(3, incarnation=4), b"", 0.0, able=True)
    send, _ = exchanges.on_answer_ready(B, 3, b"", 1, 0, step=0, now=0.0)
    assert send.header.incarnation == 4  # type: ignore[union-attr]


def test_who_cannot_answer_refuses_by_name() -> None:
    """Not trained yet, or enough in work: the asker frees its slot at once instead of waiting."""
    exchanges = Exchanges()
    assert exchanges.on_offer(B, offer(1), b"", 0.0, able=False)[0] == ev.Send(
        B, Refusal(PayloadKind.OFFER, 1, "NOT_READY")
    )
    for number in range(ANSWERING_MAX):
        exchanges.on_offer(B, offer(number), b"", 0.0, able=True)
    assert exchanges.on_offer(B, offer(99), b"", 0.0, able=True)[0] == ev.Send(
        B, Refusal(PayloadKind.OFFER, 99, "BUSY")
    )
    exchanges.on_answer_ready(B, 0, b"", 1, 0, 0, 0.0)
    assert kinds(exchanges.on_offer(B, offer(99), b"", 0.0, able=True)) == [ev.Respond]


def test_flapping_links_do_not_pile_up_work() -> None:
    """An offer stays in work until the worker is done with it, whatever becomes of its link."""
    exchanges = Exchanges()
    for number in range(50):
        exchanges.on_offer(B, offer(number), b"", 0.0, able=True)
        exchanges.on_link_down(B)
    assert exchanges.counts().answering == ANSWERING_MAX


def test_an_unreadable_offer_is_refused() -> None:
    """We have not moved; the asker may as well know."""
    exchanges = Exchanges()
    exchanges.on_offer(B, offer(3), b"", 0.0, able=True)
    refusal, _ = exchanges.on_offer_unreadable(B, 3, "DECODE_FAILED")
    assert refusal == ev.Send(B, Refusal(PayloadKind.OFFER, 3, "DECODE_FAILED"))
    assert exchanges.counts().answering == 0
