"""`check_op`: tries an op's declaration on its samples, and its kernels on every target that this machine can run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.arguments import check_type, described
from qcompiler.errors import ArgumentError, QCompilerError, VerifyError
from qcompiler.interpreter import run
from qcompiler.ir import AttrValue, Graph, Value
from qcompiler.opdef import Op, OpDef, QuantKind, Role, Sample, Trait, opdef
from qcompiler.ops.pool import MaxPool
from qcompiler.own_ops import check_results
from qcompiler.passmanager import PassManager
from qcompiler.quantization import qmath
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import DType, QuantParams, TensorType, type_of

if TYPE_CHECKING:
    from qcompiler.backends.lower import Program
    from qcompiler.backends.target import Target

FLOAT_BOUND = 64 * 2.0**-24
"""How far a float kernel may lie from the reference, relative to the largest result."""
MOST_STEPS = 0.5 + 2.0**-7
"""How far codes may lie from the real function of the same operands, in units of the result's scale: one rounding, and
the roundings of f32 before it."""
_THREADS = (1, 3)
_ACTIVATIONS = QuantSpec()
_WEIGHTS = QuantSpec(DType.I8, -127, 127, symmetric=True)


@dataclass
class OpCheck:
    """What `check_op` tried, as a table.

    Attributes:
        op: the op's name.
        samples: how many samples it has.
        ran: (target, "f32" or "codes") -> how the kernels ran: "native", "emulated", "interpreted" where neither is
            possible, or "numpy: " and the reason why no kernel serves a sample.
        steps: the largest distance of codes from the real function, in units of the result's scale; None if the op has
            no meaning on codes.
    """

    op: str
    samples: int
    ran: dict[tuple[str, str], str] = field(default_factory=dict)
    steps: float | None = None

    @property
    def has_kernels(self) -> bool:
        """Whether every sample has a kernel on every target."""
        return not any(how.startswith("numpy") for how in self.ran.values())

    def __str__(self) -> str:
        lines = [f"{self.op}: {self.samples} samples"]
        if self.steps is not None:
            lines[0] += f", codes within {self.steps:.3f} of the result's scale"
        width = max((len(target) for target, _ in self.ran), default=0)
        lines += [f"  {target:{width}}  {kind:5}  {how}" for (target, kind), how in self.ran.items()]
        return "\n".join(lines)


def check_op(op: OpDef | str, *, targets: Sequence[str] | None = None, most_steps: float = MOST_STEPS) -> OpCheck:
    """Check an op on its samples: `infer` against `reference`, the meaning on codes against the real one, and compiled
    programs, with 1 and 3 threads, against the interpreter; operands of rank 3 to 5 also where they lie channels last.

    Codes have to be equal to the bit. Float results have to have the same bits on all targets, and lie within 64
    roundings of f32 of the reference, relative to the largest value.

    Args:
        op: its class, or its name.
        targets: names of targets; by default all of them. Where this machine cannot run one, its kernels are
            interpreted. Kernels of your own are interpreted first on every target, which finds accesses outside of
            their buffers.
        most_steps: how far codes may lie from the real function, in units of the result's scale.

    Raises:
        ArgumentError: `op` is no op.
        VerifyError: something disagrees, or the op has no samples, or takes codes alone.
        LoweringError: a kernel is not legal on a target, or leaves its buffers.
    """
    found = opdef(op) if isinstance(op, str) else op
    if not (isinstance(found, type) and issubclass(found, Op) and found.name):
        raise ArgumentError("argument 'op'", expected="the class of an op, or its name", got=described(op))
    check_type("most_steps", most_steps, (int, float), "a number")
    machines = _machines(targets)
    samples = found.samples()
    if not samples:
        raise VerifyError(f"{found.name} has no samples to check", hint="add a static method samples()")
    if found.always_codes:
        raise VerifyError(f"{found.name} takes codes alone: there is no real meaning of its samples to compare with")
    result = OpCheck(found.name, len(samples))
    on_codes = found.has_integer_meaning()
    for number, sample in enumerate(samples):
        arrays = _arrays(sample, number)
        _check_declaration(found, arrays, sample)
        kinds = ["f32"]
        if on_codes and any(array is not None and array.dtype == np.float32 for array in arrays):
            kinds.append("codes")
            _check_codes(result, found, *_one_node(found, arrays, sample, quantized=True), most_steps)
        for kind in kinds:
            graph, inputs = _one_node(found, arrays, sample, quantized=kind == "codes")
            _compare_targets(result, machines, kind, graph, inputs)
            if _lies_channels_last(graph):
                _compare_targets(result, machines, kind, graph, inputs, " behind a pool, which lie channels last")
    return result


def _machines(targets: Sequence[str] | None) -> list[Target]:
    from qcompiler.backends.target import known_targets, parse_target

    if targets is not None:
        check_type("targets", targets, (list, tuple), "a list of names of targets")
        for name in targets:
            check_type("targets", name, str, "a list of names of targets")
    return [parse_target(name) for name in (known_targets() if targets is None else targets)]


def _arrays(sample: Sample, seed: int) -> list[np.ndarray | None]:
    """Random data for the operands of a sample."""
    rng = np.random.default_rng(seed)

    def array(operand: Any) -> np.ndarray | None:
        if operand is None or isinstance(operand, np.ndarray):
            return operand
        if operand.dtype.is_float:
            return rng.uniform(sample.low, sample.high, operand.sizes).astype(operand.dtype.numpy)
        least, most = (0, 1) if operand.dtype is DType.BOOL else (operand.dtype.min, operand.dtype.max)
        return rng.integers(least, most, operand.sizes, endpoint=True).astype(operand.dtype.numpy)

    return [array(operand) for operand in sample.operands]


def _check_declaration(op: OpDef, arrays: Sequence[np.ndarray | None], sample: Sample) -> None:
    """`infer` says what `reference` gives."""
    attrs = op.complete_attrs(sample.attrs)
    types = op.infer_types([None if array is None else type_of(array) for array in arrays], attrs)
    check_results(op, "reference", op.run_reference(arrays, attrs), types)


# -- graphs of one node


def _one_node(
    op: OpDef, arrays: Sequence[np.ndarray | None], sample: Sample, *, quantized: bool = False
) -> tuple[Graph, list[np.ndarray]]:
    """A graph of one node, and arrays for its inputs: activations and indices. Other operands are constants."""
    graph, inputs, operands = Graph("check"), [], list[Value | None]()
    graph.stage = "integer"  # where float ops may stand too
    for position, array in enumerate(arrays):
        if array is None:
            operands.append(None)
            continue
        role = op.spec(position).role
        if quantized and array.dtype == np.float32:
            array, type = _as_codes(op, array, role, operands)
        else:
            type = type_of(array)
        if role in (Role.ACTIVATION, Role.INDEX):
            operands.append(graph.add_input(f"{op.spec(position).name}{position}", type))
            inputs.append(np.asarray(array))
        else:
            operands.append(graph.add_const(f"c{position}", array, type))
    attrs = op.complete_attrs(sample.attrs)
    types = op.infer_types([None if value is None else value.type for value in operands], attrs)
    if quantized:
        value = op.run_reference(arrays, attrs)[0]
        types = tuple(type.quantized(DType.U8, _result_params(op, value, operands)) for type in types)
    node = graph.create(op.name, operands, attrs, types=types)
    graph.set_outputs(node.results)
    return graph, inputs


def _lies_channels_last(graph: Graph) -> bool:
    """Put a pool of one pixel, which changes nothing, behind each input that may lie channels last; whether there is
    one."""
    [node] = graph.nodes
    found = [value for value in graph.inputs if 3 <= value.type.rank <= 5 and value.type.dtype in (DType.F32, DType.U8)]
    for value in found:
        ones = (1,) * (value.type.rank - 2)
        attrs: dict[str, AttrValue] = {
            "kernel": ones,
            "stride": ones,
            "padding": ((0, 0),) * len(ones),
            "dilation": ones,
        }
        made = graph.create(MaxPool.name, [value], attrs, types=value.type, before=node)
        for index, operand in enumerate(node.operands):
            if operand is value:
                graph.set_operand(node, index, made.result)
    return bool(found)


def _as_codes(
    op: OpDef, array: np.ndarray, role: Role, operands: Sequence[Value | None]
) -> tuple[np.ndarray, TensorType]:
    """An operand as codes: activations u8, weights i8 per channel, biases i32. Parameters stay real."""
    if role is Role.ACTIVATION:
        first = next((value for value in operands if value is not None and value.type.is_quantized), None)
        shares = op.quant.kind is QuantKind.SHARES_INPUT and first is not None
        params = first.type.params if shares and first is not None else _range(array)
        dtype = DType.U8
    elif role is Role.WEIGHT:
        axis = op.quant.weight_axis
        others = tuple(i for i in range(array.ndim) if i != axis)
        params, dtype = choose_qparams(array.min(axis=others), array.max(axis=others), _WEIGHTS, axis), DType.I8
    elif role is Role.BIAS:
        x, weight = (value.type.params for value in operands if value is not None and value.type.is_quantized)
        scale = np.broadcast_to(qmath.multiplier(x.scales, weight.scales), array.shape).tolist()
        params, dtype = QuantParams.per_channel(scale, 0, 0, DType.I32), DType.I32
    else:
        return array, type_of(array)
    return qmath.quantize(array, params, dtype), TensorType(dtype, array.shape, params)


def _range(value: np.ndarray) -> QuantParams:
    finite = value[np.isfinite(value)]
    low, high = (finite.min(), finite.max()) if finite.size else (-1.0, 1.0)
    return choose_qparams(low, high, _ACTIVATIONS)


def _result_params(op: OpDef, value: np.ndarray, operands: Sequence[Value | None]) -> QuantParams:
    if op.quant.kind is QuantKind.FIXED:
        return op.quant.fixed_params()
    if op.quant.kind is QuantKind.SHARES_INPUT or (op.integer is None and Trait.MOVES_DATA in op.traits):
        return next(value.type.params for value in operands if value is not None and value.type.is_quantized)
    return _range(value)


# -- comparisons


def _check_codes(result: OpCheck, op: OpDef, graph: Graph, inputs: list[np.ndarray], most: float) -> None:
    """The codes are the real function of the numbers that the operands' codes stand for, rounded once."""
    [node] = graph.nodes
    codes = run(graph, inputs)[0]
    by_name = {value.name: array for value, array in zip(graph.inputs, inputs)}
    by_name |= {const.name: const.data for const in graph.consts.values()}
    real = [None if value is None else _real(value, by_name[value.name]) for value in node.operands]
    exact = np.asarray(op.run_reference(real, node.attrs)[0], np.float64)
    quant = node.result.type.params
    place = np.clip(exact / np.float64(quant.scale[0]) + quant.zero_point[0], quant.qmin, quant.qmax)
    steps = float(np.abs(codes - place)[np.isfinite(place)].max(initial=0))
    result.steps = max(steps, result.steps or 0.0)
    if steps > most:
        raise VerifyError(
            f"{op.name} on codes is not its real function, rounded",
            where=node.describe(),
            expected=f"at most {most:.4g} of the result's scale away",
            got=f"{steps:.4g}",
        )


