"""Artifacts: round trips, bytes that depend on the graph alone, atomic saving, and all ways in which a file can be
damaged."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings

from qcompiler.artifact import header as artifact_header
from qcompiler.artifact import load_artifact, load_graph, save_graph
from qcompiler.artifact import saved_model as artifact
from qcompiler.errors import ArtifactError, VerifyError
from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.notes import Remark
from qcompiler.text.compare import first_difference
from qcompiler.text.printer import graph_data
from qcompiler.types import DType, QuantParams, TensorType, tensor
from tests.safetensors_files import join, parts
from tests.sample_graphs import CASE_IDS, CASES, graphs, sample_graph

HERE = pathlib.Path(__file__).resolve().parents[1]
GOLDEN = HERE / "golden" / "artifact_v1.qc.safetensors"


def small_graph() -> Graph:
    """An integer linear with per-channel weights, an odd name, a note and named outputs. The golden file holds it."""
    graph = Graph("tiny", "integer")
    x = graph.add_input("x", tensor("f32", "B", 4))
    quant = QuantParams.per_tensor(0.0625, 128, DType.U8)
    xq = graph.create("quantize", [x], types=tensor("f32", "B", 4).quantized(DType.U8, quant), names="xq").result
    weight = QuantParams.per_channel([0.5, 0.25, 0.125], 0, 0, DType.I8, -127, 127)
    w = graph.add_const(
        "fc.weight", np.arange(-6, 6, dtype=np.int8).reshape(3, 4), TensorType(DType.I8, (3, 4), weight)
    )
    bias = QuantParams.per_channel(0.0625 * weight.scales, 0, 0, DType.I32)
    b = graph.add_const("fc bias", np.array([-7, 0, 1000], np.int32), TensorType(DType.I32, (3,), bias))
    out = tensor("f32", "B", 3).quantized(DType.U8, QuantParams.per_tensor(0.1, 7, DType.U8))
    y = graph.create("linear", [xq, w, b], {"activation": "relu"}, types=out, names="y").result
    real = graph.create("dequantize", [y], types=tensor("f32", "B", 3), names="real").result
    graph.notes.append(Remark("float: nothing stayed float"))
    graph.set_outputs([real], ["logits"])
    return graph


@pytest.fixture
def saved(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "m.qc.safetensors"
    save_graph(small_graph(), path)
    return path


def sealed(header: dict[str, Any], data: bytes) -> bytes:
    """A file whose digest fits, so that the checks behind the digest's are reached."""
    header["__metadata__"]["qcompiler.sha256"] = hashlib.sha256(data).hexdigest()
    return join(header, data)


def refused(path: pathlib.Path, raw: bytes) -> ArtifactError:
    path.write_bytes(raw)
    with pytest.raises(ArtifactError) as caught:
        load_graph(path)
    assert str(path) in str(caught.value.where)
    return caught.value


# -- what goes in comes out


def test_round_trip_keeps_graph_data_and_results(saved):
    graph, loaded = small_graph(), load_graph(saved)
    assert first_difference(graph, loaded) is None
    x = np.random.default_rng(0).uniform(-9, 9, (5, 4)).astype(np.float32)
    assert np.array_equal(run(graph, [x])[0], run(loaded, [x])[0])
    assert not any(const.data.flags.writeable for const in loaded.consts.values())


@pytest.mark.parametrize("stage", ["float", "fused", "observed", "qdq", "integer"])
def test_demo_round_trip(demo_stages, demo_images, tmp_path, stage):
    path = tmp_path / "demo.qc.safetensors"
    save_graph(demo_stages[stage], path)
    loaded = load_graph(path)
    assert first_difference(demo_stages[stage], loaded) is None
    if stage == "integer":
        assert np.array_equal(run(loaded, [demo_images])[0], run(demo_stages[stage], [demo_images])[0])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
def test_every_ops_samples(case, tmp_path):
    graph = sample_graph(*case)
    save_graph(graph, tmp_path / "g")
    assert first_difference(graph, load_graph(tmp_path / "g")) is None


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(graph=graphs())
def test_generated_graphs(graph, tmp_path):
    save_graph(graph, tmp_path / "g")
    first = (tmp_path / "g").read_bytes()
    loaded = load_graph(tmp_path / "g")
    assert first_difference(graph, loaded) is None
    save_graph(loaded, tmp_path / "g")
    assert (tmp_path / "g").read_bytes() == first


