"""lstm, gru and rnn: one kernel walks all steps of a layer.

The products of x with w_ih of all steps are one matrix product, which the rule computes before (`Walk.inputs`). Each
step multiplies the states with the packed weights of one panel of units after the other, all gates of a unit side by
side. The sums of a tile go through memory, since the rest of a step is done for one row and one register of units at a
time: so a tile may overlap the one before it, and its code exists once.

Threads share the rows of the batch. A row reads nothing of another one, so there is no barrier within a call, and a row
has the same bits alone and in a batch. Products are summed by fma in the order of the state; lanes lie across units.
States are double-buffered: a step reads those of all units and writes the others.

Packed weights are f32 [panels][state][gates][nr], nr = nv registers of units; biases [panels][gates][nr].

If weights are i8 codes, each step quantizes the states first, row by row or, in one thread, all at once; then the sums
are integers, and become f32 by rule (8) of qmath. Packed weights are i8 [panels][state / 4][gates][nr][4]; the sums and
the scales of weights lie like biases. Of static codes the parameters of the states are given, and gates go through rule
(9). What is stored as a state is the real number that its code stands for, and quantizing that gives the code again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, S, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I32, I64, vector
from qcompiler.backends.kernels.dynamic import CodeBounds, Parameters, range_of_row
from qcompiler.backends.kernels.recurrent_gates import ACTIVATIONS, STATIC_FUNCTIONS, clip

RECORD_BYTES = 8
"""Bytes of the scale (f32) and the zero point (i32) of a row of codes."""


class Weights(Group, Generic[P]):
    """The packed weights and biases of one product of a step; of codes also the sum of each row of weights, i32, and
    its scale."""

    data: P
    bias: P
    sums: P
    scales: P


class Walk(Group, Generic[P, E]):
    """What the kernels share. R are the elements of a state, G the gates, H the units.

    Attributes:
        inputs: f32 [steps, rows, G * H]: the products of x, with their bias.
        lengths: i64 [rows], if the kernel reads them.
        h0: f32 [rows, R].
        y: f32 [steps, rows, R].
        h: f32 [rows, R], the last state.
        states: f32 [2, rows, R], scratch.
        sums: f32 [rows, widest * nr], scratch, where `widest` is the largest number of gates of a product.
        codes: u8 [rows, R or H, a multiple of 4], scratch, if weights are codes.
        records: [rows], scratch: the scale and the zero point of each row of codes.
        first, stride: the step that is computed first, and the distance to the next one, 1 or -1.
    """

    inputs: P
    lengths: P
    h0: P
    y: Written[P]
    h: Written[P]
    states: Written[P]
    sums: Written[P]
    codes: Written[P]
    records: Written[P]
    steps: E
    rows: E
    units: E
    first: E
    stride: E


class StateCodes(Group, Generic[S]):
    """Static codes of the states: u8 of scale h and this zero point, from low to high after it is subtracted; and the
    scale of the i16 codes of cell states."""

    h: S
    zero: S
    low: S
    high: S
    c: S


class Activations(Group, Generic[S]):
    """The parameters of the activations, in the order of the op's, the bound of gates, the highest code, and the
    static codes, which kernels of other codes don't read."""

    alphas: tuple[S, ...]
    betas: tuple[S, ...]
    clip: S
    qmax: S
    states: StateCodes[S]


class Lstm(Arguments["Lstm"], Generic[P, E, S]):
    """The arguments of `lstm`. c: f32 [rows, H], the last cell state; c0: the first one. peephole: f32 [3, H].
    outputs: R. projection: [panels][H][1][nr]. hidden: f32 [rows, H], scratch, if there is a projection."""

    walk: Walk[P, E]
    weights: Weights[P]
    c0: P
    c: Written[P]
    peephole: P
    outputs: E
    projection: Weights[P]
    hidden: Written[P]
    activations: Activations[S]


