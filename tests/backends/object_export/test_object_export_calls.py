"""Calls of an exported object: the statuses of wrong calls, the floating-point mode, the self-test, and C++."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

import qcompiler as qc
from qcompiler.backends import host
from qcompiler.backends.object_export.export import ObjectFile, build_object
from qcompiler.backends.object_export.golden import STORED_BYTES
from qcompiler.backends.target import parse_target
from qcompiler.ir import Graph
from tests.backends.c_programs import ARM_TARGETS, build, execute, tool, write

AVX2 = parse_target("x86-64-linux+avx2", exact=True)
pytestmark = pytest.mark.skipif(
    host.system() != "linux" or host.arch() != "x86-64", reason="objects for x86-64 Linux are run on such a machine"
)


TARGETS = ("x86-64-linux+avx2", *ARM_TARGETS)


@pytest.fixture(scope="module")
def demo(demo_stages: dict[str, Graph]) -> ObjectFile:
    return build_object(demo_stages["integer"], AVX2, prefix="demo", sizes={"B": 1})


# -- statuses


STATUSES = """\
#include "demo.h"
#include <stdio.h>
#include <string.h>
static char arena[DEMO_SELF_TEST_ARENA_SIZE + 64] __attribute__((aligned(64)));
static char before[sizeof arena];
static float x[DEMO_INPUT_X_ELEMENTS + 1], y[DEMO_OUTPUT_FC_ELEMENTS + 1], old[DEMO_OUTPUT_FC_ELEMENTS + 1];
static void say(int status) {
  printf("%d%s ", status, memcmp(arena, before, sizeof arena) || memcmp(y, old, sizeof y) ? "!" : "");
}
int main(void) {
  memset(arena, 0x5A, sizeof arena);
  memset(before, 0x5A, sizeof before);
  memset(y, 0x5A, sizeof y);
  memset(old, 0x5A, sizeof old);
  say(demo_run(NULL, y, arena, DEMO_ARENA_SIZE));
  say(demo_run(x, NULL, arena, DEMO_ARENA_SIZE));
  say(demo_run(x, y, NULL, DEMO_ARENA_SIZE));
  say(demo_run(x, y, arena, DEMO_ARENA_SIZE - 1));
  say(demo_run(x, y, arena, 0));
  say(demo_run(x, y, arena + 32, DEMO_ARENA_SIZE));
  say(demo_run(x, y, arena + 1, DEMO_ARENA_SIZE));
  say(demo_run((const float *)(const void *)((char *)x + 1), y, arena, DEMO_ARENA_SIZE));
  say(demo_run(x, (float *)(void *)((char *)y + 2), arena, DEMO_ARENA_SIZE));
  say(demo_self_test(NULL, DEMO_SELF_TEST_ARENA_SIZE));
  say(demo_self_test(arena, DEMO_SELF_TEST_ARENA_SIZE - 1));
  say(demo_self_test(arena + 32, DEMO_SELF_TEST_ARENA_SIZE));
  say(demo_run(x, y, arena + 64, DEMO_ARENA_SIZE));
  return 0;
}
"""


@pytest.mark.parametrize("target", TARGETS)
def test_wrong_calls_give_a_status_and_write_nothing(
    target: str, demo_stages: dict[str, Graph], tmp_path: pathlib.Path
) -> None:
    write(
        tmp_path,
        "demo",
        build_object(demo_stages["integer"], parse_target(target, exact=True), prefix="demo", sizes={"B": 1}),
    )
    printed = execute(build(tmp_path, STATUSES, ["demo.o"])).split()
    assert printed == ["-1", "-1", "-1", "-2", "-2", "-3", "-3", "-4", "-4", "-1", "-2", "-3", "0!"]


ENVIRONMENT = """\
#include "model.h"
#include <stdio.h>
#include <string.h>
#ifdef __aarch64__
static unsigned get(void) {
  unsigned long long mode;
  __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
  return (unsigned)mode;
}
static void set(unsigned mode) { unsigned long long wide = mode; __asm__ volatile("msr fpcr, %0" : : "r"(wide)); }
enum { USUAL = 0, ODD = 0x3C00000 }; /* ODD: toward zero, subnormals flushed, default NaN; qemu has no traps */
#else
#include <xmmintrin.h>
static unsigned get(void) { return _mm_getcsr(); }
static void set(unsigned mode) { _mm_setcsr(mode); }
enum { USUAL = 0x1F80, ODD = 0xFFC0 & ~0x1F80 }; /* ODD: toward zero, subnormals flushed both ways, all traps on */
#endif
static float x[MODEL_INPUT_X_ELEMENTS], y[MODEL_OUTPUT_C_ELEMENTS], z[MODEL_OUTPUT_C_ELEMENTS];
static char arena[MODEL_SELF_TEST_ARENA_SIZE] __attribute__((aligned(64)));
int main(void) {
  for (int i = 0; i < MODEL_INPUT_X_ELEMENTS; ++i) x[i] = 1.0e-38f / (float)(i + 3);
  if (model_run(x, y, arena, sizeof arena) != 0) return 1;
  set(ODD);
  unsigned mode = get();
  int status = model_run(x, z, arena, sizeof arena);
  int tested = model_self_test(arena, sizeof arena);
  unsigned after = get();
  set(USUAL);
  printf("%d %d %d %d %d", status, tested, mode == ODD && after == mode, memcmp(y, z, sizeof y),
         y[0] > 0.0f && y[0] < 1.17549435e-38f);
  return 0;
}
"""


@pytest.mark.parametrize("target", TARGETS)
def test_the_callers_floating_point_mode_does_not_matter_and_comes_back(target: str, tmp_path: pathlib.Path) -> None:
    graph = qc.parse("""qcompiler 1
