"""Does averaging by half-read displacements really average? Two nodes, then a swarm of four that disagree.

A failing case is replayed by its id, which holds the seed: pytest "tests/training/test_mixer.py::test_name[seed]".
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gossip.codec.answer import Answer, decode_answer, encode_answer
from gossip.codec.fragment import decode_fragment, encode_fragment, fragment_count
from gossip.codec.request import Request, decode_request, encode_request
from gossip.errors import InvariantError
from gossip.kernels.exchange import BLOCK, MAGNITUDE_MAX, STEPS
from gossip.training.mixer import Mixer, MixStatistics, warm_up

BLOCKS = 12
DIM = BLOCKS * BLOCK


class Node:
    """x, its mixer, and the way a payload takes: every request and answer goes through bytes."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x.astype(np.float32)
        self.mixer = Mixer(self.x)

    def offer(self, fraction: float = 1.0, skip_in_flight: bool = True) -> Request | None:
        return self.mixer.offer(self.x, fraction, skip_in_flight)

    def respond(self, request: Request) -> tuple[Answer, MixStatistics]:
        arrived = decode_request(encode_request(request, BLOCKS).body, BLOCKS)
        answer, statistics = self.mixer.respond(self.x, arrived)
        return decode_answer(encode_answer(answer).body, request.blocks.size), statistics

    def apply(self, request: Request, answer: Answer, was_given_up: bool = False) -> MixStatistics:
        return self.mixer.apply(self.x, request.blocks, request.range_codes, answer, was_given_up=was_given_up)

    def exchange_with(self, other: Node, fraction: float = 1.0) -> MixStatistics:
        request = self.offer(fraction)
        assert request is not None
        answer, statistics = other.respond(request)
        self.apply(request, answer)
        return statistics


def two_nodes(seed: int, movement: float = 0.01) -> tuple[Node, Node]:
    """The same start, then own ways."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=DIM)
    nodes = Node(start), Node(start)
    for node in nodes:
        node.x += (movement * rng.normal(size=DIM)).astype(np.float32)
    return nodes


# -- Two nodes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_an_exchange_keeps_the_sum_and_halves_the_distance(seed: int) -> None:
    i, j = two_nodes(seed)
    total, distance = i.x.astype(np.float64) + j.x, np.linalg.norm(i.x - j.x)
    statistics = i.exchange_with(j)
    assert np.abs(i.x.astype(np.float64) + j.x - total).max() <= 4 * np.spacing(np.float32(8))
    assert statistics.failed == 0
    assert np.linalg.norm(i.x - j.x) < 0.5 * distance
    assert statistics.relative_distance == pytest.approx(distance / np.linalg.norm(j.x), rel=0.2)


def test_rounds_without_training_bring_two_nodes_together() -> None:
    """The end of a run: ranges follow the disagreement down until float32 has nothing left to tell apart."""
    i, j = two_nodes(7)
    for _ in range(60):
        i.exchange_with(j)
        j.exchange_with(i)
    assert np.abs(i.x - j.x).max() < 1e-5


def test_the_blocks_that_moved_most_are_offered() -> None:
    node = Node(np.zeros(DIM))
    for block, moved in ((3, 0.5), (7, 2.0), (11, 1.0)):
        node.x[block * BLOCK : (block + 1) * BLOCK] = moved
    request = node.offer(fraction=0.16)
    assert request is not None
    assert request.blocks.tolist() == [7, 11]
    request = node.offer(fraction=0.16)
    assert request is not None
    assert request.blocks[0] == 3, "7 and 11 are in flight"
    assert node.offer(fraction=0.16, skip_in_flight=False).blocks.tolist() == [7, 11]


def test_when_nothing_moves_every_block_gets_its_turn() -> None:
    i, j = Node(np.ones(DIM)), Node(np.ones(DIM))
    seen: set[int] = set()
    for _ in range(4):
        request = i.offer(fraction=0.25)
        assert request is not None
        seen.update(request.blocks.tolist())
        i.apply(request, j.respond(request)[0])
    assert seen == set(range(BLOCKS))


def test_a_block_in_flight_comes_back_when_it_is_given_up() -> None:
    i, _ = two_nodes(1)
    request = i.offer()
    assert request is not None
    assert i.offer() is None
    assert i.mixer.statistics().blocks_in_flight == BLOCKS
    i.mixer.give_up(request.blocks)
    assert i.offer() is not None
    with pytest.raises(InvariantError, match="not in flight"):
        [i.mixer.give_up(request.blocks) for _ in range(2)]


def test_a_late_answer_still_counts() -> None:
    """j has moved long ago. The steps are the old request's, whatever happened to our ranges since."""
    i, j = two_nodes(2)
    total = i.x.astype(np.float64) + j.x
    late = i.offer()
    assert late is not None
    answer, _ = j.respond(late)
    i.mixer.give_up(late.blocks)
    for _ in range(5):
        i.exchange_with(j)
    again = i.offer()
    assert again is not None
    i.apply(late, answer, was_given_up=True)
    assert np.abs(i.x.astype(np.float64) + j.x - total).max() <= 1e-5
    assert i.mixer.statistics().blocks_in_flight == BLOCKS, "those of the newer offer"


