"""Several threads on one batch: each takes its groups of samples, and they meet where one needs what others have.

Every thread runs the same kernels on its own workspace; `me` and `size` in it say which part is whose. They meet at
barriers that spin, for between two of them lies less than a thread's wake-up takes, and give way to others on a busy
machine. What is summed over threads is summed in their order, so a team of the same size gets the same bits.
"""

from __future__ import annotations

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gossip.kernels.compiling import kernel
from gossip.kernels.lanes import LANES

ARRIVED, GENERATION, STARTED, PARKED = (8 * index for index in range(4))  # in `flags`, on cache lines of their own
TEAM_MAX = 64  # threads: PARKED has a number for each
SPINS = 20_000  # of a thread that waits for its next step, about 100 us: then it parks
SPINS_AT_ONCE = 500  # before a thread at a barrier offers its core to others

give_way = types.ExternalFunction("sched_yield", types.int32())


@intrinsic
def fetch_add(typing_context, array, index, value):
    """array[index] += value as one step that all threads see; returns what it was. array: int64."""

    def emit(context, builder, signature, args):
        return builder.atomic_rmw("add", _address(context, builder, signature, args), args[2], "seq_cst")

    return types.int64(array, types.intp, types.int64), emit


@intrinsic
def fetch(typing_context, array, index):
    """array[index] as the other threads see it. array: int64."""

    def emit(context, builder, signature, args):
        return builder.load_atomic(_address(context, builder, signature, args), "seq_cst", 8)

    return types.int64(array, types.intp), emit


@intrinsic
def exchange(typing_context, array, index, value):
    """array[index] = value as one step that all threads see; returns what it was. array: int64."""

    def emit(context, builder, signature, args):
        return builder.atomic_rmw("xchg", _address(context, builder, signature, args), args[2], "seq_cst")

    return types.int64(array, types.intp, types.int64), emit


@intrinsic
def put(typing_context, array, index, value):
    """array[index] = value for all threads to see. array: int64."""

    def emit(context, builder, signature, args):
        builder.store_atomic(args[2], _address(context, builder, signature, args), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), emit


@intrinsic
def pause(typing_context):
    """Tell the core that this thread spins."""

    def emit(context, builder, signature, args):
        machine, module, void = platform.machine(), builder.module, ir.VoidType()
        if machine in ("x86_64", "AMD64"):
            kind = ir.FunctionType(void, [])
            builder.call(cgutils.get_or_insert_function(module, kind, "llvm.x86.sse2.pause"), ())
        elif machine in ("aarch64", "arm64"):
            number = ir.IntType(32)
            kind = ir.FunctionType(void, [number])
            builder.call(cgutils.get_or_insert_function(module, kind, "llvm.aarch64.hint"), (number(1),))  # yield
        return context.get_dummy_value()

    return types.void(), emit


def _address(context, builder, signature, args):
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    return builder.gep(data, [args[1]])


@kernel
def barrier(work):
    """Wait for all."""
    if work.size == 1:
        return
    turn = fetch(work.flags, GENERATION)
    if fetch_add(work.flags, ARRIVED, 1) == work.size - 1:
        put(work.flags, ARRIVED, 0)
        fetch_add(work.flags, GENERATION, 1)
        return
    spins = 0
    while fetch(work.flags, GENERATION) == turn:
        pause()
        spins += 1
        if spins % SPINS_AT_ONCE == 0:
            give_way()


@kernel
def share(count, work):
    """(first, end) of this thread's part of a batch: whole groups of samples."""
    groups = -(-count // LANES)
    first, end = groups * work.me // work.size * LANES, groups * (work.me + 1) // work.size * LANES
    return min(first, count), min(end, count)


@kernel
def add_up(sums, count, work):
    """sums[:count] become their sum over all threads, in each of them. sums: float64."""
    if work.size == 1:
        return
    for i in range(count):
        work.board[work.me, i] = sums[i]
    barrier(work)
    for i in range(count):
        total = 0.0
        for thread in range(work.size):
            total += work.board[thread, i]
        sums[i] = total
    barrier(work)


@kernel
def gather_gradients(total, others, work):
    """total += every other thread's gradient, this thread's part of the vector. others: float32[size - 1, n]."""
    barrier(work)
    first, end = total.size * work.me // work.size, total.size * (work.me + 1) // work.size
    for thread in range(work.size - 1):
        part, sum_part = others[thread, first:end], total[first:end]
        for i in range(part.size):
            sum_part[i] += part[i]
    barrier(work)


@kernel
def started(flags, seen):
    """Spin for a while until there is a step after the `seen`-th; False where there was none."""
    for _ in range(SPINS):
        if fetch(flags, STARTED) != seen:
            return True
        pause()
    return False


@kernel
def has_started(flags, seen):
    """Whether there is a step after the `seen`-th."""
    return fetch(flags, STARTED) != seen


@kernel
def start(flags):
    """Let the others begin their part of a step."""
    fetch_add(flags, STARTED, 1)


@kernel
def park(flags, me, seen):
    """About to sleep; False where a step has begun meanwhile, and nobody has seen us lie down."""
    exchange(flags, PARKED + me, 1)
    return fetch(flags, STARTED) == seen or exchange(flags, PARKED + me, 0) == 0


@kernel
def wake(flags, other):
    """True where that thread sleeps, or is about to: it has to be woken, once."""
    return exchange(flags, PARKED + other, 0) == 1