graph model(%x: f32[37]) stage=float {
  %a = div(%x, %x) : f32[37]
  %b = mul(%x, %a) : f32[37]
  %c = add(%b, %x) : f32[37]
  return %c
}
""")
    write(tmp_path, "model", build_object(graph, parse_target(target, exact=True)))
    assert execute(build(tmp_path, ENVIRONMENT, ["model.o"])) == "0 0 1 0 1"


# -- the self-test


SELF_TEST = """\
#include "model.h"
#include <stdio.h>
static char arena[MODEL_SELF_TEST_ARENA_SIZE] __attribute__((aligned(64)));
int main(void) { printf("%d", model_self_test(arena, sizeof arena)); return 0; }
"""


def large_graph(expression: str) -> Graph:
    return qc.parse(f"""qcompiler 1
graph model(%x: f32[3,8192]) stage=float {{
  %a = {expression} : f32[3,8192]
  return %a
}}
""")


@pytest.mark.parametrize("target", ["x86-64-linux+avx2", "aarch64-linux+dotprod"])
@pytest.mark.parametrize("kind", ["stored", "digest", "digest of NaN"])
def test_the_self_test_fails_for_other_golden_data_or_another_model(
    kind: str, target: str, demo_stages: dict[str, Graph], tmp_path: pathlib.Path
) -> None:
    graph = demo_stages["integer"] if kind == "stored" else large_graph("log(%x)" if "NaN" in kind else "add(%x, %x)")
    made = build_object(
        graph, parse_target(target, exact=True), prefix="model", sizes={"B": 1} if kind == "stored" else None
    )
    assert (made.interface.outputs[0].nbytes <= STORED_BYTES) == (kind == "stored")
    (golden,) = made.golden
    assert len(golden) == (40 if kind == "stored" else 8) and made.data.count(golden) == 1
    write(tmp_path, "model", made)
    assert execute(build(tmp_path, SELF_TEST, ["model.o"])) == "0"
    place = made.data.index(golden)
    for bit in (0, 8 * len(golden) - 1):
        spoilt = bytearray(made.data)
        spoilt[place + bit // 8] ^= 1 << bit % 8
        (tmp_path / "model.o").write_bytes(spoilt)
        assert execute(build(tmp_path, SELF_TEST, ["model.o"])) == "-5"


def test_the_self_test_sees_a_changed_weight(demo_stages: dict[str, Graph], tmp_path: pathlib.Path) -> None:
    made = build_object(demo_stages["fused"], AVX2, prefix="model", sizes={"B": 1})
    weight = demo_stages["fused"].consts["fc.bias"].data.tobytes()
    assert made.data.count(weight) == 1
    write(tmp_path, "model", made)
    spoilt = bytearray(made.data)
    spoilt[made.data.index(weight) + 2] ^= 0x20
    (tmp_path / "model.o").write_bytes(spoilt)
    assert execute(build(tmp_path, SELF_TEST, ["model.o"])) == "-5"


# -- the header elsewhere


def test_the_header_serves_c_plus_plus(demo: ObjectFile, tmp_path: pathlib.Path) -> None:
    write(tmp_path, "demo", demo)
    compiler = tool("g++")
    (tmp_path / "program.cpp").write_text(
        '#include "demo.h"\n#include "demo.h"\nint main() { return demo_abi_version() - DEMO_ABI_VERSION; }\n'
    )
    command = [
        compiler,
        "-std=c++11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        "-c",
        "program.cpp",
        "-o",
        "program.o",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    subprocess.run([compiler, "program.o", "demo.o", "-o", "program"], cwd=tmp_path, check=True)
    execute(tmp_path / "program")