def _real(value: Value, array: np.ndarray) -> np.ndarray:
    """An operand in float64."""
    if not value.type.is_quantized:
        return array
    scale, zero_point = value.type.params.along(array.ndim)
    return (array.astype(np.float64) - zero_point) * scale.astype(np.float64)


def _compare_targets(
    result: OpCheck,
    machines: Sequence[Target],
    kind: str,
    graph: Graph,
    inputs: list[np.ndarray],
    placed: str = "",
) -> None:
    from qcompiler.backends.lower import lower_graph
    from qcompiler.backends.runtime.interpreting import InterpretedProgram
    from qcompiler.passes.pipelines import lower_pipeline

    expected = run(graph, inputs)
    lowered = PassManager(lower_pipeline()).run(graph)
    first: tuple[str, list[np.ndarray]] | None = None
    for target in machines:
        key, how = (target.name, kind), target.execution()
        checked = InterpretedProgram(lowered, target)
        programs: list[tuple[str, Program]] = []
        if how == "none" or _has_own_kernels(checked):
            programs.append(("interpreted", checked))
        if how != "none":
            programs.append((how, lower_graph(graph, target)))
        if not result.ran.get(key, "").startswith("numpy"):
            result.ran[key] = next((f"numpy: {reason}" for reason in checked.python_nodes.values()), programs[-1][0])
        for made, program in programs:
            for threads in _THREADS[-1:] if made == "interpreted" else _THREADS:
                where = f"{target.name}, {kind}, {threads} threads, {made}{placed and ', operands' + placed}"
                got = _run(program, inputs, threads, where)
                _compare(graph, expected, got, where)
                first = first or (where, got)
                for value, one, other in zip(graph.outputs, first[1], got):
                    if not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
                        raise _differ(value, one, other, f"{where} and {first[0]}")