def test_an_answer_to_another_request_is_our_own_bug() -> None:
    i, j = two_nodes(3)
    request = i.offer()
    assert request is not None
    answer, _ = j.respond(request)
    with pytest.raises(InvariantError, match="to a request of 3"):
        i.mixer.apply(i.x, request.blocks[:3], request.range_codes[:3], answer)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.5 * MAGNITUDE_MAX])
def test_a_block_that_is_not_finite_stays_at_home(bad: float) -> None:
    i, j = two_nodes(4)
    i.x[5 * BLOCK + 17] = bad
    request = i.offer()
    assert request is not None
    assert 5 not in request.blocks
    answer, statistics = i.respond(j.offer())
    assert answer.failed.tolist() == [block == 5 for block in range(BLOCKS)]
    assert statistics.failed == 1
    i.x[:] = bad
    assert i.offer(skip_in_flight=False) is None
    assert i.mixer.fragment(i.x, np.zeros_like(i.x), 0) is None


def test_a_range_far_beyond_our_own_is_refused() -> None:
    i, j = two_nodes(5)
    request = i.offer()
    assert request is not None
    before = j.x.copy()
    _, statistics = j.respond(replace(request, range_codes=request.range_codes + np.uint8(14)))
    assert statistics.refused == statistics.failed == BLOCKS
    assert np.array_equal(j.x, before)


def test_padding_stays_zero() -> None:
    i, j = two_nodes(6)
    for node in (i, j):
        node.x[-100:] = node.mixer.ref[-100:] = 0
    for _ in range(3):
        i.exchange_with(j)
    assert not i.x[-100:].any()
    assert not j.x[-100:].any()


@pytest.mark.parametrize("x", [np.zeros(DIM), np.zeros(DIM - 1, np.float32), np.zeros(0, np.float32)])
def test_a_mixer_wants_whole_blocks_of_float32(x: np.ndarray) -> None:
    with pytest.raises(InvariantError, match="expected float32"):
        Mixer(x)


def test_warming_up_leaves_nothing_behind() -> None:
    warm_up()


def test_a_joiner_takes_state_and_ranges_from_a_donor() -> None:
    i, j = two_nodes(8)
    for _ in range(3):
        i.exchange_with(j)
    momentum = np.random.default_rng(8).normal(size=DIM).astype(np.float32)
    newcomer, its_momentum = Node(np.zeros(DIM)), np.zeros(DIM, np.float32)
    for index in range(fragment_count(BLOCKS)):
        body = encode_fragment(i.mixer.fragment(i.x, momentum, index)).body
        newcomer.mixer.load_fragment(newcomer.x, its_momentum, decode_fragment(body, BLOCKS, index))
    assert np.abs(newcomer.x - i.x).max() <= np.abs(i.x).max() / 253
    assert np.abs(its_momentum - momentum).max() <= np.abs(momentum).max() / 253
    assert np.array_equal(newcomer.mixer.ref, newcomer.x)
    assert newcomer.mixer.ranges == pytest.approx(i.mixer.ranges, rel=0.1)
    for _ in range(8):
        i.exchange_with(newcomer)
    assert i.mixer.statistics().failed_share_recent < 0.8
    assert np.linalg.norm(i.x - newcomer.x) < 0.01 * np.linalg.norm(i.x)


# -- A swarm -------------------------------------------------------------------------------------------


