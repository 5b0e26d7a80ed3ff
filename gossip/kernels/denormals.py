"""Numbers too small for float32's exponent, below 1.2e-38: taken as 0 by a thread that asks for it.

They do occur. The momentum of a unit whose relu is shut for good, without weight decay, shrinks by a tenth every step
and after 800 steps stays among them for ever: 2 to 3 % of LeNet's momentum on MNIST. A Zen 4 core minds little (1 %
of a step), other x86 cores need 100 cycles and more for each operation that meets one.
"""

from __future__ import annotations

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gossip.kernels.compiling import kernel

IS_X86 = llvm.get_process_triple().startswith(("x86_64", "i386", "i686"))
# Of the control register MXCSR: results are flushed to zero (bit 15), operands are taken as zeros (bit 6).
MXCSR_BITS = 0x8040


@intrinsic
def _set_mxcsr_bits(typing_context):
    """Nothing where the CPU has no such register: others are not slowed down."""

    def emit(context, builder, signature, args):
        if IS_X86:
            word = ir.IntType(32)
            register = cgutils.alloca_once(builder, word)
            address = builder.bitcast(register, ir.IntType(8).as_pointer())
            access = ir.FunctionType(ir.VoidType(), [address.type])
            builder.call(cgutils.get_or_insert_function(builder.module, access, "llvm.x86.sse.stmxcsr"), [address])
            builder.store(builder.or_(builder.load(register), ir.Constant(word, MXCSR_BITS)), register)
            builder.call(cgutils.get_or_insert_function(builder.module, access, "llvm.x86.sse.ldmxcsr"), [address])
        return context.get_dummy_value()

    return types.void(), emit


@kernel
def flush_denormals():
    """From here on, in the thread that calls this."""
    _set_mxcsr_bits()
