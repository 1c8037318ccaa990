"""scale-channels: what it refuses, and that the products give what they gave. Texts: scale-channels/*.qir"""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.errors import PassError
from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.ops.quantized import Observe
from qcompiler.passes.scale_channels import Fold, Multiply, ScaleChannels, match_fold, match_multiply
from qcompiler.text.parser import parse
from qcompiler.verify import verify
from tests.passes.pass_texts import draw_constants

OBSERVED = 'observe(%{0}) {{spec="u8 [0,255] affine per_tensor histogram eps=1e-07", group="{1}"}}'


def graph_of(lines: str, consts: str = "", inputs: str = "%x: f32[4,2]") -> Graph:
    """Lines may say `obs(a)` or `obs(a, group)` for an observer."""
    import re

    def observer(match: re.Match[str]) -> str:
        return OBSERVED.format(match[1], match[2] or match[1])

    body = re.sub(r"obs\((\w+)(?:, (\w+))?\)", observer, lines)
    declared = "".join(f"  const @{line.strip()}\n" for line in consts.split(";") if line.strip())
    return draw_constants(f"qcompiler 1\ngraph g({inputs}) stage=observed {{\n{declared}{body}}}\n")


NORM = """
  %n = layer_norm(%x, @g) {normalized_rank=1} : f32[4,2]
  %n.obs = obs(n) : f32[4,2]
"""
CONV = "{stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)"
REFUSED = {
    "an add reads it": (
        NORM + "  %y = linear(%n.obs, @w) : f32[4,2]\n  %z = add(%y, %n.obs) : f32[4,2]\n  return %z\n",
        "%z = add reads %n too",
    ),
    "it is an output": (
        NORM + "  %y = linear(%n.obs, @w) : f32[4,2]\n  return %y, %n.obs\n",
        "%n.obs is an output of the graph",
    ),
    "no product": (NORM + "  %y = relu(%n.obs) : f32[4,2]\n  return %y\n", "%y = relu reads %n too"),
    "a weight that is computed": (
        NORM + "  %v = relu(%x) : f32[4,2]\n  %y = linear(%n.obs, %v) : f32[4,4]\n  return %y\n",
        "%y = linear reads %n too",
    ),
    "the residual": (
        NORM + "  %y = linear(%x, @w, none, %n.obs) : f32[4,2]\n  return %y\n",
        "%y = linear reads %n too",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_else_reads_a_value_is_named(case: str) -> None:
    lines, reason = REFUSED[case]
    with pytest.raises(PassError) as caught:
        ScaleChannels({"n": (1.0, 2.0)}).run(graph_of(lines, "g : f32[2]; w : f32[2,2]"))
    assert caught.value.message == f"scale-channels cannot scale %n: {reason}"


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 2.0, 3.0), (1.0, 0.0), (1.0, -2.0), (1.0, float("nan"))])
def test_scales_are_positive_and_one_a_channel(scales: tuple[float, ...]) -> None:
    graph = graph_of(NORM + "  %y = linear(%n.obs, @w) : f32[4,2]\n  return %y\n", "g : f32[2]; w : f32[2,2]")
    with pytest.raises(PassError, match="scales of channels") as caught:
        ScaleChannels({"n": scales}).run(graph)
    assert "expected: 2 positive numbers" in str(caught.value)


def test_a_value_without_an_observer() -> None:
    graph = graph_of(NORM + "  %y = linear(%n.obs, @w) : f32[4,2]\n  return %y\n", "g : f32[2]; w : f32[2,2]")
    with pytest.raises(PassError, match="scales a value without an observer"):
        ScaleChannels({"y": (1.0, 2.0)}).run(graph)


IMAGE = "%x: f32[1,2,6,6]"
PLACES = {
    "relu and max pool": (
        f"""
  %a = conv(%x, @w, @b) {CONV}, activation="relu"}} : f32[1,4,6,6]
  %a.obs = obs(a, a) : f32[1,4,6,6]
  %r = relu(%a.obs) : f32[1,4,6,6]
  %r.obs = obs(r, a) : f32[1,4,6,6]
  %p = max_pool(%r.obs) {{kernel=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)), dilation=(1, 1)}} : f32[1,4,3,3]
  %p.obs = obs(p, a) : f32[1,4,3,3]
  %y = conv(%p.obs, @v) {CONV}, groups=2}} : f32[1,6,2,2]
  %z = conv(%a.obs, @u) {CONV}, groups=4}} : f32[1,4,6,6]
  return %y, %z
""",
        "w : f32[4,2,1,1]; b : f32[4]; v : f32[6,2,2,2]; u : f32[4,1,1,1]",
        ("p", 4),
    ),
    "conv_transpose": (
        f"""
  %a = conv_transpose(%x, @w, @b) {CONV}, output_padding=(0, 0)}} : f32[1,4,7,7]
  %a.obs = obs(a) : f32[1,4,7,7]
  %y = conv_transpose(%a.obs, @v) {CONV}, output_padding=(0, 0), groups=2}} : f32[1,6,7,7]
  return %y
""",
        "w : f32[2,4,2,2]; b : f32[4]; v : f32[2,6,1,1]",
        ("a", 4),
    ),
    "a shared weight": (
        f"""
  %a = conv(%x, @w) {CONV}}} : f32[1,2,6,6]
  %a.obs = obs(a) : f32[1,2,6,6]
  %y = conv(%a.obs, @w) {CONV}}} : f32[1,2,6,6]
  return %y
""",
        "w : f32[2,2,1,1]",
        ("a", 2),
    ),
    "batch norm": (
        f"""
  %a = batch_norm(%x, @m, @s, @g, @b) : f32[1,2,6,6]
  %a.obs = obs(a) : f32[1,2,6,6]
  %y = conv(%a.obs, @w) {CONV}}} : f32[1,3,6,6]
  return %y
""",
        "m : f32[2]; s : f32[2]; g : f32[2]; b : f32[2]; w : f32[3,2,1,1]",
        ("a", 2),
    ),
}


