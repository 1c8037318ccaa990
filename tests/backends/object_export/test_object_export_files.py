"""What the export of objects writes and refuses: names, the text of the header, generated inputs, both files or none,
foreign systems, and the command line."""

from __future__ import annotations

import json
import os
import pathlib
import re
import struct
import subprocess
import sys

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import knobs
from qcompiler.artifact import save_graph
from qcompiler.backends.object_export import files
from qcompiler.backends.object_export.export import build_object, export_object
from qcompiler.backends.object_export.golden import DIGEST_FACTOR, FACTOR, INCREMENT, Recipe, golden_bytes
from qcompiler.backends.object_export.interface import Port, choose_prefix, make_ports
from qcompiler.backends.target import parse_target
from qcompiler.cli import arguments as cli
from qcompiler.errors import ArtifactError, LoweringError
from qcompiler.ir import Graph
from qcompiler.types import DType, QuantParams, TensorType, tensor

ROOT = pathlib.Path(__file__).resolve().parents[3]
AVX2 = parse_target("x86-64-linux+avx2", exact=True)
ADD = """qcompiler 1
graph Adds(%x: f32[2,3], %y: f32[2,3]) stage=float {
  %sum = add(%x, %y) : f32[2,3]
  return %sum
}
"""


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, demo_stages: dict[str, Graph]) -> pathlib.Path:
    """The current folder, with the demo's network in it."""
    save_graph(demo_stages["integer"], tmp_path / "demo.qc.safetensors")
    save_graph(demo_stages["observed"], tmp_path / "observed.qc.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export(*arguments: str) -> int:
    return cli.main(["export", "demo.qc.safetensors", "--to", "object", *arguments])


def made_files(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".safetensors"))


# -- names and text


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        ("FashionResNet", "fashionresnet"),
        ("3 d/net:0", "model_3_d_net_0"),
        ("", "model"),
        ("_Ü_", "model"),
        ("a" * 40, "a" * 32),
    ],
)
def test_the_default_prefix_is_a_c_name(model: str, prefix: str) -> None:
    assert choose_prefix(None, model) == prefix == choose_prefix(prefix, "x")


@pytest.mark.parametrize("prefix", ["", "Net", "3x", "_x", "a-b", "a" * 33, "ä", "x\n"])
def test_a_bad_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(LoweringError, match="bad prefix"):
        choose_prefix(prefix, "net")


def test_names_of_inputs_are_c_names_and_unique() -> None:
    graph = Graph("g")
    names = ["x.1", "X 1", "*/", "int", "é", "int"]
    values = [graph.add_input(f"v{i}", tensor("f32", 2)) for i in range(len(names))]
    ports = make_ports("input", values, names, {})
    assert [port.name for port in ports] == [
        "input_x_1",
        "input_x_1_1",
        "input_2",
        "input_int",
        "input_4",
        "input_int_5",
    ]


def test_the_header_of_a_small_model(golden) -> None:
    golden(re.sub(r"by qcompiler [\d.]+", "by qcompiler VERSION", build_object(qc.parse(ADD), AVX2).header), "h")


def test_parameters_per_channel_and_odd_names_in_the_header() -> None:
    from qcompiler.backends.object_export.c_header import emit_header
    from qcompiler.backends.object_export.interface import Interface

    quant = QuantParams.per_channel([0.1, 1.0, 2.0**-50], [3, -4, 0], 0, DType.I8)
    port = Port("input_x", "a*/b\n#error", TensorType(DType.I8, (3, 2), quant))
    header = emit_header(Interface("net", 'x*/"?', "t", "f", (port,), (port,), 0))
    assert header.count("*/") == header.count("/*") and "#error" not in header
    assert (
        "SCALES {0.1f, 1.0f, 8.881784e-16f}" in header
        and "ZERO_POINTS {3, (-4), 0}" in header
        and "INPUT_X_AXIS 0" in header
    )
    assert np.float32("8.881784e-16") == np.float32(2.0**-50)


# -- golden vectors


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.F64, DType.U8, DType.I64, DType.BOOL])
def test_generated_inputs_are_those_of_the_recurrence(dtype: DType) -> None:
    quant = QuantParams.per_tensor(0.5, 3, dtype, 2, 250) if dtype is DType.U8 else None
    port = Port("input_x", "x", TensorType(dtype, (2, 50), quant))
    low, span = (2, 249) if quant else (0, 2)
    recipe = Recipe(port, 0xDEADBEEF, 2.0**-9, low, span)
    state, want = 0xDEADBEEF, []
    for _ in range(100):
        state = (state * FACTOR + INCREMENT) % 2**32
        signed = state - 2**32 if state >> 31 else state
        want.append((signed >> recipe.shift) * 2.0**-9 if dtype.is_float else low + (state * span >> 32))
    found = recipe.generate()
    assert found.dtype == dtype.numpy and found.shape == (2, 50) and found.reshape(-1).tolist() == want
    assert len(set(want)) > (1 if span == 2 and not dtype.is_float else 40)


