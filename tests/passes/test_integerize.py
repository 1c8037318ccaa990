"""integerize makes integer ops of dq-op-q and tables of chains; what stays float, and why."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.notes import KeptFloat
from qcompiler.passes.integerize import Integerize
from qcompiler.quantization.qconfig import get_qconfig
from qcompiler.report import NodeKind, node_kind
from tests.passes.pass_texts import apply, check_text, load, same_bits, within_one_code

Q, P = "{scale=0.0625, zero_point=128}", "{scale=0.5, zero_point=3}"
X = f"%x: u8[2,8]{Q}"


def test_a_chain_of_unary_ops_is_one_table() -> None:
    graph = load(
        X,
        """
        const @two : f32[]
        %d = dequantize(%x) : f32[2,8]
        %a = tanh(%d) : f32[2,8] loc("m.py":1) origin("a":"Tanh")
        %b = sub(@two, %a) : f32[2,8]
        %c = exp(%b) : f32[2,8] loc("m.py":3) origin("c":"exp")
        %q = quantize(%c) : u8[2,8]{scale=0.05}
        return %q""",
        "qdq",
        two=2.0,
    )
    after = apply(Integerize(), graph)
    check_text(
        after,
        X,
        """
        const @c.table : u8[256]
        %c = lookup(%x, @c.table) : u8[2,8]{scale=0.05} loc("m.py":3) origin("a":"Tanh", "c":"exp")
        return %c as "q"
        """,
    )
    every = np.arange(256, dtype=np.uint8)
    real = (every.astype(np.float64) - 128) * 0.0625
    assert np.array_equal(
        after.consts["c.table"].data, np.clip(np.rint(np.exp(2 - np.tanh(real)) / np.float32(0.05)), 0, 255)
    )
    within_one_code(graph, after)


def test_a_chain_read_in_the_middle_is_two_tables() -> None:
    graph = load(
        X,
        """
        %d = dequantize(%x) : f32[2,8]
        %a = tanh(%d) : f32[2,8]
        %a.q = quantize(%a) : u8[2,8]{scale=0.0078125, zero_point=128}
        %a.dq = dequantize(%a.q) : f32[2,8]
        %b = exp(%a.dq) : f32[2,8]
        %q = quantize(%b) : u8[2,8]{scale=0.0125}
        return %q, %a.q""",
        "qdq",
    )
    after = apply(Integerize(), graph)
    assert [node.op for node in after.nodes] == ["lookup", "lookup"]
    within_one_code(graph, after)


OPS = {
    "add": ("%y = add(%d, %e) : f32[2,8]", "f32[2,8]"),
    "residual": ("%y = linear(%d, %w.dq, none, %e) : f32[2,8]", "f32[2,8]"),
    "concat": ("%y = concat(%d, %d) {axis=0} : f32[4,8]", "f32[4,8]"),
    "softmax": ("%y = softmax(%d) {axis=1} : f32[2,8]", "f32[2,8]"),
    "mean": ("%y = mean(%d) {axes=(1,)} : f32[2]", "f32[2]"),
}


@pytest.mark.parametrize("case", [name for name in OPS])
def test_ops(case: str) -> None:
    line, type = OPS[case]
    weight = "const @w : i8[8,8]{scale=0.01, qmin=-127, qmax=127}\n" if "%w" in line else ""
    feed = "%w.dq = dequantize(@w) : f32[8,8]\n" if "%w" in line else ""
    out = Q if case == "concat" else "{scale=0.00390625}" if case == "softmax" else P
    graph = load(
        f"{X}, %z: u8[2,8]{Q}",
        f"""{weight}%d = dequantize(%x) : f32[2,8]