class Gru(Arguments["Gru"], Generic[P, E, S]):
    """The arguments of `gru`. candidate: the weights of n, if r multiplies the state; then `weights` are those of r and
    z, and updates and resets are f32 [rows, H], scratch."""

    walk: Walk[P, E]
    weights: Weights[P]
    candidate: Weights[P]
    updates: Written[P]
    resets: Written[P]
    activations: Activations[S]


class Rnn(Arguments["Rnn"], Generic[P, E, S]):
    """The arguments of `rnn`."""

    walk: Walk[P, E]
    weights: Weights[P]
    activations: Activations[S]


class _StaticParameters(Parameters):
    """Parameters that are given. round_trip(x): x as its code stands for it, by rules (2) and (1)."""

    def __init__(self, b: KernelBuilder, scale: Value, zero: Value | None, low: Value, high: Value) -> None:
        self.b, self.lanes = b, b.target.f32_lanes
        self.scale, self.low, self.high = (b.splat(value, self.lanes) for value in (scale, low, high))
        none = b.zero(vector(I32, self.lanes))
        self.zero = none if zero is None else b.target.round_to_i32(b, b.splat(zero, self.lanes))

    def round_trip(self, x: Value) -> Value:
        b = self.b
        code = b.target.round_to_i32(b, b.clamp(x / self.scale, self.low, self.high))
        return b.sitofp(code) * self.scale


@dataclass
class _Walk:
    """Emits the parts of a step.

    Attributes:
        mr, nv: a tile is mr rows by nv registers of units, for each gate.
        names: of the activations.
        gates: G, the gates of `inputs`.
        widest: see `Walk.sums`. Rows lie equally far apart for all products, since threads are not at the same one.
        has_lengths, clips: whether `Walk.lengths` is read, and whether gates are clamped.
        codes: "" of f32 weights; else what has a scale of its own, "row" or "tensor", or "static".
        pairs: whether products of codes are added in pairs, see `Target.pairwise_dot_is_exact`.
    """

    b: KernelBuilder
    walk: Walk
    given: Activations
    mr: int
    nv: int
    names: tuple[str, ...]
    gates: int
    widest: int
    has_lengths: bool
    clips: bool
    codes: str
    pairs: bool

    def share(self) -> tuple[Value, Value]:
        """The rows of this thread: the first one has all of them where they share a scale."""
        b = self.b
        if self.codes != "tensor":
            return b.share(self.walk.rows)
        return b.i64(0), b.select(b.thread == 0, self.walk.rows, b.i64(0))

    @property
    def lanes(self) -> int:
        return self.b.target.f32_lanes

    @property
    def is_static(self) -> bool:
        return self.codes == "static"

    def state_codes(self) -> _StaticParameters:
        """The static codes of h."""
        h = self.given.states
        return _StaticParameters(self.b, h.h, h.zero, h.low, h.high)

    def settle(self, h: Value) -> Value:
        """A new state as the next step reads it."""
        return self.state_codes().round_trip(h) if self.is_static else h

    def settle_cell(self, c: Value) -> Value:
        """A new cell state as the next step reads it."""
        b = self.b
        if not self.is_static:
            return c
        low, high = (b.const(F32, bound) for bound in (-(2.0**15), 2.0**15 - 1))
        return _StaticParameters(b, self.given.states.c, None, low, high).round_trip(c)

    def sum_of_products(self, x: Value, y: Value, z: Value) -> Value:
        """x * y + z: an fma, or, of static codes, two roundings."""
        return x * y + z if self.is_static else self.b.fma(x, y, z)

    def activate(self, index: int, x: Value, *, of_gate: bool = True) -> Value:
        """The activation at this index. of_gate: whether x is a gate, which may have to be clamped."""
        b = self.b
        if self.clips and of_gate:
            bound = b.splat(self.given.clip, self.lanes)
            x = clip(b, x, -bound, bound)
        if self.is_static:
            return STATIC_FUNCTIONS[self.names[index]](b, x)
        alpha, beta = (b.splat(values[index], self.lanes) for values in (self.given.alphas, self.given.betas))
        return ACTIVATIONS[self.names[index]](b, x, alpha, beta)

    def copy(self, x: Value, y: Value, count: Value, settle: Callable[[Value], Value] = lambda state: state) -> None:
        """Copy the rows of this thread, of `count` elements each, as settle(register) gives them."""
        b = self.b
        lo, hi = self.share()
        with b.loop(lo * count, hi * count, self.lanes) as loop:
            left = hi * count - loop.index
            state = b.load_prefix(b.target.f32_vector(), x, loop.index * 4, left)
            b.store_prefix(settle(state), y, loop.index * 4, left)

    def steps(self, outputs: Value, body: Callable[[_Step], None]) -> None:
        """Emit body(step) for each step, between the first state and the last one. outputs: R."""
        b, walk = self.b, self.walk
        size = walk.rows * outputs * 4
        self.copy(walk.h0, walk.states, outputs, self.settle)
        with b.loop(0, walk.steps) as loop:
            t, odd = walk.first + loop.index * walk.stride, loop.index & 1
            states = walk.states + odd * size, walk.states + (b.const(I64, 1) - odd) * size
            body(_Step(self, t, outputs, *states))
        self.copy(walk.states + (walk.steps & 1) * size, walk.h, outputs)