def test_the_safetensors_library_reads_what_we_write(saved):
    arrays = safetensors.numpy.load(saved.read_bytes())
    text = arrays.pop("graph.qir").tobytes().decode()
    assert text == str(small_graph())
    expected = graph_data(small_graph())
    assert arrays.keys() == expected.keys()
    assert all(
        np.array_equal(arrays[name], expected[name]) and arrays[name].dtype == expected[name].dtype for name in arrays
    )


def test_every_dtype_empty_arrays_and_scalars(tmp_path):
    graph = Graph()
    x = graph.add_input("x", tensor("f32", 1))
    for dtype in DType:
        for shape in ((), (0, 3), (3,), (2, 0), (2, 3)):
            data = (np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(dtype.numpy)
            graph.add_const(f"{dtype}{len(shape)}", data, TensorType(dtype, shape))
    graph.set_outputs([x])
    save_graph(graph, tmp_path / "g")
    assert first_difference(graph, load_graph(tmp_path / "g")) is None
    lengths = {
        len(header["data_offsets"])
        for name, header in parts((tmp_path / "g").read_bytes())[0].items()
        if name != "__metadata__"
    }
    assert lengths == {2}


@pytest.mark.parametrize(
    "name", ["graph.qir", "__metadata__", "const:x", "const:", "graph.qir2", "../../etc/passwd", "/tmp/x", "ü" * 500]
)
def test_names_that_the_format_needs_or_that_look_like_paths(tmp_path, name):
    graph = Graph()
    x = graph.add_input("x", tensor("f32", 2))
    c = graph.add_const(name, np.array([1, 2], np.float32))
    assert c.name == name
    graph.set_outputs([graph.create("add", [x, c]).result])
    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    save_graph(graph, folder / "g")
    loaded = load_graph(folder / "g")
    assert list(loaded.consts) == [name] and np.array_equal(loaded.consts[name].data, c.data)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["in", "in/side", "in/side/g"]


def test_metadata_comes_back_and_reserved_keys_are_refused(tmp_path):
    given_data = {"source": "model.onnx", "ü": "\n\"'", "a": ""}
    save_graph(small_graph(), tmp_path / "g", given_data)
    assert load_artifact(tmp_path / "g").metadata == given_data
    for bad in ({"qcompiler": "9"}, {"qcompiler.sha256": ""}, {"x": 1}, {"x": "\ud800"}):
        with pytest.raises(ArtifactError, match="metadata"):
            save_graph(small_graph(), tmp_path / "bad", bad)
    assert not (tmp_path / "bad").exists()


def test_an_illegal_graph_is_not_saved(tmp_path):
    graph = small_graph()
    graph.stage = "float"
    with pytest.raises(VerifyError):
        save_graph(graph, tmp_path / "g")
    assert list(tmp_path.iterdir()) == []


# -- the same bytes, always


def test_bytes_do_not_depend_on_the_hash_seed(tmp_path):
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\nfrom tests.artifact.test_artifact import small_graph, save_graph\n"
        "save_graph(small_graph(), sys.argv[1], {'b': '1', 'a': '2', 'c': '3'})"
    )
    found = set()
    for seed in ("0", "1", "4711"):
        path = tmp_path / seed
        subprocess.run(
            [sys.executable, "-c", code, str(path), str(HERE), str(HERE.parent)],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
            timeout=120,
        )
        found.add(path.read_bytes())
    assert len(found) == 1


def test_golden_artifact_stays_readable(request):
    if request.config.getoption("--update-golden"):
        save_graph(small_graph(), GOLDEN, {"written by": "tests"})
    found = load_artifact(GOLDEN)
    assert first_difference(found.graph, small_graph()) is None
    assert found.metadata == {"written by": "tests"}
    x = np.array([[1, -2, 0.5, 8]], np.float32)
    assert np.array_equal(run(found.graph, [x])[0], run(small_graph(), [x])[0])


