"""What the CPU we compile for has: how many float32 fit a register, and how many registers there are.

LLVM is asked, by compiling one line for the CPU Numba compiles for: that is right for CPUs nobody has written a list
of, and for another one than ours (NUMBA_CPU_NAME=haswell with an empty NUMBA_CPU_FEATURES).
"""

from __future__ import annotations

import re

import llvmlite.binding as llvm
from numba.core.registry import cpu_target

_PROBE = """
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
define void @probe(<16 x float>* %p, <16 x float>* %q) {
  %a = load <16 x float>, <16 x float>* %p
  %b = load <16 x float>, <16 x float>* %q
  %c = call <16 x float> @llvm.fma.v16f32(<16 x float> %a, <16 x float> %b, <16 x float> %b)
  %d = fadd <16 x float> %c, %a
  store <16 x float> %d, <16 x float>* %p
  ret void
}
"""


def assembly(code: str, machine: llvm.TargetMachine | None = None) -> str:
    """LLVM's assembly of some LLVM code, for the CPU Numba compiles for unless another one is given."""
    machine = machine or cpu_target.target_context.codegen()._tm
    return machine.emit_assembly(llvm.parse_assembly(code))


def registers(text: str) -> tuple[int, int, bool]:
    """(float32 in a register, registers, has a fused multiply-add) by the assembly of `_PROBE`."""
    if "zmm" in text:
        return 16, 32, True
    if "ymm" in text:
        return 8, 16, "vfmadd" in text
    if re.search(r"fmla\s", text):
        return 4, 32, True
    return 4, 16, "vfmadd" in text


REGISTER_FLOATS, REGISTERS, HAS_FMA = registers(assembly(_PROBE))
