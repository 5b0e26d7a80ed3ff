"""The same source for every CPU: what a tile becomes on each, and that the results are the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

from gossip.kernels import lanes, target, tile

HERE = Path(__file__).parent
X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
CPUS = {  # float32 in a register, registers, fused multiply-add; rows and vectors of a tile; its instruction
    (X86, "znver4"): ((16, 32, True), (8, 2), r"vfmadd\d+ps .*zmm"),
    (X86, "skylake-avx512"): ((16, 32, True), (8, 2), r"vfmadd\d+ps .*zmm"),
    (X86, "haswell"): ((8, 16, True), (6, 1), r"vfmadd\d+ps .*ymm"),
    (X86, "sandybridge"): ((8, 16, False), (6, 1), r"vaddps .*ymm"),
    (X86, "x86-64"): ((4, 16, False), (2, 1), r"addps .*xmm"),
    (ARM, "generic"): ((4, 32, True), (6, 1), r"fmla v\d+\.4s"),
    (ARM, "apple-m1"): ((4, 32, True), (6, 1), r"fmla v\d+\.4s"),
    (ARM, "neoverse-v2"): ((4, 32, True), (6, 1), r"fmla v\d+\.4s"),
}


def machine_of(triple: str, cpu: str) -> llvm.TargetMachine:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        return llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
    except RuntimeError:
        pytest.skip(f"this LLVM knows no {triple}")


def code_of_a_tile(rows: int, vectors: int) -> str:
    """LLVM's code of one tile as a function of its own: the emitter's, the same for every CPU."""
    module, number, pointer = ir.Module(), ir.IntType(64), ir.FloatType().as_pointer()
    kinds = [number if kind == tile.SIZE else pointer for kind in tile._TYPES]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    tile._Tile(builder, dict(zip(tile._PARAMETERS, function.args, strict=True)), rows, vectors).emit()
    builder.ret_void()
    return str(module)


def innermost_loop(assembly: str, instruction: str) -> list[str]:
    """From the last label before the products to the jump behind them."""
    lines = [" ".join(line.split()) for line in assembly.splitlines()]
    hits = [index for index, line in enumerate(lines) if re.match(instruction, line)]
    labels = [index for index, line in enumerate(lines) if line.endswith(":") and index < hits[0]]
    ends = [index for index, line in enumerate(lines) if re.match(r"(j|b\.)\w+ ", line) and index > hits[-1]]
    return lines[labels[-1] + 1 : ends[0]]


@pytest.mark.parametrize(("triple", "cpu"), CPUS)
def test_a_tile_fills_the_registers_and_stays_in_them(triple: str, cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product per instruction, and nothing else touches memory: a sum that was spilt would halve the speed."""
    (floats, registers, has_fma), size, instruction = CPUS[triple, cpu]
    monkeypatch.setattr(lanes, "HAS_FMA", has_fma)
    machine = machine_of(triple, cpu)
    assert target.registers(target.assembly(target._PROBE, machine)) == (floats, registers, has_fma)
    assert tile.tile_size(floats, registers) == size
    loop = innermost_loop(target.assembly(code_of_a_tile(*size), machine), instruction)
    products = [line for line in loop if re.match(instruction, line)]
    assert len(products) == size[0] * size[1] * 16 // floats
    assert not [line for line in loop if re.search(r"%rsp|\bsp\b|call|\bbl\b", line)], "\n".join(loop)


def run_on(cpu: str, folder: Path) -> dict[str, np.ndarray]:
    """What other_cpu.py found there. An empty NUMBA_CPU_FEATURES means those of the CPU named, not of this one."""
    environment = os.environ | {
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(folder / cpu),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]),
    }
    result = folder / f"{cpu}.npz"
    done = subprocess.run(
        [sys.executable, HERE / "other_cpu.py", result], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(result))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_other_cpus_find_the_same(tmp_path: Path) -> None:
    """Two nodes of a swarm need not have the same CPU, but what they train should not depend on it.

    To the last bit where both multiply and add at once; without that within rounding.
    """
    if "avx2" not in target.assembly(target._PROBE) and not target.HAS_FMA:
        pytest.skip("needs an x86-64 with AVX2")
    first, old = (run_on(cpu, tmp_path) for cpu in ("haswell", "x86-64"))
    assert (first.pop("tile").tolist(), old.pop("tile").tolist()) == ([6, 1, True], [2, 1, False])
    here = run_on(llvm.get_host_cpu_name(), tmp_path)
    here.pop("tile")
    for chain, x in here.items():
        assert np.array_equal(x, first[chain]), chain
        np.testing.assert_allclose(x, old[chain], rtol=1e-3, atol=1e-4, err_msg=chain)