class Swarm:
    """Four nodes, each with its own noisy quadratic; only together they see that the optimum is the mean.

    Curvatures span two orders of magnitude from block to block, as do the layers of a network.
    """

    def __init__(self, seed: int, lost: float = 0.0) -> None:
        self.rng = np.random.default_rng(seed)
        self.optima = self.rng.normal(size=(4, DIM))
        self.curvature = np.repeat(np.exp2(self.rng.uniform(-6, 0, BLOCKS)), BLOCK)
        self.nodes = [Node(np.zeros(DIM)) for _ in range(4)]
        self.lost = lost

    def train(self, steps: int, every: int, fraction: float, rate: float) -> list[MixStatistics]:
        """Steps with the rate falling to 0 as a cosine; the exchanges' statistics, in order."""
        seen = []
        for step in range(steps):
            rate_now = rate * (1 + np.cos(np.pi * step / steps)) / 2
            for number, node in enumerate(self.nodes):
                noise = 0.3 * self.rng.standard_normal(DIM, np.float32)
                gradient = self.curvature * (node.x - self.optima[number] + noise)
                node.x -= (rate_now * gradient).astype(np.float32)
                if (step + number) % every == 0:
                    seen.append(self.exchange(number, fraction))
        return seen

    def exchange(self, number: int, fraction: float) -> MixStatistics:
        other = int(self.rng.choice([n for n in range(4) if n != number]))
        node = self.nodes[number]
        request = node.offer(fraction)
        assert request is not None
        answer, statistics = self.nodes[other].respond(request)
        if self.rng.random() < self.lost:
            node.mixer.give_up(request.blocks)
        else:
            node.apply(request, answer)
        return statistics

    def distance(self) -> float:
        """Largest distance of a node from the swarm's mean, rms."""
        mean = np.mean([node.x for node in self.nodes], 0)
        return max(float(np.sqrt(np.mean((node.x - mean) ** 2))) for node in self.nodes)

    def error(self) -> float:
        """Distance of the swarm's mean from the optimum of all data, rms, weighted by curvature."""
        off = np.mean([node.x for node in self.nodes], 0) - self.optima.mean(0)
        return float(np.sqrt(np.mean(self.curvature * off**2) / self.curvature.mean()))


@pytest.mark.parametrize(("seed", "every", "fraction"), [(1, 4, 0.25), (2, 8, 0.5), (3, 8, 1.0)])
def test_a_swarm_agrees_on_what_none_of_its_nodes_could_learn_alone(seed: int, every: int, fraction: float) -> None:
    swarm = Swarm(seed)
    seen = swarm.train(800, every, fraction, rate=0.1)
    apart = float(np.sqrt(np.mean((swarm.optima - swarm.optima.mean(0)) ** 2)))
    late = seen[len(seen) // 2 :]
    failed = sum(s.failed for s in late) / sum(s.blocks for s in late)
    assert swarm.distance() < 0.04 * apart
    assert swarm.error() < 0.1 * apart
    assert failed < 0.15


def test_a_swarm_survives_the_loss_of_every_fifth_answer() -> None:
    """A lost answer leaves one of two displaced: the mean wanders a little, the swarm still agrees."""
    swarm = Swarm(seed=4, lost=0.2)
    swarm.train(800, every=4, fraction=0.5, rate=0.1)
    assert swarm.distance() < 0.03
    assert swarm.error() < 0.2


def test_disagreement_follows_the_learning_rate_down() -> None:
    distances = []
    for rate in (0.1, 0.01):
        swarm = Swarm(seed=5)
        swarm.train(400, every=4, fraction=0.5, rate=0.1)
        for _ in range(100):
            for number, node in enumerate(swarm.nodes):
                node.x -= (rate * swarm.curvature * (node.x - swarm.optima[number])).astype(np.float32)
            for number in range(4):
                swarm.exchange(number, 0.5)
        distances.append(swarm.distance())
    assert distances[1] < 0.25 * distances[0]


def test_one_outlier_layer_does_not_lose_touch() -> None:
    """A block that moves a thousand times further than the median needs a range far above 16 x the median."""
    rng = np.random.default_rng(6)
    nodes = [Node(np.ones(DIM)) for _ in range(2)]
    scale = np.full(DIM, 1e-4)
    scale[:BLOCK] = 0.1
    for _ in range(100):
        for node in nodes:
            node.x += (scale * rng.normal(size=DIM)).astype(np.float32)
        nodes[0].exchange_with(nodes[1])
    apart = np.abs(nodes[0].x - nodes[1].x)
    assert apart[:BLOCK].max() < 10 * 0.1
    assert apart[BLOCK:].max() < 10 * 1e-4


def test_the_statistics_add_up() -> None:
    swarm = Swarm(seed=7)
    swarm.train(80, every=4, fraction=0.5, rate=0.1)
    per_node = [node.mixer.statistics() for node in swarm.nodes]
    assert sum(s.offers for s in per_node) == sum(s.answers for s in per_node) == sum(s.applied for s in per_node)
    assert sum(s.blocks_mixed + s.blocks_failed for s in per_node) == 2 * 80 * BLOCKS // 2, "seen by both"
    for statistics in per_node:
        assert statistics.blocks_in_flight == 0
        assert 0 <= statistics.failed_share_recent < 1
        assert statistics.range_median > 8 * STEPS[1]