%e = dequantize(%z) : f32[2,8]
{feed}{line}
%q = quantize(%y) : u8{type.removeprefix("f32")}{out}
return %q""",
        "qdq",
    )
    after = apply(Integerize(), graph)
    assert [node.op for node in after.nodes] == [{"residual": "linear"}.get(case, case)]
    within_one_code(graph, after)


def float_note(graph: Graph, name: str) -> str:
    return next(note.reason for note in graph.notes if isinstance(note, KeptFloat) and note.node == name)


LEFT_FLOAT = {
    "a float operand": (
        f"%y = add(%d, %f) : f32[2,8]\n%q = quantize(%y) : u8[2,8]{P}\nreturn %q",
        "its operand y is float",
    ),
    "another reader": (
        f"%y = add(%d, %d) : f32[2,8]\n%q = quantize(%y) : u8[2,8]{P}\nreturn %q, %y",
        "its float result has other readers",
    ),
    "no meaning": (
        f"%y = prod(%d) {{axes=(1,), keepdims=true}} : f32[2,1]\n%q = quantize(%y) : u8[2,1]{P}\nreturn %q",
        "prod has no integer meaning",
    ),
    "other parameters": (
        f"%y = transpose(%d) {{perm=(1, 0)}} : f32[8,2]\n%q = quantize(%y) : u8[8,2]{P}\nreturn %q",
        None,
    ),
    "read as float": ("%y = add(%d, %d) : f32[2,8]\nreturn %y", "its float result has other readers"),
}


@pytest.mark.parametrize("case", LEFT_FLOAT)
def test_left_float(case: str) -> None:
    body, reason = LEFT_FLOAT[case]
    graph = load(f"{X}, %f: f32[2,8]", f"%d = dequantize(%x) : f32[2,8]\n{body}", "qdq")
    after = apply(Integerize(), graph)
    assert not next(node for node in after.nodes if node.name == "y").result.type.is_quantized
    if reason is not None:
        assert float_note(after, "y") == reason
        if "%q" in body:
            assert any(refusal.reason == reason for refusal in Integerize().explain(after))
    same_bits(graph, after)


def test_what_could_overflow_stays_float_with_float_weights() -> None:
    depth = 70_000
    graph = load(
        f"%x: u8[1,{depth}]{Q}",
        f"""
        const @w : i8[1,{depth}]{{scale=0.01, qmin=-127, qmax=127}}
        const @b : i32[1]{{scale=0.000625}}
        %x.dq = dequantize(%x) : f32[1,{depth}]
        %w.dq = dequantize(@w) : f32[1,{depth}]
        %b.dq = dequantize(@b) : f32[1]
        %y = linear(%x.dq, %w.dq, %b.dq) : f32[1,1]
        %q = quantize(%y) : u8[1,1]{{scale=512.0, zero_point=128}}
        return %q""",
        "qdq",
        w=np.full((1, depth), 127),
    )
    after = apply(Integerize(), graph)
    assert (
        float_note(after, "y")
        == f"its i32 accumulator could reach {depth * 127 * 255 + abs(int(graph.consts['b'].data[0]))}"
    )
    weight = next(node for node in after.nodes if node.op == "linear").operands[1]
    assert weight.is_const and weight.type.dtype.is_float
    same_bits(graph, after)
    short = load(
        f"%x: u8[1,8]{Q}",
        f"""
        const @w : i8[1,8]{{scale=0.01, qmin=-127, qmax=127}}
        %x.dq = dequantize(%x) : f32[1,8]
        %w.dq = dequantize(@w) : f32[1,8]
        %y = linear(%x.dq, %w.dq) : f32[1,1]
        %q = quantize(%y) : u8[1,1]{P}
        return %q""",
        "qdq",
        w=np.full((1, 8), 127),
    )
    assert apply(Integerize(), short).notes == []


def test_notes_of_nodes_that_became_integer_go() -> None:
    graph = load(
        X,
        f"""
        note "float: %t = transpose: its operand is float"
        note "guard: B > 1"
        %d = dequantize(%x) : f32[2,8]
        %t = transpose(%d) {{perm=(1, 0)}} : f32[8,2]
        %q = quantize(%t) : u8[8,2]{Q}
        return %q""",
        "qdq",
    )
    assert [note.text for note in apply(Integerize(), graph).notes] == ["guard: B > 1"]


# -- biases: an i32 with the scale of the products, or a float layer and its reason

W4 = "{axis=0, scale=(0.5, 0.25, 1.0, 2.0)}"
PRODUCTS = [0.03125, 0.015625, 0.0625, 0.125]
"""The scales of the products: 0.0625, the scale of x, times those of W4."""
BESIDE = [float(np.nextafter(np.float32(s), np.float32(9 if i % 2 else 0))) for i, s in enumerate(PRODUCTS)]


def layer(bias: str, weight: str = f"i8[4,8]{W4}", x: str = f"u8[2,8]{Q}", out: str = f"u8[2,4]{P}", **data) -> Graph:
    """A linear layer between conversions. bias: the type of the constant @b."""
    real = "@b" if bias.startswith("f32") else "%b.dq"
    feed = "" if real == "@b" else "%b.dq = dequantize(@b) : f32[4]"
    body = f"""
    const @w : {weight}
    const @b : {bias}
    %x.dq = dequantize(%x) : f32[2,8]
    %w.dq = dequantize(@w) : f32[4,8]
    {feed}
    %y = linear(%x.dq, %w.dq, {real}) : f32[2,4]
    %q = quantize(%y) : {out}
    return %q"""
    return load(f"%x: {x}", body, "qdq", **data)


def scales(*values: float) -> str:
    return ", ".join(repr(value) for value in values)


KEPT_CODES = {
    "the scale of the products": f"i32[4]{{axis=0, scale=({scales(*PRODUCTS)})}}",
    "one unit in the last place beside it": f"i32[4]{{axis=0, scale=({scales(*BESIDE)})}}",
    "two roundings each beside it": f"i32[4]{{axis=0, scale=({scales(*(s * (1 + 2.0**-22) for s in PRODUCTS))})}}",
}


@pytest.mark.parametrize("case", KEPT_CODES)
def test_a_bias_keeps_its_codes_under_another_rounding_of_its_scale(case: str) -> None:
    after = apply(Integerize(), layer(KEPT_CODES[case], b=[1, -7, 100, -3]))
    [linear] = after.node_list
    assert linear.op == "linear" and linear.operands[2].data.tolist() == [1, -7, 100, -3]
    assert linear.operands[2].type.quant.scale == tuple(PRODUCTS)


REQUANTIZED = {
    "float": ("f32[4]", [1.0, -0.5, 3.0, 0.125], [32, -32, 48, 1]),
    "i8": ("i8[4]{scale=0.125}", [4, -8, 127, 0], [16, -64, 254, 0]),
    "u8 with a zero point": ("u8[4]{scale=0.125, zero_point=100}", [101, 99, 0, 255], [4, -8, -200, 155]),
    "i16 per channel": ("i16[4]{axis=0, scale=(0.25, 0.5, 0.125, 1.0)}", [1, 2, 4, 8], [8, 64, 8, 64]),
    "i32 per tensor": ("i32[4]{scale=0.125}", [1, 2, 3, -4], [4, 16, 6, -4]),
}


@pytest.mark.parametrize("case", REQUANTIZED)
def test_a_bias_that_is_a_multiple_of_the_products_scale_becomes_i32(case: str) -> None:
    type, data, codes = REQUANTIZED[case]
    graph = layer(type, b=data)
    after = apply(Integerize(), graph)
    [linear] = after.node_list
    bias = linear.operands[2]
    assert bias.data.tolist() == codes and str(bias.type.dtype) == "i32" and bias.type.quant.scale == tuple(PRODUCTS)
    within_one_code(graph, after)


FLOAT_BIASES = {
    "a free scale": (layer("i32[4]{scale=0.3}", b=[1, 2, 3, 4]), "is no multiple of scale(x) * scale(weight)"),
    "i8 of another scale": (layer("i8[4]{scale=0.3}", b=[1, 2, 3, 4]), "is no multiple of scale(x) * scale(weight)"),
    "three roundings beside": (
        layer(f"i32[4]{{axis=0, scale=({scales(*(s * (1 + 3 * 2.0**-23) for s in PRODUCTS))})}}", b=[1, 2, 2**20, 9]),
        "is no multiple of scale(x) * scale(weight)",
    ),
    "float, coarse products": (layer("f32[4]", b=[0.3, 0.0, 0.0, 0.0]), "is too coarse"),
    "float, too large": (layer("f32[4]", b=[1e9, 0.0, 0.0, 0.0]), "a bias of 1000000000.0 does not fit i32"),
    "float, not finite": (layer("f32[4]", b=[np.inf, 0.0, 0.0, 0.0]), "a bias of inf does not fit i32"),
    "scales along inputs": (
        layer("f32[4]", weight=f"i8[4,8]{{axis=1, scale=({scales(*[0.5] * 8)})}}", b=[0.0] * 4),
        "channel axis of the weight",
    ),
    "a weight of 16 bits": (layer("f32[4]", weight="i16[4,8]{scale=0.5}", b=[0.0] * 4), "has at most 8 bits"),
    "x of 32 bits": (layer("f32[4]", x="i32[2,8]{scale=0.0625}", b=[0.0] * 4), "have at most 16 bits"),
    "an overflow by the bias": (
        layer(KEPT_CODES["the scale of the products"], b=[2**31 - 1, 0, 0, 0], w=np.ones((4, 8))),
        "its i32 accumulator could reach",
    ),
}


@pytest.mark.parametrize("case", FLOAT_BIASES)
def test_what_the_verifier_forbids_stays_float_with_a_reason(case: str) -> None:
    graph, reason = FLOAT_BIASES[case]
    after = apply(Integerize(), graph)
    assert [node.op for node in after.nodes] == ["dequantize", "linear", "quantize"]
    assert reason in float_note(after, "y")
    same_bits(graph, after)


@pytest.mark.parametrize("body, reason", [
    ("%y = relu(%d) : f32[2,8]\n%q = quantize(%y) : u8[2,8]{scale=0.5}", "a table reads 8 or 16 bits"),
    ("%y = add(%d, %d) : f32[2,8]\n%q = quantize(%y) : u8[2,8]{scale=0.5}", "at most 16 bits"),
    ("%y = softmax(%d) {axis=1} : f32[2,8]\n%q = quantize(%y) : u8[2,8]{scale=0.5}", "at most 16 bits"),
])  # fmt: skip
def test_codes_of_32_bits_are_computed_with_in_float(body: str, reason: str) -> None:
    graph = load("%x: i32[2,8]{scale=0.0625}", f"%d = dequantize(%x) : f32[2,8]\n{body}\nreturn %q", "qdq")
    after = apply(Integerize(), graph)
    assert reason in float_note(after, "y")
    same_bits(graph, after)


# -- products that are read as real numbers

REAL = """
    const @w : i8[4,8]{axis=0, scale=(0.5, 0.25, 1.0, 2.0)}
    const @b : i32[4]{axis=0, scale=(0.03125, 0.015625, 0.0625, 0.125)}
    %x.dq = dequantize(%x) : f32[2,8]
    %w.dq = dequantize(@w) : f32[4,8]
    %b.dq = dequantize(@b) : f32[4]
    %y = linear(%x.dq, %w.dq, %b.dq) {activation="relu"} : f32[2,4]
