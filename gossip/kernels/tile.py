"""The micro-kernel: a small tile of numbers, held in registers, to which products are added.

    tile[r, v] += sum over runs and steps of left[r] * right[v]

left[r] is one number, right[v] a vector of 16 samples (lanes.py), and the tile is `rows` by `vectors` of such
vectors. Everything heavy is this one loop at different strides: a dense layer and a convolution forward, both
backward, their weight gradients, and the products inside Winograd's transform. `runs` is the outer loop (the rows
of a convolution's kernel, say), `steps` the inner one; at every stride numbers may lie as they like.

The LLVM code is written out because Numba's vectoriser keeps accumulators in memory. ROWS and VECTORS are chosen so
that the tile fills the registers of the CPU the code is compiled for: 8 by 2 vectors are 16 of AVX-512's 32 registers
and reach its peak; AVX2 holds a vector in two of its 16, NEON in four of its 32. tests/kernels/test_target.py looks at
the assembly for each. The order in which a number's products are added is the same for every tile, and everything
around them keeps to that, so every CPU that has a fused multiply-add gets the same bits.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gossip.kernels.compiling import kernel
from gossip.kernels.lanes import LANES, POINTER, VECTOR, call_llvm, multiply_add, splat_number
from gossip.kernels.target import REGISTER_FLOATS, REGISTERS


def tile_size(register_floats, registers):
    """(rows, vectors) whose sums fit the registers, beside the vectors they are made of and one number."""
    vectors = 2 if register_floats >= LANES else 1
    held = vectors * -(-LANES // register_floats)  # registers for the sums of a row
    return min(8, (registers - held - 1) // held), vectors


ROWS, VECTORS = tile_size(REGISTER_FLOATS, REGISTERS)
ZEROS, BIASES, ADD = range(3)  # what a tile begins with: nothing, a bias per row, or what is there already
PLAIN, RELU, MASKED = range(3)  # how it is stored: as it is, max(0, it), or 0 wherever the mask is not positive

SIZE = types.intp
_TYPES = (*(SIZE,) * 4, POINTER, *(SIZE,) * 2, *(POINTER,) * 2, *(POINTER, *(SIZE,) * 3) * 2, *(SIZE,) * 2)
_PARAMETERS = (
    *("rows", "vectors", "start", "finish"),
    *("out", "out_row", "out_gap", "bias", "mask"),
    *("left", "left_row", "left_step", "left_run"),
    *("right", "right_gap", "right_step", "right_run"),
    *("runs", "steps"),
)


@intrinsic
def _multiply(
    typing_context,
    rows, vectors, start, finish,
    out, out_row, out_gap, bias, mask,
    left, left_row, left_step, left_run,
    right, right_gap, right_step, right_run,
    runs, steps,
):  # fmt: skip
    """`multiply`, written out wherever it is called."""

    def emit(context, builder, signature, args):
        given = dict(zip(_PARAMETERS, args, strict=True))
        done = builder.append_basic_block("tiles.done")
        default = builder.append_basic_block("tiles.none")
        width = given["rows"].type
        code = builder.add(builder.mul(given["vectors"], ir.Constant(width, 64)), given["rows"])
        switch = builder.switch(code, default)
        for count in range(1, VECTORS + 1):
            for height in range(1, ROWS + 1):
                block = builder.append_basic_block(f"tile.{height}x{count}")
                switch.add_case(ir.Constant(width, 64 * count + height), block)
                builder.position_at_end(block)
                _Tile(builder, given, height, count).emit()
                builder.branch(done)
        builder.position_at_end(default)
        builder.unreachable()
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(*_TYPES), emit


class _Tile:
    """Emits the code of one size of tile."""

    def __init__(self, builder, given, rows, vectors) -> None:
        self.builder, self.given = builder, given
        self.cells = [(row, vector) for row in range(rows) for vector in range(vectors)]
        self.rows, self.vectors = range(rows), range(vectors)
        self.size = given["steps"].type

    def emit(self) -> None:
        cells = self._begin()
        cells = self._loop("runs", ("left", "right"), "_run", cells, self._run)
        self._finish(cells)

    def _run(self, pointers, cells):
        return self._loop("steps", pointers, "_step", cells, self._step)

    def _step(self, pointers, cells):
        """One product of every row with every vector."""
        builder, (left, right) = self.builder, pointers
        vectors = [self._load(self._offset(right, "right_gap", vector)) for vector in self.vectors]
        result = []
        for row in self.rows:
            number = splat_number(builder, builder.load(self._offset(left, "left_row", row)))
            result += [multiply_add(builder, number, vectors[v], cells[row * len(vectors) + v]) for v in self.vectors]
        return result

    def _loop(self, count, pointers, stride, cells, body):
        """for _ in range(count): cells = body(pointers, cells), each pointer advanced by its stride after it."""
        builder = self.builder
        names = ("left", "right")
        first = [self.given[pointer] if isinstance(pointer, str) else pointer for pointer in pointers]
        before = builder.block
        block = builder.append_basic_block(count)
        builder.branch(block)
        builder.position_at_end(block)
        index = builder.phi(self.size)
        index.add_incoming(ir.Constant(self.size, 0), before)
        moving = [builder.phi(pointer.type) for pointer in first]
        held = [builder.phi(VECTOR) for _ in cells]
        for phi, value in zip((*moving, *held), (*first, *cells), strict=True):
            phi.add_incoming(value, before)
        cells = body(moving, held)
        advanced = [
            builder.gep(pointer, [self.given[name + stride]]) for name, pointer in zip(names, moving, strict=True)
        ]
        following = builder.add(index, ir.Constant(self.size, 1))
        for phi, value in zip((index, *moving, *held), (following, *advanced, *cells), strict=True):
            phi.add_incoming(value, builder.block)
        after = builder.append_basic_block(f"{count}.done")
        builder.cbranch(builder.icmp_signed("<", following, self.given[count]), block, after)
        builder.position_at_end(after)
        return cells

    def _begin(self):
        """The cells as ZEROS, BIASES or ADD want them."""
        zero = ir.Constant(VECTOR, None)

        def biases():
            numbers = [self.builder.load(self.builder.gep(self.given["bias"], [self._constant(r)])) for r in self.rows]
            return [splat_number(self.builder, numbers[row]) for row, _ in self.cells]

        def present():
            return [self._load(self._cell("out", *cell)) for cell in self.cells]

        return self._choose("start", [zero] * len(self.cells), {BIASES: biases, ADD: present})

    def _finish(self, cells) -> None:
        builder, zero = self.builder, ir.Constant(VECTOR, None)

        def relu():
            return [call_llvm(builder, "llvm.maximum", (cell, zero)) for cell in cells]

        def masked():
            masks = [self._load(self._cell("mask", *cell)) for cell in self.cells]
            return [
                builder.select(builder.fcmp_ordered(">", mask, zero), cell, zero)
                for mask, cell in zip(masks, cells, strict=True)
            ]

        cells = self._choose("finish", cells, {RELU: relu, MASKED: masked})
        for cell, value in zip(self.cells, cells, strict=True):
            pointer = builder.bitcast(self._cell("out", *cell), VECTOR.as_pointer())
            builder.store(value, pointer, align=4)

    def _choose(self, name, otherwise, cases):
        """The cells of the case that the argument `name` selects."""
        builder = self.builder
        after = builder.append_basic_block(f"{name}.done")
        switch = builder.switch(self.given[name], after)
        arrivals = [(builder.block, otherwise)]
        for value, case in cases.items():
            block = builder.append_basic_block(f"{name}.{value}")
            switch.add_case(self._constant(value), block)
            builder.position_at_end(block)
            arrivals.append((block, case()))
            builder.branch(after)
        builder.position_at_end(after)
        phis = [builder.phi(VECTOR) for _ in self.cells]
        for block, values in arrivals:
            for phi, value in zip(phis, values, strict=True):
                phi.add_incoming(value, block)
        return phis

    def _cell(self, base, row, vector):
        return self._offset(self._offset(self.given[base], "out_row", row), "out_gap", vector)

    def _offset(self, pointer, stride, times):
        if times == 0:
            return pointer
        return self.builder.gep(pointer, [self.builder.mul(self.given[stride], self._constant(times))])

    def _load(self, pointer):
        return self.builder.load(self.builder.bitcast(pointer, VECTOR.as_pointer()), align=4)

    def _constant(self, number):
        return ir.Constant(self.size, number)


@kernel
def multiply(
    rows, vectors, start, finish,
    out, out_row, out_gap, bias, mask,
    left, left_row, left_step, left_run,
    right, right_gap, right_step, right_run,
    runs, steps,
):  # fmt: skip
    """Compute one tile. Pointers from lanes.at(); strides in numbers; runs and steps at least 1.

    rows: 1 to ROWS. vectors: 1 to VECTORS. start, finish: constants above; bias and mask are read for BIASES and
    MASKED only, the mask at the strides of out. Nothing is checked.
    """
    _multiply(
        rows, vectors, start, finish,
        out, out_row, out_gap, bias, mask,
        left, left_row, left_step, left_run,
        right, right_gap, right_step, right_run,
        runs, steps,
    )  # fmt: skip