@dataclass
class _Step:
    """One step. t: its index in x and y; outputs: R; before, after: f32 [rows, R], the states."""

    over: _Walk
    t: Value
    outputs: Value
    before: Value
    after: Value

    def product(
        self,
        x: Value,
        depth: Value,
        weights: Weights,
        gates: int,
        units: Value,
        finish: Callable[[_Place], None],
        *,
        projects: bool = False,
    ) -> None:
        """Emit the products of this thread's rows of x, [rows, depth], with weights of `units` units, and
        finish(place) for each register of units of each row. projects: the weights are f32 in any case."""
        b, over = self.over.b, self.over
        nr = over.nv * over.lanes
        weight_bytes, row_bytes = nr * gates * 4, nr * over.widest * 4
        lo, hi = over.share()
        of_codes = bool(over.codes) and not projects
        if of_codes:
            self._quantize(x, depth, lo, hi)
        padded = (depth + 3) // 4 * 4
        with b.loop(0, (units + (nr - 1)) // nr) as panel:
            at = panel.index * weight_bytes
            if of_codes:
                data = weights.data + panel.index * (padded * (nr * gates))
            else:
                data = weights.data + panel.index * (depth * weight_bytes)

            def tiles(count: int) -> None:
                with b.loop(lo, hi, count) as loop:
                    first = loop.index if count == 1 else b.smin(loop.index, hi - count)
                    if of_codes:
                        self._sums_of_codes(padded, data, weights, at, first, gates, count)
                    else:
                        bias = weights.bias + at
                        self._sums(x + first * (depth * 4), depth, data, bias, first * row_bytes, gates, count)
                    with (
                        b.loop(loop.index, b.smin(loop.index + count, hi)) as row,
                        b.loop(0, b.smin(units - panel.index * nr, nr), over.lanes) as register,
                    ):
                        unit = panel.index * nr + register.index
                        finish(_Place(self, row.index, unit, units - unit, row.index * row_bytes + register.index * 4))

            with b.if_(hi - lo >= over.mr) as wide:
                tiles(over.mr)
            with wide.else_():
                tiles(1)

    def _sums(self, x: Value, depth: Value, data: Value, bias: Value, sums: Value, gates: int, count: int) -> None:
        """The sums of one tile of `count` rows, stored at `sums`."""
        b, over = self.over.b, self.over
        registers, lanes, floats = over.nv * gates, over.lanes, b.target.f32_vector()
        rows = b.rows(x, depth * 4, count)
        start = [b.load(floats, bias, disp=j * lanes * 4) for j in range(registers)]
        with b.loop(0, depth, carried=[[start] * count, rows.pointers, data]) as loop:
            acc, pointers, here = loop.carried
            at = rows.at(pointers)
            columns = [b.load(floats, here, disp=j * lanes * 4) for j in range(registers)]
            acc = [_add_products(b, acc[r], b.splat(b.load(F32, *at[r]), lanes), columns) for r in range(count)]
            loop.yield_([acc, at.moved(4), here + registers * lanes * 4])
        for r, row in enumerate(loop.results[0]):
            self._store(row, sums, r)

    def _store(self, row: list[Value], sums: Value, r: int) -> None:
        """Store the sums of row r of a tile; sums: the byte offset of row 0."""
        over, lanes = self.over, self.over.lanes
        for j, value in enumerate(row):
            over.b.store(value, over.walk.sums, sums, disp=(r * over.widest * over.nv + j) * lanes * 4)

    def _quantize(self, x: Value, depth: Value, lo: Value, hi: Value) -> None:
        """Write the codes and the records of this thread's rows of x, f32 [rows, depth]."""
        b, over, walk = self.over.b, self.over, self.over.walk
        if over.is_static:
            given = over.state_codes()
            with b.loop(lo, hi) as row:
                at = row.index * ((depth + 3) // 4 * 4)
                given.quantize(x + row.index * (depth * 4), walk.codes + at, b.i64(0), depth)
            return
        qmax = over.given.qmax
        bounds = CodeBounds(low=b.const(F32, 0.0), high=qmax, steps=qmax)
        padded, none = (depth + 3) // 4 * 4, b.i64(0)

        def write(row: Value, parameters: Parameters) -> None:
            b.store(b.extract(parameters.scale, 0), walk.records, row * RECORD_BYTES)
            b.store(b.extract(parameters.zero, 0), walk.records, row * RECORD_BYTES, disp=4)
            parameters.quantize(x + row * (depth * 4), walk.codes + row * padded, none, depth)

        if over.codes == "tensor":
            with b.if_(lo < hi):
                parameters = Parameters(b, range_of_row(b, x, none, hi * depth), bounds)
                with b.loop(lo, hi) as row:
                    write(row.index, parameters)
            return
        with b.loop(lo, hi) as row:
            found = range_of_row(b, x + row.index * (depth * 4), none, depth)
            write(row.index, Parameters(b, found, bounds))

    def _sums_of_codes(
        self, depth: Value, data: Value, weights: Weights, at: Value, first: Value, gates: int, count: int
    ) -> None:
        """Like `_sums` of rows of codes from `first` on. depth: a multiple of 4; at: the byte offset of the panel's
        bias."""
        b, over, target = self.over.b, self.over, self.over.b.target
        registers, lanes, size = over.nv * gates, over.lanes, target.vector_bytes
        dot4 = target.dot4_pairwise if over.pairs else target.dot4
        rows = b.rows(over.walk.codes + first * depth, depth, count)
        start = [b.zero(vector(I32, lanes))] * registers
        with b.loop(0, depth, 4, carried=[[start] * count, rows.pointers, data]) as loop:
            acc, pointers, here = loop.carried
            places = rows.at(pointers)
            elements = [
                target.dot4_activations(b, target.broadcast4(b, *places[r]), pairwise=over.pairs) for r in range(count)
            ]
            found: list[list[Value]] = [[] for _ in range(count)]
            for j in range(registers):  # one register of weights at a time, or sums would be spilled
                loaded = b.load(vector(I8, size), here, disp=j * size)
                column = target.dot4_weights(b, loaded, pairwise=over.pairs)
                for r in range(count):
                    found[r].append(dot4(b, acc[r][j], elements[r], column))
            loop.yield_([found, places.moved(4), here + registers * size])
        row_bytes = over.nv * lanes * over.widest * 4
        given = over.state_codes() if over.is_static else None
        for r, row in enumerate(loop.results[0]):
            if given is not None:
                scale, zero = given.scale, given.zero - target.dot4_offset
            else:
                record = (first + r) * RECORD_BYTES
                scale = b.splat(b.load(F32, over.walk.records, record), lanes)
                zero = b.splat(b.load(I32, over.walk.records, record, disp=4) - target.dot4_offset, lanes)
            reals = []
            for j, total in enumerate(row):
                of_row, scales, bias = (
                    b.load(vector(kind, lanes), pointer, at, disp=j * lanes * 4)
                    for kind, pointer in ((I32, weights.sums), (F32, weights.scales), (F32, weights.bias))
                )
                reals.append(b.sitofp(total - zero * of_row) * (scale * scales) + bias)
            self._store(reals, first * row_bytes, r)

    def write(self, place: _Place, h: Value, outputs: Value) -> None:
        """Write the new state of a row. Past the row's length its state stays, and y is 0."""
        b, over, walk = self.over.b, self.over, self.over.walk
        y = h = over.settle(h)
        if over.has_lengths:
            active = place.is_active()
            old = place.load(self.before, outputs)
            h, y = b.select(active, h, old), b.select(active, h, b.zero(h.type))
        place.store(h, self.after, outputs)
        place.store(y, walk.y + self.t * walk.rows * (outputs * 4), outputs)


def _add_products(b: KernelBuilder, acc: list[Value], x: Value, columns: list[Value]) -> list[Value]:
    return [b.fma(x, column, total) for column, total in zip(columns, acc)]


@dataclass
class _Place:
    """One register of units of one row. left: units from `unit` on; sums: its byte offset in `Walk.sums`."""

    step: _Step
    row: Value
    unit: Value
    left: Value
    sums: Value

    def load(self, x: Value, size: Value) -> Value:
        """The units of x, f32 [rows, size]."""
        b = self.step.over.b
        return b.load_prefix(b.target.f32_vector(), x, (self.row * size + self.unit) * 4, self.left)

    def store(self, value: Value, y: Value, size: Value) -> None:
        self.step.over.b.store_prefix(value, y, (self.row * size + self.unit) * 4, self.left)

    def parameter(self, x: Value, index: int) -> Value:
        """The units of row `index` of x, f32 [..., H]."""
        b, units = self.step.over.b, self.step.over.walk.units
        return b.load_prefix(b.target.f32_vector(), x, (units * index + self.unit) * 4, self.left)

    def sum(self, gate: int) -> Value:
        """The sums of a gate of the product that was just computed."""
        over = self.step.over
        return over.b.load(over.b.target.f32_vector(), over.walk.sums, self.sums, disp=gate * over.nv * over.lanes * 4)

    def input(self, gate: int) -> Value:
        """The product of x for a gate."""
        over, walk = self.step.over, self.step.over.walk
        row = (self.step.t * walk.rows + self.row) * over.gates + gate
        return over.b.load_prefix(
            over.b.target.f32_vector(), walk.inputs, (row * walk.units + self.unit) * 4, self.left
        )

    def is_active(self) -> Value:
        """Whether the step lies within the row's length."""
        b = self.step.over.b
        return self.step.t < b.load(I64, self.step.over.walk.lengths, self.row * 8)


@kernel(activations_alphas=3, activations_betas=3)
def lstm(
    b: KernelBuilder,
    a: Lstm,
    *,
    mr: int,
    nv: int,
    functions: tuple[str, str, str] = ("sigmoid", "tanh", "tanh"),
    lengths: bool = False,
    peephole: bool = False,
    projects: bool = False,
    input_forget: bool = False,
    clips: bool = False,
    codes: str = "",
    pairs: bool = False,
) -> None:
    """The steps of an lstm: see `qcompiler.ops.recurrent.Lstm`."""
    walk = _Walk(b, a.walk, a.activations, mr, nv, functions, 4, 4, lengths, clips, codes, pairs)
    units = a.walk.units
    walk.copy(a.c0, a.c, units, walk.settle_cell)

    def cell(place: _Place) -> None:
        i, f, g, o = (place.input(gate) + place.sum(gate) for gate in range(4))
        c = place.load(a.c, units)
        if peephole:
            i, f = i + place.parameter(a.peephole, 0) * c, f + place.parameter(a.peephole, 1) * c
        i = walk.activate(0, i)
        f = b.const(i.type, 1.0) - i if input_forget else walk.activate(0, f)
        new = walk.settle_cell(walk.sum_of_products(f, c, i * walk.activate(1, g)))
        if peephole:
            o = o + place.parameter(a.peephole, 2) * new
        h = walk.activate(0, o) * walk.activate(2, new, of_gate=False)
        place.store(b.select(place.is_active(), new, c) if lengths else new, a.c, units)
        if projects:
            place.store(h, a.hidden, units)
        else:
            place.step.write(place, h, a.outputs)

    def write_projected(at: _Step) -> Callable[[_Place], None]:
        return lambda place: at.write(place, place.sum(0), a.outputs)

    def step(at: _Step) -> None:
        at.product(at.before, a.outputs, a.weights, 4, units, cell)
        if projects:
            at.product(a.hidden, units, a.projection, 1, a.outputs, write_projected(at), projects=True)

    walk.steps(a.outputs, step)


@kernel(activations_alphas=2, activations_betas=2)
def gru(
    b: KernelBuilder,
    a: Gru,
    *,
    mr: int,
    nv: int,
    functions: tuple[str, str] = ("sigmoid", "tanh"),
    lengths: bool = False,
    linear_before_reset: bool = True,
    clips: bool = False,
    codes: str = "",
    pairs: bool = False,
) -> None:
    """The steps of a gru: see `qcompiler.ops.recurrent.Gru`."""
    walk = _Walk(
        b, a.walk, a.activations, mr, nv, functions, 3, 3 if linear_before_reset else 2, lengths, clips, codes, pairs
    )
    units = a.walk.units

    def write(place: _Place, z: Value, n: Value) -> None:
        h = place.load(place.step.before, units)
        place.step.write(place, walk.sum_of_products(z, h - n, n), units)

    def gates(place: _Place) -> tuple[Value, Value]:
        r, z = (walk.activate(0, place.input(gate) + place.sum(gate)) for gate in range(2))
        return r, z

    def cell(place: _Place) -> None:
        r, z = gates(place)
        write(place, z, walk.activate(1, walk.sum_of_products(r, place.sum(2), place.input(2))))

    def reset(place: _Place) -> None:
        r, z = gates(place)
        place.store(z, a.updates, units)
        place.store(r * place.load(place.step.before, units), a.resets, units)

    def candidate(place: _Place) -> None:
        write(place, place.load(a.updates, units), walk.activate(1, place.input(2) + place.sum(0)))

    def step(at: _Step) -> None:
        if linear_before_reset:
            at.product(at.before, units, a.weights, 3, units, cell)
            return
        at.product(at.before, units, a.weights, 2, units, reset)
        at.product(a.resets, units, a.candidate, 1, units, candidate)

    walk.steps(units, step)


@kernel(activations_alphas=1, activations_betas=1)
def rnn(
    b: KernelBuilder,
    a: Rnn,
    *,
    mr: int,
    nv: int,
    functions: tuple[str] = ("tanh",),
    lengths: bool = False,
    clips: bool = False,
    codes: str = "",
    pairs: bool = False,
) -> None:
    """The steps of an rnn: see `qcompiler.ops.recurrent.Rnn`."""
    walk = _Walk(b, a.walk, a.activations, mr, nv, functions, 1, 1, lengths, clips, codes, pairs)
    units = a.walk.units

    def cell(place: _Place) -> None:
        place.step.write(place, walk.activate(0, place.input(0) + place.sum(0)), units)

    def step(at: _Step) -> None:
        at.product(at.before, units, a.weights, 1, units, cell)

    walk.steps(units, step)
