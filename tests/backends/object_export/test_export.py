"""Exported objects in C programs give the same bits as in Python, with several models, with several threads, and under
valgrind; their symbols."""

from __future__ import annotations

import importlib.util
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import knobs, nn
from qcompiler.backends import host
from qcompiler.backends.object_export.export import ObjectFile, build_object
from qcompiler.backends.target import parse_target
from qcompiler.errors import LoweringError
from qcompiler.ir import Graph
from qcompiler.opdef import all_ops
from qcompiler.ops.recurrent import Recurrent
from qcompiler.passes.quantized_io import QuantizedIo
from qcompiler.types import tensor
from tests.backends import c_programs
from tests.backends.c_programs import ARM_TARGETS, TARGETS, build, execute, run_in_c, tool, write
from tests.backends.rules.harness import same_bits
from tests.sample_graphs import sample_graph

ROOT = pathlib.Path(__file__).resolve().parents[3]
AVX2 = parse_target("x86-64-linux+avx2", exact=True)
DEMO_SIZES = {"B": 2}
EMULATED_MOBILENET = ("aarch64-linux+dotprod", "aarch64-linux+i8mm")
pytestmark = pytest.mark.skipif(
    host.system() != "linux" or host.arch() != "x86-64", reason="objects for x86-64 Linux are run on such a machine"
)

MIXED = """qcompiler 1
graph Mixed_Types(%x: f32[3,8], %index: i64[5], %mask: bool[3,8]) stage=float {
  %a = softmax(%x) {axis=1} : f32[3,8]
  %b = where(%mask, %x, %a) : f32[3,8]
  %c = gather(%b, %index) {axis=0} : f32[5,8]
  %d = greater(%b, %a) : bool[3,8]
  %e = log(%x) : f32[3,8]
  return %x, %c, %d, %e, %c
}
"""


@pytest.fixture(scope="module")
def demo(demo_stages: dict[str, Graph]) -> ObjectFile:
    return build_object(demo_stages["integer"], AVX2, prefix="demo", sizes=DEMO_SIZES)


def same(got: np.ndarray, want: np.ndarray) -> bool:
    return got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes()


# -- the same bits


@pytest.mark.sampled(3)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("stage", ["integer", "fused"])
def test_the_demo_has_the_bits_of_the_program_in_python(
    target: str, stage: str, demo_stages: dict[str, Graph], demo_images: np.ndarray, tmp_path: pathlib.Path
) -> None:
    """Objects for all levels of both architectures are compared with one program."""
    made = build_object(demo_stages[stage], parse_target(target, exact=True), sizes={"B": 4})
    want = qc.compile(demo_stages[stage], None, target="x86-64+avx2")(demo_images)
    assert np.abs(want).max() > 0
    (got,) = run_in_c(tmp_path, made, [demo_images])
    assert same(got, want)