def test_the_digest_is_that_of_the_recurrence_and_takes_all_nan_as_one() -> None:
    port = Port("output_y", "y", tensor("f32", 20000))
    values = np.random.default_rng(0).normal(size=20000).astype(np.float32)
    values[7] = np.nan
    want = 0
    for bits in values.view(np.uint32).tolist():
        want = (want * DIGEST_FACTOR + (0x7F800001 if bits & 0x7FFFFFFF > 0x7F800000 else bits)) % 2**64
    assert golden_bytes(port, values) == want.to_bytes(8, "little")
    other = values.copy()
    other.view(np.uint32)[7] = 0xFFC12345
    assert golden_bytes(port, other) == golden_bytes(port, values)
    other.view(np.uint32)[0] ^= 1
    assert golden_bytes(port, other) != golden_bytes(port, values)


# -- files


def test_both_files_or_none(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = qc.parse(ADD)
    (tmp_path / "m.o").write_bytes(b"old object")
    (tmp_path / "m.h").write_bytes(b"old header")
    replace = os.replace

    def failing(source: str, target: str) -> None:
        if str(target).endswith("m.h") and str(source).endswith(".tmp"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", failing)
    with pytest.raises(ArtifactError, match="No space left"):
        export_object(graph, tmp_path / "m.o", AVX2)
    assert made_files(tmp_path) == ["m.h", "m.o"]
    assert (tmp_path / "m.o").read_bytes() == b"old object" and (tmp_path / "m.h").read_bytes() == b"old header"
    (tmp_path / "m.o").unlink()
    with pytest.raises(ArtifactError, match="No space left"):
        export_object(graph, tmp_path / "m.o", AVX2)
    assert made_files(tmp_path) == ["m.h"]
    monkeypatch.undo()
    made = export_object(graph, tmp_path / "m.o", AVX2)
    assert (tmp_path / "m.o").read_bytes() == made.data and (tmp_path / "m.h").read_text() == made.header
    assert made_files(tmp_path) == ["m.h", "m.o"]


def test_a_folder_in_the_place_of_the_header(tmp_path: pathlib.Path) -> None:
    (tmp_path / "m.h").mkdir()
    with pytest.raises(ArtifactError, match="cannot be written"):
        export_object(qc.parse(ADD), tmp_path / "m.o", AVX2)
    assert made_files(tmp_path) == ["m.h"]


def test_bytes_do_not_depend_on_the_hash_seed_nor_on_debug_memory(
    folder: pathlib.Path, demo_stages: dict[str, Graph]
) -> None:
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "qcompiler", "export", "demo.qc.safetensors", "--to", "object",
                   "--size", "B=2",
                   "--target", "x86-64-linux+avx2", "-o", f"seed{seed}.o"]  # fmt: skip
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        subprocess.run(command, check=True, env=environment, cwd=folder, capture_output=True)
    with knobs.GUARD(True):
        made = build_object(demo_stages["integer"], AVX2, sizes={"B": 2})
    assert (folder / "seed1.o").read_bytes() == (folder / "seed2.o").read_bytes() == made.data
    assert (folder / "seed1.h").read_text() == (folder / "seed2.h").read_text() == made.header


def mach_o_symbols(data: bytes) -> tuple[set[str], set[str]]:
    """The (defined, undefined) external symbols of the symbol table that LC_SYMTAB names."""
    at, (count,) = 32, struct.unpack_from("<I", data, 16)
    for _ in range(count):
        command, size = struct.unpack_from("<II", data, at)
        if command == 2:
            break
        at += size
    else:
        raise AssertionError("no symbol table")
    symbols, number, strings, _ = struct.unpack_from("<IIII", data, at + 8)
    defined, undefined = set(), set()
    for entry in range(symbols, symbols + 16 * number, 16):
        name, kind = struct.unpack_from("<IB", data, entry)
        if kind & 1:  # N_EXT
            start = strings + name
            (defined if kind & 0x0E else undefined).add(data[start : data.index(b"\0", start)].decode())
    return defined, undefined


@pytest.mark.parametrize(("target", "cpu"), [("x86-64-macos+avx2", 0x01000007), ("aarch64-macos+dotprod", 0x0100000C)])
@pytest.mark.parametrize("stage", ["integer", "fused"])
def test_objects_for_macos_are_mach_o(target: str, cpu: int, stage: str, demo_stages: dict[str, Graph]) -> None:
    data = build_object(demo_stages[stage], parse_target(target, exact=True), prefix="demo", sizes={"B": 1}).data
    magic, cpu_type, _, file_type = struct.unpack_from("<IIII", data)
    assert (magic, cpu_type, file_type) == (
        0xFEEDFACF,
        cpu,
        1,
    )  # MH_MAGIC_64, CPU_TYPE_X86_64 or CPU_TYPE_ARM64, MH_OBJECT
    defined, undefined = mach_o_symbols(data)
    assert defined == {"_demo_run", "_demo_self_test", "_demo_abi_version"}
    assert undefined <= {"_memcpy", "_memset", "_bzero"}  # all of libSystem


def test_a_named_level_holds_no_extras_of_this_machine() -> None:
    assert "vbmi" not in parse_target("x86-64+avx512vnni", exact=True).features
    assert "vbmi" not in build_object(qc.parse(ADD), parse_target("x86-64-linux+avx512vnni", exact=True)).header


# -- what is refused


def test_python_steps_are_named() -> None:
    graph = qc.parse("""qcompiler 1
graph g(%x: i8[4]{scale=0.25, zero_point=-5}) stage=integer {
  %fine = reshape(%x) {shape=(2, 2)} : i8[2,2]{scale=0.25, zero_point=-5}
  %real = dequantize(%fine) : f32[2,2]
  return %real
}
""")
    with pytest.raises(LoweringError, match="no kernel serves node real") as caught:
        build_object(graph, AVX2)
    assert "dequantize" in str(caught.value.where) and "is not u8" in str(caught.value.got)


def test_sizes_are_fixed_and_guards_hold() -> None:
    graph = qc.parse("""qcompiler 1
graph g(%x: f32[B,S]) stage=float {
  note "guard: B >= 2"
  %y = add(%x, %x) : f32[B,S]
  return %y
}
""")
    with pytest.raises(LoweringError, match="B, S may vary") as caught:
        build_object(graph, AVX2)
    assert "--size B=1 --size S=1" in str(caught.value)
    with pytest.raises(LoweringError, match="no size 'T'"):
        build_object(graph, AVX2, sizes={"B": 2, "S": 1, "T": 1})
    with pytest.raises(LoweringError, match="whole number from 1"):
        build_object(graph, AVX2, sizes={"B": 0, "S": 1})
    with pytest.raises(qc.errors.InputError, match="B >= 2"):
        build_object(graph, AVX2, sizes={"B": 1, "S": 4})
    assert build_object(graph, AVX2, sizes={"B": 3, "S": 4}).interface.inputs[0].elements == 12


def test_a_compiled_model_exports_itself(tmp_path: pathlib.Path) -> None:
    compiled = qc.compile(qc.parse(ADD), None, target="reference")
    compiled.export_object(tmp_path / "adds.o", target="x86-64-linux+avx2", prefix="net")
    assert (
        "int net_run(const float *input_x, const float *input_y, float *output_sum" in (tmp_path / "adds.h").read_text()
    )
    with pytest.raises(LoweringError, match="interpreter"):
        compiled.export_object(tmp_path / "adds.o", target="reference")


# -- the command line


def test_the_command_writes_both_and_says_so(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        export("--size", "B=1", "--target", "x86-64-linux+avx2", "--prefix", "net", "--io", "quantized", "-o", "m.o")
        == 0
    )
    told = capsys.readouterr()
    assert told.err == "" and "net_run for x86-64-linux+avx2" in told.out and "m.o and m.h" in told.out
    assert "const uint8_t *input_x" in (folder / "m.h").read_text()
    assert export("--size", "B=1", "--json", "-o", "n.o") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prefix"] == "fashionresnet" and found["object_bytes"] == (folder / "n.o").stat().st_size
    assert made_files(folder) == ["m.h", "m.o", "n.h", "n.o"]


MISTAKES = {
    "a size that varies": (["-o", "m.o"], "an object has fixed sizes, and B may vary"),
    "an unknown size": (["--size", "B=1", "--size", "C=1", "-o", "m.o"], "no size 'C'"),
    "a size given twice": (["--size", "B=1", "--size", "B=2", "-o", "m.o"], "--size B is given twice"),
    "wrong suffix": (["--size", "B=1", "-o", "m.obj"], "wrong suffix"),
    "no such folder": (["--size", "B=1", "-o", "nowhere/m.o"], "cannot be written"),
    "an unknown target": (["--target", "x86-46+avx2", "-o", "m.o"], "did you mean 'x86-64+avx2'"),
    "an unknown level": (["--target", "x86-64-linux+avx3", "-o", "m.o"], "unknown level 'avx3'"),
    "the interpreter": (["--target", "reference", "-o", "m.o"], "no object code"),
    "another system": (["--target", "x86-64-windows+avx2", "-o", "m.o"], "no object export for windows"),
    "a bad prefix": (["--prefix", "My-Net", "-o", "m.o"], "--prefix my_net"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_one_clear_error(mistake: str, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = MISTAKES[mistake]
    assert export(*arguments) == 1
    told = capsys.readouterr()
    assert told.out == "" and message in told.err and told.err.count("error:") == 1 and "internal" not in told.err
    assert made_files(folder) == []


@pytest.mark.parametrize("option", [["--target", "native"], ["--prefix", "a"], ["--size", "B=1"], ["--io", "float"]])
def test_options_of_objects_are_refused_elsewhere(
    option: list[str], folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", "demo.qc.safetensors", "--to", "text", "-o", "g.qir", *option]) == 1
    assert f"{option[0]} is for objects" in capsys.readouterr().err and made_files(folder) == []


def test_stages_between_are_refused(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "observed.qc.safetensors", "--to", "object", "-o", "m.o"]) == 1
    assert "stage observed is not lowered" in capsys.readouterr().err