"""
DECIDED = {"y": get_qconfig("int8"), "z": get_qconfig("int8")}


@pytest.mark.parametrize(
    "readers",
    [
        "return %y",
        "%e = exp(%y) : f32[2,4]\nreturn %e",
        f"%q = quantize(%y) : u8[2,4]{P}\n%e = exp(%y) : f32[2,4]\nreturn %q, %e",
        f"%q = quantize(%y) : u8[2,4]{P}\nreturn %q, %y",
        f"%q = quantize(%y) : u8[2,4]{P}\n%r = quantize(%y) : u8[2,4]{Q}\nreturn %q, %r",
    ],
)
def test_a_product_that_is_read_as_real_numbers_writes_them(readers: str) -> None:
    graph = load(X, f"{REAL}{readers}", "qdq")
    after = apply(Integerize(DECIDED), graph)
    body = """
        const @w : i8[4,8]{axis=0, scale=(0.5, 0.25, 1.0, 2.0)}
        const @b : i32[4]{axis=0, scale=(0.03125, 0.015625, 0.0625, 0.125)}
        %y = linear(%x, @w, @b) {activation="relu"} : f32[2,4]
    """
    assert not any(isinstance(note, KeptFloat) and note.node == "y" for note in after.notes)
    assert node_kind(after.node_list[0]) is NodeKind.INTEGER
    after.notes.clear()
    check_text(after, X, f"{body}{readers}")
    given = [np.random.default_rng(0).integers(0, 256, (2, 8)).astype(np.uint8)]
    for want, got in zip(run(graph, given), run(after, given)):
        assert np.array_equal(want, got)  # scales are powers of two: both are exact


def test_a_product_that_one_quantize_reads_writes_codes() -> None:
    graph = load(X, f"{REAL}%q = quantize(%y) : u8[2,4]{P}\nreturn %q", "qdq")
    assert [str(value.type.dtype) for value in apply(Integerize(DECIDED), graph).outputs] == ["u8"]


def test_a_residual_of_a_real_result_is_real_or_codes() -> None:
    body = REAL.replace("%b.dq)", "%b.dq, %r)")
    for inputs, feed, operand in (
        (f"{X}, %r: f32[2,4]", "", "r"),
        (f"{X}, %s: u8[2,4]{Q}", "%r = dequantize(%s) : f32[2,4]", "s"),
    ):
        graph = load(inputs, f"{feed}{body}return %y", "qdq")
        after = apply(Integerize(DECIDED), graph)
        [node] = after.nodes
        assert node.operands[0].type.is_quantized and node.operands[3] is not None and node.operands[3].name == operand


@pytest.mark.parametrize(
    "configs,why",
    [(None, "its float result has other readers"), ({"y": None, "z": get_qconfig("int8")}, "its qconfig is None")],
)
def test_a_product_stays_float_where_nobody_decided_or_somebody_decided_so(configs, why: str) -> None:
    graph = load(X, f"{REAL}return %y", "qdq")
    after = apply(Integerize(configs), graph)
    product = next(node for node in after.nodes if node.op == "linear")
    assert product.operands[1] is not None and product.operands[1].type.dtype.is_float
    assert float_note(after, "y") == why
    same_bits(graph, after)


def test_a_product_of_codes_by_floats_stays_float() -> None:
    graph = load(
        X,
        REAL.replace("(%x.dq, %w.dq", "(%x.dq, @v").replace("const @b", "const @v : f32[4,8]\nconst @b") + "return %y",
        "qdq",
    )
    after = apply(Integerize(DECIDED), graph)
    assert float_note(after, "y") == "its operand weight is float"


def test_matmul_of_codes_writes_real_numbers() -> None:
    graph = load(
        f"{X}, %z: u8[8,3]{P}",
        """
        %x.dq = dequantize(%x) : f32[2,8]
        %z.dq = dequantize(%z) : f32[8,3]
        %y = matmul(%x.dq, %z.dq) : f32[2,3]
        return %y""",
        "qdq",
    )
    check_text(apply(Integerize(DECIDED), graph), f"{X}, %z: u8[8,3]{P}", "%y = matmul(%x, %z) : f32[2,3]\nreturn %y")


def test_only_products_write_real_numbers() -> None:
    graph = load(X, "%x.dq = dequantize(%x) : f32[2,8]\n%y = add(%x.dq, %x.dq) : f32[2,8]\nreturn %y", "qdq")
    assert [node.op for node in apply(Integerize(DECIDED), graph).nodes] == ["dequantize", "add"]