def _has_own_kernels(program: Program) -> bool:
    """Whether a program calls kernels from outside of qcompiler."""
    return any(key.is_local for key in program.image({}).kernels)


def _run(program: Program, inputs: list[np.ndarray], threads: int, where: str) -> list[np.ndarray]:
    try:
        return program.bind({}).run(inputs, threads=threads)
    except QCompilerError as error:  # of the interpreter of kernels: an access outside of a buffer
        raise error.located(where) from None


def _compare(graph: Graph, expected: Sequence[np.ndarray], got: Sequence[np.ndarray], where: str) -> None:
    for value, want, have in zip(graph.outputs, expected, got):
        if want.dtype.kind != "f":
            if not np.array_equal(want, have):
                raise _differ(value, want, have, f"{where}, and the interpreter")
            continue
        odd = ~np.isfinite(want)
        scale = float(np.abs(want[~odd]).max(initial=2.0**-100))
        apart = np.abs(want[~odd].astype(np.float64) - have[~odd])
        close = bool((apart <= FLOAT_BOUND * scale).all())
        if not close or not np.array_equal(want[odd], have[odd], equal_nan=True):
            raise _differ(value, want, have, f"{where}, and the interpreter")


def _differ(value: Value, want: np.ndarray, have: np.ndarray, where: str) -> VerifyError:
    same = (want == have) | ((want != want) & (have != have))
    at = tuple(int(i) for i in np.argwhere(~same)[0])
    node = value.producer
    return VerifyError(
        "a compiled program and the meaning of the op differ",
        where=f"{where}\n            {node.describe() if node is not None else value.name}",
        expected=f"{want[at]} at {list(at)}",
        got=f"{have[at]}; {int((~same).sum())} of {want.size} elements differ",
    )