@pytest.mark.parametrize("case", PLACES)
def test_folding_keeps_what_the_products_give(case: str) -> None:
    """Scales that are powers of two change no rounding."""
    lines, consts, (value, channels) = PLACES[case]
    graph = graph_of(lines, consts, IMAGE)
    scales = tuple(2.0 ** (i % 3 - 1) for i in range(channels))
    count = len(graph)
    scaled = ScaleChannels({value: scales}).run(graph.clone())
    verify(scaled)
    assert len(scaled) == count
    x = np.random.default_rng(0).normal(size=(1, 2, 6, 6)).astype(np.float32)
    for before, after in zip(run(graph, [x]), run(scaled, [x])):
        assert np.array_equal(before, after, equal_nan=True)


def observer(graph: Graph, value: str) -> Observe:
    return next(each for node in graph.nodes if (each := Observe.of(node)) is not None and each.x.name == value)


NO_FOLD = {
    "a clamp without 0": (
        f"  %b = conv(%x, @w) {CONV}}} : f32[1,2,6,6]\n"
        "  %a = hardtanh(%b) {min_value=1.0, max_value=6.0} : f32[1,2,6,6]\n  %a.obs = obs(a) : f32[1,2,6,6]\n",
        "hardtanh of %a stands between",
    ),
    "residual": (
        f"  %a = conv(%x, @w, none, %x) {CONV}}} : f32[1,2,6,6]\n  %a.obs = obs(a) : f32[1,2,6,6]\n",
        "%a adds a residual",
    ),
    "average": (
        f"  %b = conv(%x, @w) {CONV}}} : f32[1,2,6,6]\n"
        "  %a = avg_pool(%b) {kernel=(1, 1), stride=(1, 1), padding=((0, 0), (0, 0))} : f32[1,2,6,6]\n"
        "  %a.obs = obs(a) : f32[1,2,6,6]\n",
        "avg_pool of %a stands between",
    ),
    "shared range": (
        f"  %a = conv(%x, @w) {CONV}}} : f32[1,2,6,6]\n  %a.obs = obs(a, g) : f32[1,2,6,6]\n"
        "  %x.obs = obs(x, g) : f32[1,2,6,6]\n",
        "%x shares the range of %a",
    ),
}


@pytest.mark.parametrize("case", NO_FOLD)
def test_what_cannot_take_scales_is_told(case: str) -> None:
    lines, reason = NO_FOLD[case]
    last = f"  %y = conv(%a.obs, @v) {CONV}}} : f32[1,3,6,6]\n  return %y\n"
    graph = graph_of(lines + last, "w : f32[2,2,1,1]; v : f32[3,2,1,1]", IMAGE)
    assert match_fold(graph, observer(graph, "a")) == reason
    assert isinstance(match_multiply(graph, observer(graph, "a")), Multiply)


CLAMPED = {
    "a fused relu6": (f'  %a = conv(%x, @w) {CONV}, activation="relu6"}} : f32[1,2,6,6]\n', 0.0, 6.0),
    "relu6": (f"  %b = conv(%x, @w) {CONV}}} : f32[1,2,6,6]\n  %a = relu6(%b) : f32[1,2,6,6]\n", 0.0, 6.0),
    "two clamps": (
        f'  %b = conv(%x, @w) {CONV}, activation="relu6"}} : f32[1,2,6,6]\n'
        "  %a = hardtanh(%b) {min_value=-0.5, max_value=4.0} : f32[1,2,6,6]\n",
        0.0,
        4.0,
    ),
    "hardtanh": (
        f"  %b = conv(%x, @w) {CONV}}} : f32[1,2,6,6]\n"
        "  %a = hardtanh(%b) {min_value=-3.0, max_value=0.5} : f32[1,2,6,6]\n",
        -3.0,
        0.5,
    ),
}


