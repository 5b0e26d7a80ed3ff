"""Sixteen float32 side by side, one per sample: the one vector type all layer kernels are written in.

A group of 16 samples lies in memory as float32[feature][16], the sample innermost. One load reads the same feature
of 16 samples, so every layer is scalar code over features, convolution, pooling and normalisation included, for any
number of channels. LLVM keeps such a vector in one register of AVX-512, two of AVX or four of NEON.

Memory is named by pointers: at(array, number) is the address of array[number], and `feature` below counts vectors
from there. Nothing is checked. No fast-math anywhere: a NaN or an infinity travels through to the loss, where it
is seen.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from gossip.kernels.target import HAS_FMA

LANES = 16
VECTOR = ir.VectorType(ir.FloatType(), LANES)
POINTER = types.CPointer(types.float32)


class LanesType(types.Type):
    """Numba's name for a <16 x float> value; it lives in local variables only."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, VECTOR)


lanes = LanesType()

# -- Memory ----------------------------------------------------------------------------------------


@intrinsic
def at(typing_context, array, number):
    """The address of array[number] of a C-contiguous array."""

    def emit(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.gep(data, [args[1]])

    return types.CPointer(array.dtype)(array, types.intp), emit


@intrinsic
def ahead(typing_context, pointer, numbers):
    """The address so many numbers further on."""

    def emit(context, builder, signature, args):
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.intp), emit


@intrinsic
def load(typing_context, pointer, feature):
    """The vector number `feature` from pointer on."""

    def emit(context, builder, signature, args):
        return builder.load(_vector_at(builder, *args), align=4)

    return lanes(POINTER, types.intp), emit


@intrinsic
def store(typing_context, pointer, feature, value):
    """Make it `value`."""

    def emit(context, builder, signature, args):
        builder.store(args[2], _vector_at(builder, *args[:2]), align=4)
        return context.get_dummy_value()

    return types.void(POINTER, types.intp, lanes), emit


@intrinsic
def splat(typing_context, number):
    """A number in all 16 lanes."""

    def emit(context, builder, signature, args):
        return splat_number(builder, args[0])

    return lanes(types.float32), emit


@intrinsic
def zeros(typing_context):
    """0.0 in all lanes."""

    def emit(context, builder, signature, args):
        return ir.Constant(VECTOR, None)

    return lanes(), emit


# -- Arithmetic, lane by lane ------------------------------------------------------------------------


@intrinsic
def add_product(typing_context, total, a, b):
    """total + a * b, rounded once."""

    def emit(context, builder, signature, args):
        total, a, b = args
        return multiply_add(builder, a, b, total)

    return lanes(lanes, lanes, lanes), emit


@intrinsic
def add(typing_context, a, b):
    """a + b."""

    def emit(context, builder, signature, args):
        return builder.fadd(*args)

    return lanes(lanes, lanes), emit


@intrinsic
def subtract(typing_context, a, b):
    """a - b."""

    def emit(context, builder, signature, args):
        return builder.fsub(*args)

    return lanes(lanes, lanes), emit


@intrinsic
def multiply(typing_context, a, b):
    """a * b."""

    def emit(context, builder, signature, args):
        return builder.fmul(*args)

    return lanes(lanes, lanes), emit


@intrinsic
def maximum(typing_context, a, b):
    """The larger one; NaN where either is NaN."""

    def emit(context, builder, signature, args):
        return call_llvm(builder, "llvm.maximum", args)

    return lanes(lanes, lanes), emit


@intrinsic
def where_positive(typing_context, test, value):
    """value where test > 0, else 0."""

    def emit(context, builder, signature, args):
        test, value = args
        zero = ir.Constant(VECTOR, None)
        return builder.select(builder.fcmp_ordered(">", test, zero), value, zero)

    return lanes(lanes, lanes), emit


@intrinsic
def where_equal(typing_context, a, b, value, otherwise):
    """value where a == b, else otherwise."""

    def emit(context, builder, signature, args):
        a, b, value, otherwise = args
        return builder.select(builder.fcmp_ordered("==", a, b), value, otherwise)

    return lanes(lanes, lanes, lanes, lanes), emit


# -- Across lanes --------------------------------------------------------------------------------------


@intrinsic
def sum_lanes(typing_context, value):
    """The sum of the 16 lanes: a float32, added as a tree."""

    def emit(context, builder, signature, args):
        vector = args[0]
        for half in (8, 4, 2, 1):
            low, high = (_pick(builder, vector, vector, part) for part in (range(half), range(half, 2 * half)))
            vector = builder.fadd(low, high)
        return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    return types.float32(lanes), emit


@intrinsic
def transpose(typing_context, source, source_row, target, target_row):
    """target[j][i] = source[i][j] for 16 by 16 numbers; rows lie source_row and target_row numbers apart."""

    def emit(context, builder, signature, args):
        source, source_row, target, target_row = args

        def row(pointer, stride, index):
            offset = builder.mul(stride, ir.Constant(stride.type, index))
            return builder.bitcast(builder.gep(pointer, [offset]), VECTOR.as_pointer())

        rows = [builder.load(row(source, source_row, index), align=4) for index in range(LANES)]
        for distance in (8, 4, 2, 1):
            rows = _exchange_blocks(builder, rows, distance)
        for index, value in enumerate(rows):
            builder.store(value, row(target, target_row, index), align=4)
        return context.get_dummy_value()

    return types.void(POINTER, types.intp, POINTER, types.intp), emit


def _exchange_blocks(builder, rows, distance):
    """One of the four steps of a transposition: swap the off-diagonal blocks of `distance` by `distance`."""
    result = list(rows)
    for index in range(LANES):
        if index & distance:
            continue
        upper, lower = rows[index], rows[index | distance]
        stay = [lane if not lane & distance else LANES + lane - distance for lane in range(LANES)]
        move = [lane + distance if not lane & distance else LANES + lane for lane in range(LANES)]
        result[index], result[index | distance] = (_pick(builder, upper, lower, part) for part in (stay, move))
    return result


# -- For other emitters --------------------------------------------------------------------------------


def multiply_add(builder, a, b, total):
    """a * b + total, rounded once where the CPU can: elsewhere LLVM would call a library function per number."""
    if not HAS_FMA:
        return builder.fadd(builder.fmul(a, b), total)
    return call_llvm(builder, "llvm.fma", (a, b, total))


def call_llvm(builder, name, args):
    """LLVM's own function of that name on vectors."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * len(args))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{LANES}f32"), args)


def splat_number(builder, number):
    """A vector of one number."""
    vector = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(ir.IntType(32), LANES), None))


def _vector_at(builder, pointer, feature):
    offset = builder.mul(feature, ir.Constant(feature.type, LANES))
    return builder.bitcast(builder.gep(pointer, [offset]), VECTOR.as_pointer())


def _pick(builder, a, b, lanes_of_both):
    """The lanes named, of a and then b."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes_of_both)), list(lanes_of_both))
    return builder.shuffle_vector(a, b, mask)
