"""The trainer's half of an exchange: which blocks to offer, how to answer, how to apply an answer.

Knows blocks, ranges and what is in flight; the training thread alone calls it, and hands it x each time.
Does not know peers, ids, clocks or bytes. Whoever keeps exchange ids must call `apply` at most once per exchange:
a displacement is not idempotent.

Momentum, where it is averaged too, is another matter: nothing is owed. Each side moves towards what the other had
when it wrote, the pair's sum is kept on average only, and what is lost or refused costs nothing but itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gossip.codec.answer import Answer, decode_answer, encode_answer
from gossip.codec.fragment import Fragment, fragment_span
from gossip.codec.momentum import Momentum
from gossip.codec.request import MAX_OFFER_BLOCKS, MAX_OFFER_BLOCKS_WITH_MOMENTUM, MODEL_BLOCKS_MAX, Request
from gossip.errors import InvariantError
from gossip.kernels import absmax, exchange
from gossip.kernels import momentum as momentum_kernels
from gossip.kernels.exchange import BLOCK, MAGNITUDE_MAX, RANGE_FIRST, STEPS
from gossip.kernels.optimizer import SEGMENT, TRAINED
from gossip.training.frozen import Frozen

# Among blocks with equal drift (all 0 in the last rounds of a run) the longest unmixed goes first. The share of an
# exchange in the score is far below the drift of any block that really moved.
AGE_SCORE = np.float32(1e-30)

COUNTERS = (
    "range_median", "offers", "answers", "applied", "blocks_mixed", "blocks_failed", "blocks_refused",
    "momentum_mixed", "draws", "failed_share", "relative_distance",
)  # fmt: skip

# A recent average forgets at this rate per exchange: about the last 20 count.
RECENT_RATE = 0.05


@dataclass(frozen=True, slots=True)
class MixStatistics:
    """What one exchange did to us."""

    blocks: int  # in the request
    failed: int  # of them left alone, for whatever reason
    refused: int  # of the failed: the range was more than 8x beyond the responder's
    displacement_rms: float  # over the coordinates of mixed blocks
    relative_distance: float  # |peer - own| / |own| on mixed blocks; whoever offered sees only the answered part
    momentum_mixed: int = 0  # blocks whose momentum was averaged too


@dataclass(frozen=True, slots=True)
class MixerStatistics:
    """Since the start, except what is called recent: about the last 20 exchanges."""

    offers: int
    answers: int  # given to others
    applied: int  # answers of others to our offers
    blocks_mixed: int
    blocks_failed: int
    blocks_refused: int
    momentum_mixed: int  # blocks
    blocks_in_flight: int
    failed_share_recent: float
    relative_distance_recent: float  # as responder, which sees the peer as it is
    range_median: float


class Mixer:
    """Exchange state for one x: 4 bytes per parameter and a few per block, however many peers there are.

    ref: float32[dim], x right after each block was last mixed. ranges: float32[blocks], 0 where a block never moved.
    `arrays` and `counters` are what a checkpoint keeps of it; what is in flight is not: a restart answers nothing.
    """

    def __init__(self, x: np.ndarray, seed: int = 0, frozen: Frozen | None = None) -> None:
        """x: float32[dim], dim a multiple of BLOCK, zeros in the padding. Raises InvariantError.

        seed: 0 to 2**64 - 1, of the random rounding of momentum. frozen: what is neither offered nor moved.
        """
        if x.dtype != np.float32 or x.ndim != 1 or x.size % BLOCK or not 0 < x.size <= MODEL_BLOCKS_MAX * BLOCK:
            raise InvariantError(f"a mixer for {x.dtype}{x.shape}: expected float32[n * {BLOCK}]")
        self.n_blocks = x.size // BLOCK
        self.ref = x.copy()
        self.frozen = frozen or Frozen(np.array([(0, x.size, TRAINED)], SEGMENT), x.size)
        self.ranges = np.zeros(self.n_blocks, np.float32)
        self._draws = 0  # of the seed so far: one for each time momentum was written
        self._seed = np.uint64(seed)
        self._in_flight = np.zeros(self.n_blocks, np.int32)
        self._mixed_at = np.zeros(self.n_blocks, np.int32)  # count of exchanges when the block was last mixed
        self._drift = np.empty(self.n_blocks, np.float32)
        self._range_median = 0.0  # 0: not yet known
        self._offers = self._answers = self._applied = 0
        self._blocks_mixed = self._blocks_failed = self._blocks_refused = self._momentum_mixed = 0
        self._failed_share = self._relative_distance = 0.0

    def offer(
        self, x: np.ndarray, fraction: float, skip_in_flight: bool, momentum: np.ndarray | None = None
    ) -> Request | None:
        """A request with the share `fraction` of all blocks in which anything is learnt, those that drifted most,
        now marked in flight.

        fraction: 0 < fraction <= 1; at most MAX_OFFER_BLOCKS blocks, or _WITH_MOMENTUM where momentum, float32[dim],
        goes with them. skip_in_flight: leave out blocks whose answer
        is awaited. Without it the same disagreement is halved several times over: at a round trip of two exchange
        periods swarms diverge; with it they lose nothing below one period and at most half a point up to two.
        None when there is no block to offer: all are in flight, or x is not finite.
        """
        self._survey(x)
        score = self._drift + AGE_SCORE * (self._exchanges() - self._mixed_at).astype(np.float32)
        is_open = (self._drift >= 0.0) & ~self.frozen.blocks
        if skip_in_flight:
            is_open &= self._in_flight == 0
        candidates = np.flatnonzero(is_open)
        count_max = MAX_OFFER_BLOCKS if momentum is None else MAX_OFFER_BLOCKS_WITH_MOMENTUM
        count = min(candidates.size, int(np.ceil(fraction * self.frozen.exchanged / BLOCK)), count_max)
        if count == 0:
            return None
        if count < candidates.size:
            chosen = np.argpartition(score[candidates], candidates.size - count)[candidates.size - count :]
            candidates = np.sort(candidates[chosen])
        blocks = candidates.astype(np.int32)
        codes, checks = np.empty(count, np.uint8), np.empty(count, np.uint16)
        symbols = np.empty(count * BLOCK, np.uint8)
        exchange.encode(x, self.ranges, blocks, codes, checks, symbols)
        self._in_flight[blocks] += 1
        self._offers += 1
        return Request(blocks, codes, checks, symbols, self._quantised_momentum(momentum, blocks))

    def respond(
        self, x: np.ndarray, request: Request, momentum: np.ndarray | None = None
    ) -> tuple[Answer, MixStatistics]:
        """Mix a peer's request into x, at once, and return the answer that makes the peer move as far.

        momentum: float32[dim]; where the request has some it is mixed into ours, and ours as it was before goes back.
        Never refuses for own blocks in flight: that starves.
        """
        if self._range_median == 0.0:
            self._survey(x)
        n = request.blocks.size
        levels = np.empty(n * BLOCK, np.int8)
        codes, failed = np.empty(n, np.uint8), np.empty(n, np.bool_)
        with self.frozen.held(x, self.ref):
            sums = exchange.answer(
                x, self.ref, self.ranges, self._range_median,
                request.blocks, request.range_codes, request.checks, request.symbols,
                levels, codes, failed,
            )  # fmt: skip
        self._answers += 1
        own, momentum_mixed = None, 0
        if request.momentum is not None and momentum is not None and not failed.all():
            mixed = request.blocks[~failed]
            own = self._quantised_momentum(momentum, mixed)
            momentum_mixed = self._mix_momentum(momentum, mixed, request.momentum.only(~failed))
        statistics = self._book(request.blocks, failed, momentum_mixed, *sums)
        if statistics.failed < statistics.blocks:
            self._relative_distance += _rate(self._answers) * (statistics.relative_distance - self._relative_distance)
        return Answer(codes, failed, levels, own), statistics

    def apply(
        self,
        x: np.ndarray,
        blocks: np.ndarray,
        range_codes: np.ndarray,
        answer: Answer,
        momentum: np.ndarray | None = None,
        *,
        was_given_up: bool = False,
    ) -> MixStatistics:
        """Mix the answer to our own request (its blocks and range codes) into x, once, however late.

        momentum: float32[dim], into which the answer's is mixed, unless we had stopped waiting: how old it is has no
        bound then, while momentum forgets in ten steps, and unlike a displacement it is not owed to anybody.
        was_given_up: `give_up` has already freed the blocks. Raises InvariantError when request and answer do not
        belong together; `decode_answer` has made sure that they do.
        """
        if not blocks.size == range_codes.size == answer.failed.size == answer.levels.size // BLOCK:
            raise InvariantError(f"an answer for {answer.failed.size} blocks to a request of {blocks.size}")
        if not was_given_up:
            self.give_up(blocks)
        with self.frozen.held(x, self.ref):
            sums = exchange.apply(
                x, self.ref, self.ranges, self._range_median or RANGE_FIRST,
                blocks, range_codes, answer.levels, answer.range_codes, answer.failed,
            )  # fmt: skip
        self._applied += 1
        momentum_mixed = 0
        if answer.momentum is not None and momentum is not None and not was_given_up:
            momentum_mixed = self._mix_momentum(momentum, blocks[~answer.failed], answer.momentum)
        return self._book(blocks, answer.failed, momentum_mixed, *sums)

    def give_up(self, blocks: np.ndarray) -> None:
        """No longer wait for the answer about these blocks. Raises InvariantError if nobody did."""
        if (self._in_flight[blocks] <= 0).any():
            raise InvariantError("giving up blocks that are not in flight")
        self._in_flight[blocks] -= 1

    def fragment(self, x: np.ndarray, momentum: np.ndarray | None, index: int) -> Fragment | None:
        """Fragment `index` of our state, for a joiner; None while it holds a number that is not finite or absurd.

        momentum: float32[dim], like x; None goes as zeros. Raises IndexError for an index beyond the last fragment.
        """
        first, count = fragment_span(self.n_blocks, index)
        part = slice(first * BLOCK, (first + count) * BLOCK)
        codes = np.empty(count, np.uint8)
        exchange.range_codes(self.ranges[first : first + count], codes)
        x_peaks, x_levels = _quantised(x[part])
        momentum_peaks, momentum_levels = _quantised(np.zeros_like(x[part]) if momentum is None else momentum[part])
        if not (x_peaks.max() <= MAGNITUDE_MAX and momentum_peaks.max() <= MAGNITUDE_MAX):
            return None
        return Fragment(first, codes, x_peaks, x_levels, momentum_peaks, momentum_levels)

    def load_fragment(self, x: np.ndarray, momentum: np.ndarray | None, fragment: Fragment) -> None:
        """Take over a donor's blocks: x, ranges, and momentum where there is one, in place; ref becomes x."""
        part = slice(fragment.first * BLOCK, (fragment.first + fragment.count) * BLOCK)
        absmax.dequantise(fragment.x_peaks, fragment.x_levels, x[part])
        if momentum is not None:
            absmax.dequantise(fragment.momentum_peaks, fragment.momentum_levels, momentum[part])
        self.ref[part] = x[part]
        codes = fragment.range_codes
        self.ranges[fragment.first : fragment.first + fragment.count] = np.where(codes > 0, 8.0 * STEPS[codes], 0.0)
        self._range_median = 0.0

    # -- What a checkpoint keeps -----------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays themselves, not copies."""
        return {"ref": self.ref, "ranges": self.ranges, "mixed_at": self._mixed_at}

    def counters(self) -> dict[str, float]:
        """Everything else, as plain numbers."""
        return {name: getattr(self, f"_{name}") for name in COUNTERS}

    def restore_counters(self, counters: Mapping[str, float]) -> None:
        """Go on counting from a checkpoint's numbers. Whoever calls has filled the arrays."""
        for name in COUNTERS:
            setattr(self, f"_{name}", counters[name])

    def statistics(self) -> MixerStatistics:
        return MixerStatistics(
            offers=self._offers,
            answers=self._answers,
            applied=self._applied,
            blocks_mixed=self._blocks_mixed,
            blocks_failed=self._blocks_failed,
            blocks_refused=self._blocks_refused,
            momentum_mixed=self._momentum_mixed,
            blocks_in_flight=int(np.count_nonzero(self._in_flight)),
            failed_share_recent=self._failed_share,
            relative_distance_recent=self._relative_distance,
            range_median=self._range_median,
        )

    def _survey(self, x: np.ndarray) -> None:
        """Measure all drifts, lift the ranges to their floors, and find the median range of what ever moved."""
        exchange.measure(x, self.ref, self.ranges, self._drift)
        known = self.ranges[self.ranges > 0.0]
        middle = known.size // 2
        self._range_median = float(np.partition(known, middle)[middle]) if known.size else RANGE_FIRST

    def _quantised_momentum(self, momentum: np.ndarray | None, blocks: np.ndarray) -> Momentum | None:
        if momentum is None:
            return None
        codes = np.empty(blocks.size, np.uint8)
        signs, outer = np.empty((2, blocks.size * momentum_kernels.BLOCK_BYTES), np.uint8)
        self._draws += 1
        key = momentum_kernels.key_of(self._seed, np.uint64(self._draws))
        momentum_kernels.quantise(momentum, blocks, np.uint64(key), codes, signs, outer)
        return Momentum(int(key), codes, signs, outer)

    @staticmethod
    def _mix_momentum(momentum: np.ndarray, blocks: np.ndarray, given: Momentum) -> int:
        return int(momentum_kernels.mix(momentum, blocks, np.uint64(given.key), given.codes, given.signs, given.outer))

    def _book(
        self, blocks: np.ndarray, failed: np.ndarray, momentum_mixed: int, failures: int, refusals: int,
        gap_squares: float, squares: float, moved_squares: float,
    ) -> MixStatistics:  # fmt: skip
        self._mixed_at[blocks[~failed]] = self._exchanges()
        self._blocks_mixed += blocks.size - failures
        self._blocks_failed += failures
        self._blocks_refused += refusals
        self._momentum_mixed += momentum_mixed
        self._failed_share += _rate(self._exchanges()) * (failures / blocks.size - self._failed_share)
        coordinates = max(1, blocks.size - failures) * BLOCK
        return MixStatistics(
            blocks=blocks.size,
            failed=failures,
            refused=refusals,
            displacement_rms=(moved_squares / coordinates) ** 0.5,
            relative_distance=(gap_squares / squares) ** 0.5 if squares > 0.0 else 0.0,
            momentum_mixed=momentum_mixed,
        )

    def _exchanges(self) -> int:
        return self._answers + self._applied


def warm_up() -> None:
    """Compile, or load from the cache, every kernel an exchange needs, on two models of one block."""
    x, y = np.zeros(BLOCK, np.float32), np.ones(BLOCK, np.float32)
    i, j = Mixer(x), Mixer(y)
    momentum = np.ones(BLOCK, np.float32)
    request = i.offer(x, 1.0, skip_in_flight=True, momentum=momentum)
    assert request is not None
    answer, _ = j.respond(y, request, momentum)
    arrived = decode_answer(encode_answer(answer).body, 1, with_momentum=True)
    i.apply(x, request.blocks, request.range_codes, arrived, momentum)
    fragment = i.fragment(x, x, 0)
    assert fragment is not None
    j.load_fragment(y, y, fragment)


def _quantised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    peaks, levels = np.empty(x.size // BLOCK, np.float32), np.empty(x.size, np.int8)
    absmax.quantise(x, peaks, levels)
    return peaks, levels


def _rate(count: int) -> float:
    """Weight of the count-th value: a plain mean at first, then RECENT_RATE."""
    return max(RECENT_RATE, 1.0 / count)
