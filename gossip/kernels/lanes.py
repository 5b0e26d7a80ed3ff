"""Sixteen float32 side by side: the one vector type all layer kernels are written in.

A group of 16 samples lies in memory as float32[feature][16], the sample innermost, so one `load` reads
the same feature of 16 samples and every layer is scalar code over features, convolution included. LLVM
sees <16 x float> and keeps it in one AVX-512 register, two of AVX or four of NEON. Written out because
Numba's automatic vectoriser keeps accumulators in memory, which is several times slower.

No fast-math anywhere: a NaN or an infinity travels through to the loss, where it is seen.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16
_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)


class LanesType(types.Type):
    """Numba's name for a <16 x float> value; it lives in local variables only."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, _VECTOR)


lanes = LanesType()


@intrinsic
def load(typing_context, array, feature):
    """array[feature * 16 : feature * 16 + 16] of a flat float32 array, without a bounds check."""

    def emit(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1], LANES)
        return builder.load(builder.bitcast(pointer, _VECTOR.as_pointer()), align=4)

    return lanes(array, types.intp), emit


@intrinsic
def store(typing_context, array, feature, value):
    """array[feature * 16 : feature * 16 + 16] = value, without a bounds check."""

    def emit(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1], LANES)
        builder.store(args[2], builder.bitcast(pointer, _VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), emit


@intrinsic
def splat(typing_context, array, index):
    """The number array[index] of a float32 array in all 16 lanes, without a bounds check."""

    def emit(context, builder, signature, args):
        return _splat(builder, builder.load(_pointer(context, builder, signature.args[0], *args)))

    return lanes(array, types.intp), emit


@intrinsic
def zeros(typing_context):
    """0.0 in all lanes."""

    def emit(context, builder, signature, args):
        return ir.Constant(_VECTOR, None)

    return lanes(), emit


@intrinsic
def add_product(typing_context, total, a, b):
    """total + a * b, lane by lane, rounded once."""

    def emit(context, builder, signature, args):
        total, a, b = args
        return builder.call(_llvm(builder, "llvm.fma", 3), (a, b, total))

    return lanes(lanes, lanes, lanes), emit


@intrinsic
def add(typing_context, a, b):
    """a + b, lane by lane."""

    def emit(context, builder, signature, args):
        return builder.fadd(*args)

    return lanes(lanes, lanes), emit


@intrinsic
def maximum(typing_context, a, b):
    """The larger one, lane by lane; NaN where either is NaN."""

    def emit(context, builder, signature, args):
        return builder.call(_llvm(builder, "llvm.maximum", 2), args)

    return lanes(lanes, lanes), emit


@intrinsic
def where_positive(typing_context, test, value):
    """value where test > 0, else 0."""

    def emit(context, builder, signature, args):
        test, value = args
        zero = ir.Constant(_VECTOR, None)
        return builder.select(builder.fcmp_ordered(">", test, zero), value, zero)

    return lanes(lanes, lanes), emit


@intrinsic
def where_equal(typing_context, a, b, value, otherwise):
    """value where a == b, else otherwise."""

    def emit(context, builder, signature, args):
        a, b, value, otherwise = args
        return builder.select(builder.fcmp_ordered("==", a, b), value, otherwise)

    return lanes(lanes, lanes, lanes, lanes), emit


@intrinsic
def sum_lanes(typing_context, value):
    """The sum of the 16 lanes: a float32, added as a tree."""

    def emit(context, builder, signature, args):
        vector = args[0]
        for half in (8, 4, 2, 1):
            mask = ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(half)))
            other = ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(half, 2 * half)))
            low, high = (builder.shuffle_vector(vector, vector, part) for part in (mask, other))
            vector = builder.fadd(low, high)
        return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    return types.float32(lanes), emit


def _pointer(context, builder, array_type, array, index, stride=1):
    """Address of float32 number `index * stride` of a C-contiguous array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [builder.mul(index, ir.Constant(index.type, stride))])


def _splat(builder, number):
    vector = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    return builder.shuffle_vector(vector, vector, everywhere)


def _llvm(builder, name, arguments):
    """LLVM's own function of that name for 16 float32."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * arguments)
    return cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{LANES}f32")