def test_the_golden_bytes_are_what_is_written_today(tmp_path):
    save_graph(small_graph(), tmp_path / "g", {"written by": "tests"})
    assert (tmp_path / "g").read_bytes() == GOLDEN.read_bytes()


# -- saving is all or nothing


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failure_at_any_step_leaves_the_old_file(saved, monkeypatch, step):
    before = saved.read_bytes()

    def fail(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    if step == "write":
        monkeypatch.setattr(artifact, "_parts", lambda array: iter_then_fail(array, fail))
    else:
        monkeypatch.setattr(artifact.os, step, fail)
    other = small_graph()
    other.notes.append(Remark("another"))
    with pytest.raises(ArtifactError, match="No space left on device") as caught:
        save_graph(other, saved)
    monkeypatch.undo()
    assert saved.read_bytes() == before and str(saved) in str(caught.value)
    assert list(saved.parent.iterdir()) == [saved]


_calls = {"parts": 0}


def iter_then_fail(array: np.ndarray, fail: Callable[[], None]):
    _calls["parts"] += 1
    if _calls["parts"] > 9:  # the digest reads every array once before the first byte is written
        _calls["parts"] = 0
        fail()
    yield array.reshape(-1).view(np.uint8).data


def test_interrupting_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(artifact.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_graph(small_graph(), saved, {"other": "1"})
    monkeypatch.undo()
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


def test_saving_over_the_file_that_was_loaded(saved):
    loaded = load_graph(saved)
    expected = run(loaded, [np.ones((1, 4), np.float32)])[0]
    save_graph(loaded, saved, {"again": "yes"})
    assert np.array_equal(run(loaded, [np.ones((1, 4), np.float32)])[0], expected)
    assert first_difference(load_graph(saved), loaded) is None


def test_mode_and_symlinks_are_kept(saved, tmp_path):
    os.chmod(saved, 0o640)
    link = tmp_path / "link"
    link.symlink_to(saved)
    save_graph(small_graph(), link, {"new": "1"})
    assert link.is_symlink() and load_artifact(saved).metadata == {"new": "1"}
    assert stat.S_IMODE(saved.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "path, message", [("no/such/folder/m", "folder .* does not exist"), (".", "cannot be written")]
)
def test_paths_that_cannot_be_written(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=message):
        save_graph(small_graph(), path)
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ArtifactError, match="cannot be read"):
            load_graph(path)


# -- damage


def test_truncated_at_every_byte(saved):
    raw = saved.read_bytes()
    for length in range(len(raw)):
        refused(saved, raw[:length])


def test_anything_appended(saved):
    raw = saved.read_bytes()
    for tail in (b"\0", b" ", raw):
        assert "size does not fit" in refused(saved, raw + tail).message


@pytest.mark.parametrize("step", [8, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_every_bit_flipped_is_refused(saved, step):
    """One bit of each byte, or with step 2 four bits; they are others in the next byte."""
    raw = bytearray(saved.read_bytes())
    for position in range(len(raw)):
        for bit in range(position % step, 8, step):
            raw[position] ^= 1 << bit
            refused(saved, bytes(raw))
            raw[position] ^= 1 << bit


@pytest.mark.parametrize("length", [0, 1, 7, 16 * 2**20 + 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1])
def test_header_lengths(saved, length):
    refused(saved, struct.pack("<Q", length) + saved.read_bytes()[8:])


@pytest.mark.parametrize("shift", [-8, -1, 1, 8])
def test_header_lengths_near_the_true_one(saved, shift):
    raw = saved.read_bytes()
    refused(saved, struct.pack("<Q", struct.unpack("<Q", raw[:8])[0] + shift) + raw[8:])


def test_the_header_limit_itself(saved, monkeypatch):
    raw = saved.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    monkeypatch.setattr(artifact_header, "MAX_HEADER", length)
    load_graph(saved)
    monkeypatch.setattr(artifact_header, "MAX_HEADER", length - 1)
    assert "length is impossible" in refused(saved, raw).message
    with pytest.raises(ArtifactError, match="too large for the format"):
        save_graph(small_graph(), saved)


def test_the_entry_limit_itself(saved, monkeypatch):
    count = len(parts(saved.read_bytes())[0]) - 1
    monkeypatch.setattr(artifact_header, "MAX_ENTRIES", count)
    load_graph(saved)
    monkeypatch.setattr(artifact_header, "MAX_ENTRIES", count - 1)
    assert "too many tensors" in refused(saved, saved.read_bytes()).message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"a":1}{',
        "{}x",
        '{"__metadata__":{"qcompiler":NaN}}',
        '{"a":' + "[" * 100_000,
        "\xff\xfe",
        '"' * 10,
        '{"a":' + "9" * 10_000 + "}",
        " {}",
    ],
)
def test_headers_that_are_not_json_objects(saved, text):
    refused(saved, join(text, b""))


def test_duplicate_names_at_every_level(saved):
    header, data = parts(saved.read_bytes())
    good = json.dumps(header)
    entry = json.dumps(header["fc.weight"])
    for bad in (
        good[:-1] + f', "fc.weight": {entry}}}',
        good[:-1] + f', "fc\\u002eweight": {entry}}}',
        good.replace('"dtype": "I8"', '"dtype": "I8", "dtype": "I8"'),
        good.replace('"qcompiler": "1"', '"qcompiler": "1", "qcompiler": "1"'),
        good[:-1] + ', "__metadata__": {}}',
    ):
        assert bad != good
        assert "twice" in refused(saved, join(bad, data)).message


@pytest.mark.parametrize("version", ["0", "3", "01", "", "1.0", "9" * 5000])
def test_other_versions(saved, version):
    header, data = parts(saved.read_bytes())
    header["__metadata__"]["qcompiler"] = version
    error = refused(saved, join(header, data))
    assert "another version" in error.message and error.expected == "1 or 2"


def test_files_of_other_programs(saved):
    saved.write_bytes(safetensors.numpy.save({"weight": np.zeros(3, np.float32)}, {"format": "pt"}))
    with pytest.raises(ArtifactError, match="no saved model"):
        load_graph(saved)
    for raw in (b"", b"PK\x03\x04" + bytes(100), b"\x80\x04\x95" + bytes(100), b"\x89PNG\r\n\x1a\n" + bytes(100)):
        refused(saved, raw)


SPOILS: dict[str, Callable[[dict[str, Any]], None]] = {
    "hole": lambda e: e["data_offsets"].__setitem__(0, e["data_offsets"][0] + 1),
    "begin after end": lambda e: e["data_offsets"].reverse(),
    "end past the data": lambda e: e["data_offsets"].__setitem__(1, 2**40),
    "negative offset": lambda e: e["data_offsets"].__setitem__(0, -1),
    "offset 2^63": lambda e: e.update(data_offsets=[2**63, 2**63 + 12]),
    "offset 2^64": lambda e: e.update(data_offsets=[2**64, 2**64 + 12]),
    "float offset": lambda e: e.update(data_offsets=[0.0, 12.0]),
    "bool offset": lambda e: e.update(data_offsets=[False, 12]),
    "three offsets": lambda e: e["data_offsets"].append(0),
    "text offsets": lambda e: e.update(data_offsets="0,12"),
    "negative size": lambda e: e.update(shape=[-3, -4]),
    "bool size": lambda e: e.update(shape=[True, 12]),
    "float size": lambda e: e.update(shape=[3.0, 4]),
    "wrapping sizes": lambda e: e.update(shape=[2**32, 2**32, 12]),
    "huge size": lambda e: e.update(shape=[2**63]),
    "rank 9": lambda e: e.update(shape=[3, 4, 1, 1, 1, 1, 1, 1, 1]),
    "huge rank": lambda e: e.update(shape=[1] * 100_000),
    "no shape": lambda e: e.pop("shape"),
    "other shape": lambda e: e.update(shape=[4, 3]),
    "smaller shape": lambda e: e.update(shape=[3, 3]),
    "unknown dtype": lambda e: e.update(dtype="F8_E4M3"),
    "other dtype": lambda e: e.update(dtype="U8"),
    "wider dtype": lambda e: e.update(dtype="I32"),
    "null dtype": lambda e: e.update(dtype=None),
    "list dtype": lambda e: e.update(dtype=["I8"]),
    "extra field": lambda e: e.update(path="/etc/passwd"),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_malformed_entries(saved, spoil):
    header, data = parts(saved.read_bytes())
    SPOILS[spoil](header["fc.weight"])
    refused(saved, join(header, data))


def test_entries_that_overlap(saved):
    header, data = parts(saved.read_bytes())
    header["fc.weight2"] = dict(header["fc.weight"])
    assert "overlaps" in refused(saved, join(header, data)).message


def test_data_that_no_entry_names(saved):
    header, data = parts(saved.read_bytes())
    assert "fit its tensors" in refused(saved, sealed(header, data + bytes(8))).message


def test_a_missing_constant(saved):
    header, data = parts(saved.read_bytes())
    begin, end = header["fc.weight"]["data_offsets"]
    del header["fc.weight"]
    for entry in header.values():
        if "data_offsets" in entry:
            entry["data_offsets"] = [offset - (end - begin if offset >= end else 0) for offset in entry["data_offsets"]]
    error = refused(saved, sealed(header, data[:begin] + data[end:]))
    assert "have no data" in error.message and "fc.weight" in error.got


def test_an_extra_constant(saved):
    header, data = parts(saved.read_bytes())
    header["stowaway"] = {"dtype": "U8", "shape": [3], "data_offsets": [len(data), len(data) + 3]}
    error = refused(saved, sealed(header, data + b"abc"))
    assert "does not name" in error.message and error.got == "stowaway"


def test_reserved_names_that_were_never_written(saved):
    header, data = parts(saved.read_bytes())
    header["graph.qir.more"] = {"dtype": "U8", "shape": [3], "data_offsets": [len(data), len(data) + 3]}
    assert "reserved" in refused(saved, sealed(header, data + b"abc")).message


@pytest.mark.parametrize(
    "text, message",
    [
        (b"qcompiler 1\ngraph", "unexpected end"),
        (b"qcompiler 2\n", "not valid"),
        (b"\xff\xfe", "UTF-8"),
        (b"", "unexpected end"),
        (b"qcompiler 1\ngraph g(%x: f32[2]) stage=float {\n  return\n}\n", "returns something"),
        (b"qcompiler 1\nentry g\ngraph g(%x: f32[2]) stage=float {\n  return %x\n}\n", "several graphs"),
    ],
)
def test_text_that_is_no_legal_graph(saved, text, message):
    header = {
        "__metadata__": {"qcompiler": "1"},
        "graph.qir": {"dtype": "U8", "shape": [len(text)], "data_offsets": [0, len(text)]},
    }
    assert message in refused(saved, sealed(header, text)).message


@pytest.mark.parametrize("change", [{"dtype": "I8"}, {"shape": [1, 100]}])
def test_text_of_another_type(saved, change):
    header = {
        "__metadata__": {"qcompiler": "1"},
        "graph.qir": {"dtype": "U8", "shape": [100], "data_offsets": [0, 100], **change},
    }
    assert "text is malformed" in refused(saved, sealed(header, bytes(100))).message


def test_bools_are_0_or_1(tmp_path):
    graph = Graph()
    x = graph.add_input("x", tensor("f32", 2))
    graph.add_const("mask", np.array([True, False]))
    graph.set_outputs([x])
    save_graph(graph, tmp_path / "g")
    header, data = parts((tmp_path / "g").read_bytes())
    begin = header["mask"]["data_offsets"][0]
    assert "bool" in refused(tmp_path / "g", sealed(header, data[:begin] + b"\2\1" + data[begin + 2 :])).message


def test_a_huge_sparse_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 16))
        file.write(b'{"a":1}         ')
        file.truncate(2**40)
    with pytest.raises(ArtifactError):
        load_graph(path)


def test_codes_outside_the_quantized_range(saved):
    header, data = parts(saved.read_bytes())
    begin = header["fc.weight"]["data_offsets"][0]
    error = refused(saved, sealed(header, data[:begin] + b"\x80" + data[begin + 1 :]))
    assert "quantized range" in error.message


def test_an_unknown_op(saved):
    header, data = parts(saved.read_bytes())
    begin, end = header["graph.qir"]["data_offsets"]
    text = data[begin:end].replace(b"= linear(", b"= linxar(")
    error = refused(saved, sealed(header, data[:begin] + text + data[end:]))
    assert "unknown op" in error.message and "linear" in str(error.hint)