@pytest.mark.parametrize("lacking", ["aarch64-linux-gnu-gcc", "qemu-aarch64"])
def test_what_other_machines_objects_need(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cross compiler or qemu a test is skipped, but fails where everything must be there."""
    which, find_spec = shutil.which, importlib.util.find_spec
    monkeypatch.setattr(c_programs.shutil, "which", lambda name: None if name == lacking else which(name) or name)
    monkeypatch.setattr(
        c_programs.importlib.util, "find_spec", lambda name: None if name == "ziglang" else find_spec(name)
    )
    asked = (
        (lambda: c_programs.c_compiler(c_programs.AARCH64))
        if "gcc" in lacking
        else (lambda: c_programs.emulator(c_programs.AARCH64))
    )
    with knobs.REQUIRE_ALL(False), pytest.raises(pytest.skip.Exception, match=f"{lacking} is not installed"):
        asked()
    with knobs.REQUIRE_ALL(True), pytest.raises(pytest.fail.Exception, match=f"{lacking} is not installed"):
        asked()
    assert c_programs.emulator(c_programs.X86_64) == [] and "-static" not in c_programs.c_compiler()


def test_codes_in_and_out(demo_stages: dict[str, Graph], demo_images: np.ndarray, tmp_path: pathlib.Path) -> None:
    graph = qc.compile(demo_stages["float"], "int8:plain", calibration_data=[demo_images], target="reference").graph
    graph = QuantizedIo().run(graph)
    made = build_object(graph, AVX2, sizes={"B": 1})
    x = np.random.default_rng(0).integers(0, 256, (1, 1, 28, 28)).astype(np.uint8)
    (got,) = run_in_c(tmp_path, made, [x])
    assert same(got, qc.compile(graph, None, target="reference")(x))
    quant = graph.inputs[0].type.quant
    source = """\
#include "model.h"
#include <stdio.h>
int main(void) {
  float scale = FASHIONRESNET_INPUT_X_SCALE;
  printf("%a %d %d %d", (double)scale, FASHIONRESNET_INPUT_X_ZERO_POINT, FASHIONRESNET_INPUT_X_QMIN,
         FASHIONRESNET_INPUT_X_QMAX);
  return FASHIONRESNET_OUTPUT_FC_SCALE > 0 ? 0 : 1;
}
"""
    printed = execute(build(tmp_path, source, [], name="macros")).split()
    assert float.fromhex(printed[0]) == quant.scale[0] and [int(n) for n in printed[1:]] == [
        quant.zero_point[0],
        quant.qmin,
        quant.qmax,
    ]


@pytest.mark.parametrize("target", ["x86-64-linux+avx2", *ARM_TARGETS])
def test_several_inputs_and_outputs_of_several_types(target: str, tmp_path: pathlib.Path) -> None:
    graph = qc.parse(MIXED)
    made = build_object(graph, parse_target(target, exact=True))
    assert made.interface.prefix == "mixed_types"
    rng = np.random.default_rng(3)
    inputs = [
        rng.normal(size=(3, 8)).astype(np.float32),
        np.array([2, 0, -1, 1, 2]),
        rng.integers(0, 2, (3, 8)).astype(bool),
    ]
    want = qc.compile(graph, None, target="x86-64+avx2")(*inputs)
    assert np.isnan(want[3]).any()
    got = run_in_c(tmp_path, made, inputs)
    assert len(got) == 5 and all(same_bits(g, w) for g, w in zip(got, want))


@pytest.mark.parametrize("qconfig", [None, "dynamic"])
@pytest.mark.parametrize("target", ["x86-64-linux+avx2", *ARM_TARGETS])
def test_a_recurrent_net_takes_and_gives_its_states(target: str, qconfig: str | None, tmp_path: pathlib.Path) -> None:
    """Float, and dynamically quantized with weights that are codes."""
    lstm, state = nn.LSTM(5, 9, 2), tensor("f32", 2, 2, 9)
    example = [np.zeros(shape, np.float32) for shape in ((4, 2, 5), state.sizes, state.sizes)]
    compiled = qc.compile(lambda x, h, c: lstm(x, (h, c)), qconfig, tuple(example), target="x86-64+avx2")
    graph, rng = compiled.graph, np.random.default_rng(4)
    coded = [layer for node in graph.nodes if (layer := Recurrent.of(node)) is not None and layer.ih_scale is not None]
    assert len(coded) == (0 if qconfig is None else 2)
    inputs = [rng.normal(size=value.type.sizes).astype(np.float32) for value in graph.inputs]
    want = compiled(*inputs)
    got = run_in_c(tmp_path, build_object(graph, parse_target(target, exact=True), prefix="stream"), inputs)
    assert len(got) == 3 and all(same_bits(g, w) for g, w in zip(got, [want[0], *want[1]]))


@pytest.mark.exhaustive
@pytest.mark.parametrize("target", ["x86-64-linux+avx2", *ARM_TARGETS])
def test_every_op_with_kernels_passes_its_self_test_and_needs_no_library(target: str, tmp_path: pathlib.Path) -> None:
    """All models are in one program, so the test also shows that prefixes keep their symbols apart. The expected
    outputs are those of this machine's best level."""
    prefixes, undefined = [], set()
    for op in all_ops():
        if not op.samples() or op.family == "quantized":
            continue
        try:
            made = build_object(sample_graph(op, 0), parse_target(target, exact=True), prefix=f"op_{op.name}"[:32])
        except LoweringError as error:
            assert "no kernel serves" in str(error)
            continue
        write(tmp_path, made.interface.prefix, made)
        prefixes.append(made.interface.prefix)
        undefined |= set(symbols(tmp_path / f"{made.interface.prefix}.o", "-u"))
    assert len(prefixes) > 70
    assert undefined <= {"memcpy", "memset"}
    includes = "".join(f'#include "{prefix}.h"\n' for prefix in prefixes)
    checks = "".join(
        f"  if ({p.upper()}_SELF_TEST_ARENA_SIZE > sizeof arena || {p}_self_test(arena, sizeof arena) != 0) "
        f'puts("{p}");\n'
        for p in prefixes
    )
    source = (
        f"#include <stdio.h>\n{includes}static long long arena[1 << 17];\nint main(void) {{\n{checks}  return 0;\n}}\n"
    )
    source = source.replace(
        "static long long arena[1 << 17];", "static char arena[1 << 20] __attribute__((aligned(64)));"
    )
    assert execute(build(tmp_path, source, [f"{p}.o" for p in prefixes])) == ""


# -- symbols, two models, threads


def symbols(path: pathlib.Path, *options: str) -> list[str]:
    printed = subprocess.run([tool("nm"), *options, str(path)], capture_output=True, text=True, check=True).stdout
    return [line.split()[-1] for line in printed.splitlines() if line.strip()]


def test_only_prefixed_symbols_are_seen_and_no_data_can_be_written(demo: ObjectFile, tmp_path: pathlib.Path) -> None:
    write(tmp_path, "demo", demo)
    assert sorted(symbols(tmp_path / "demo.o", "-g", "--defined-only")) == [
        "demo_abi_version",
        "demo_run",
        "demo_self_test",
    ]
    assert set(symbols(tmp_path / "demo.o", "-u")) <= {"memcpy", "memset"}
    kinds = subprocess.run(
        [tool("nm"), str(tmp_path / "demo.o")], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {line.split()[-2] for line in kinds} <= {"t", "T", "r", "U"}


def test_two_models_link_together(demo: ObjectFile, demo_stages: dict[str, Graph], tmp_path: pathlib.Path) -> None:
    write(tmp_path, "one", demo)
    write(tmp_path, "two", build_object(demo_stages["fused"], AVX2, prefix="other", sizes={"B": 1}))
    source = """\
#include "one.h"
#include "two.h"
#include <stdio.h>
static char one[DEMO_SELF_TEST_ARENA_SIZE] __attribute__((aligned(DEMO_ARENA_ALIGN)));
static char two[OTHER_SELF_TEST_ARENA_SIZE] __attribute__((aligned(OTHER_ARENA_ALIGN)));
int main(void) { printf("%d %d", demo_self_test(one, sizeof one), other_self_test(two, sizeof two)); return 0; }
"""
    assert execute(build(tmp_path, source, ["one.o", "two.o"])) == "0 0"


THREADS = """\
#include "model.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
enum { N = MODEL_INPUT_X_ELEMENTS, M = MODEL_OUTPUT_FC_ELEMENTS };
typedef struct {
  char arena[(MODEL_SELF_TEST_ARENA_SIZE + 63) / 64 * 64] __attribute__((aligned(64)));
  float x[N], y[M], want[M];
  int wrong;
} Job;
static Job jobs[2];
static void *work(void *given) {
  Job *job = (Job *)given;
  for (int round = 0; round < ROUNDS; ++round) {
    memset(job->y, 0, sizeof job->y);
    job->wrong += model_run(job->x, job->y, job->arena, sizeof job->arena) != MODEL_OK
        || memcmp(job->y, job->want, sizeof job->y) != 0;
  }
  job->wrong += model_self_test(job->arena, sizeof job->arena) != MODEL_OK;
  return NULL;
}
int main(void) {
  pthread_t threads[2];
  for (int t = 0; t < 2; ++t) {
    for (int i = 0; i < N; ++i) jobs[t].x[i] = (float)((i * (7 + t)) % 23) / 11.0f - 1.0f;
    if (model_run(jobs[t].x, jobs[t].want, jobs[t].arena, sizeof jobs[t].arena) != MODEL_OK) return 1;
  }
  if (memcmp(jobs[0].want, jobs[1].want, sizeof jobs[0].want) == 0) return 2;
  for (int t = 0; t < 2; ++t) if (pthread_create(&threads[t], NULL, work, &jobs[t]) != 0) return 3;
  for (int t = 0; t < 2; ++t) pthread_join(threads[t], NULL);
  printf("%d %d", jobs[0].wrong, jobs[1].wrong);
  return 0;
}
"""


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("target", "rounds"), [("x86-64-linux+avx2", 200), *((target, 20) for target in ARM_TARGETS)])
def test_two_threads_with_two_arenas(
    target: str, rounds: int, demo_stages: dict[str, Graph], tmp_path: pathlib.Path
) -> None:
    write(
        tmp_path,
        "model",
        build_object(demo_stages["integer"], parse_target(target, exact=True), prefix="model", sizes={"B": 1}),
    )
    assert execute(build(tmp_path, THREADS, ["model.o"], flags=["-pthread", f"-DROUNDS={rounds}"])) == "0 0"


def valgrind() -> list[str]:
    return [tool("valgrind"), "--quiet", "--error-exitcode=9", "--leak-check=full"]


def test_valgrind_finds_nothing(
    demo: ObjectFile, demo_images: np.ndarray, demo_stages: dict[str, Graph], tmp_path: pathlib.Path
) -> None:
    """The arena comes uninitialised from malloc, and no result depends on what it held."""
    (got,) = run_in_c(tmp_path, demo, [demo_images[:2]], wrapper=valgrind())
    assert same(got, qc.compile(demo_stages["integer"], None, target="reference")(demo_images[:2]))


# -- MobileNetV2 at 3x224x224


@pytest.fixture(scope="module")
def mobilenet() -> Graph:
    """A MobileNetV2 with seeded random weights, calibrated on one image."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from models import build as build_model
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    network, shape = build_model("mobilenet_v2")
    x = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    return qc.compile(network, "int8", (x,), calibration_data=[x], target="reference").graph


def test_mobilenet_has_the_bits_of_the_interpreter_and_valgrind_finds_nothing(
    mobilenet: Graph, tmp_path: pathlib.Path
) -> None:
    x = np.random.default_rng(1).normal(size=(1, 3, 224, 224)).astype(np.float32)
    made = build_object(mobilenet, AVX2, prefix="model")
    (got,) = run_in_c(tmp_path, made, [x], wrapper=valgrind())
    assert np.unique(got).size > 100 and same(got, qc.compile(mobilenet, None, target="reference")(x))


@pytest.mark.parametrize("target", EMULATED_MOBILENET)
def test_mobilenet_on_arm_has_the_bits_of_the_interpreter(
    target: str, mobilenet: Graph, tmp_path: pathlib.Path
) -> None:
    x = np.random.default_rng(1).normal(size=(1, 3, 224, 224)).astype(np.float32)
    (got,) = run_in_c(tmp_path, build_object(mobilenet, parse_target(target, exact=True), prefix="model"), [x])
    assert np.unique(got).size > 100 and same(got, qc.compile(mobilenet, None, target="reference")(x))


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("target", "rounds"), [("x86-64-linux+avx2", 5), *((target, 1) for target in EMULATED_MOBILENET)]
)
def test_mobilenet_from_two_threads_at_once(target: str, rounds: int, mobilenet: Graph, tmp_path: pathlib.Path) -> None:
    write(tmp_path, "model", build_object(mobilenet, parse_target(target, exact=True), prefix="model"))
    assert execute(build(tmp_path, THREADS, ["model.o"], flags=["-pthread", f"-DROUNDS={rounds}"])) == "0 0"