@pytest.mark.parametrize("case", CLAMPED)
def test_scales_narrow_a_clamp(case: str) -> None:
    """Scales below 1 clamp a channel to that part of the bounds; none may be above 1."""
    lines, low, high = CLAMPED[case]
    last = f"  %a.obs = obs(a) : f32[1,2,6,6]\n  %y = conv(%a.obs, @v) {CONV}}} : f32[1,3,6,6]\n  return %y, %a.obs\n"
    scales = np.array([1.0, 0.25], np.float32)
    graph = graph_of(lines + last.replace(", %a.obs\n", "\n"), "w : f32[2,2,1,1]; v : f32[3,2,1,1]", IMAGE)
    place = match_fold(graph, observer(graph, "a"))
    assert isinstance(place, Fold) and place.is_clamped
    assert place.high == high and place.low in (low, -0.5, -np.inf)
    scaled = ScaleChannels({"a": tuple(map(float, scales))}).run(graph.clone())
    x = 8 * np.random.default_rng(0).normal(size=(1, 2, 6, 6)).astype(np.float32)
    real = np.einsum("oi,nihw->nohw", graph.consts["w"].data[:, :, 0, 0], x)
    clamped = np.clip(real, low * scales.reshape(1, 2, 1, 1), high * scales.reshape(1, 2, 1, 1))
    expected = np.einsum("oi,nihw->nohw", graph.consts["v"].data[:, :, 0, 0], clamped)
    assert (clamped != np.clip(real, low, high)).any()
    np.testing.assert_allclose(run(scaled, [x])[0], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(PassError, match="expected: none above 1"):
        ScaleChannels({"a": (1.0, 1.5)}).run(graph)


NO_SHIFT = {
    "an activation": (', activation="relu"}', "}", "an activation stands between %a and a product"),
    "a border": ("}", "}", "%y = conv has a border"),
}


@pytest.mark.parametrize("case", NO_SHIFT)
def test_what_cannot_be_shifted_is_told(case: str) -> None:
    first, second, reason = NO_SHIFT[case]
    padded = CONV.replace("(0, 0), (0, 0)", "(1, 0), (0, 0)") if "border" in case else CONV
    rows = 7 if "border" in case else 6
    lines = (
        f"  %a = conv(%x, @w) {CONV}{first} : f32[1,2,6,6]\n  %a.obs = obs(a) : f32[1,2,6,6]\n"
        f"  %y = conv(%a.obs, @v) {padded}{second} : f32[1,3,{rows},6]\n  return %y\n"
    )
    graph = graph_of(lines, "w : f32[2,2,1,1]; v : f32[3,2,1,1]", IMAGE)
    with pytest.raises(PassError) as caught:
        ScaleChannels({"a": (1.0, 1.0)}, {"a": (1.0, 2.0)}).run(graph)
    assert caught.value.message == f"scale-channels cannot shift %a: {reason}"


def test_a_shift_without_scales_is_refused() -> None:
    graph = graph_of(NORM + "  %y = linear(%n.obs, @w) : f32[4,2]\n  return %y\n", "g : f32[2]; w : f32[2,2]")
    with pytest.raises(PassError, match="shifts a value that it does not scale"):
        ScaleChannels({}, {"n": (1.0, 2.0)}).run(graph)


def test_shifts_keep_what_grouped_products_give() -> None:
    """With windows of several elements, groups, biases and a source in 16ths, whose sums are exact."""
    lines = (
        f"  %a = conv(%x, @w, @b) {CONV}}} : f32[1,4,6,6]\n  %a.obs = obs(a) : f32[1,4,6,6]\n"
        f"  %y = conv(%a.obs, @v, @c) {CONV}, groups=2}} : f32[1,6,5,5]\n"
        f"  %z = conv(%a.obs, @u) {CONV}}} : f32[1,1,6,6]\n  return %y, %z\n"
    )
    consts = "w : f32[4,2,1,1]; b : f32[4]; v : f32[6,2,2,2]; c : f32[6]; u : f32[1,4,1,1]"
    graph = graph_of(lines, consts, IMAGE)
    graph = parse(str(graph), {name: np.rint(16 * const.data) / 16 for name, const in graph.consts.items()})
    assert isinstance(graph, Graph)
    shifted = ScaleChannels({"a": (1.0, 2.0, 0.5, 1.0)}, {"a": (3.0, -1.0, 0.25, 8.0)}).run(graph.clone())
    verify(shifted)
    x = np.rint(16 * np.random.default_rng(0).normal(size=(1, 2, 6, 6))).astype(np.float32) / 16
    for before, after in zip(run(graph, [x]), run(shifted, [x])):
        assert np.array_equal(before, after)


def test_a_fold_tells_all_that_it_reaches() -> None:
    lines, consts, _ = PLACES["relu and max pool"]
    graph = graph_of(lines, consts, IMAGE)
    for value in "arp":
        place = match_fold(graph, observer(graph, value))
        assert isinstance(place, Fold) and place.source.node.name == "a"
        assert {layer.node.name for layer in place.products} == {"y", "z"}
        assert {each.x.name for each in place.observers} == set("arp")
    assert parse(str(graph), "zeros") is not None
