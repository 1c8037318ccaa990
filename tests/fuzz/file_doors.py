"""The doors of saved files: models, calibrations, and arrays as .npy and .npz."""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import qcompiler as qc
from qcompiler.artifact import header as form
from qcompiler.artifact import load_graph, save_graph
from qcompiler.artifact.saved_model import TEXT
from qcompiler.cli.inputs import open_data, read_arrays
from qcompiler.errors import ArtifactError, InputError, QCompilerError, QuantizationError
from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.quantization.observers import SavableObserver
from qcompiler.text.compare import first_difference
from qcompiler.types import tensor
from tests.artifact.test_artifact import sealed, small_graph
from tests.fuzz.accepted import OBSERVED, check_text
from tests.fuzz.damage import ODD_FLOATS, ODD_INTS, ODD_NAMES, Chance, damaged
from tests.fuzz.door import generator
from tests.fuzz.minimize import shorter_bytes
from tests.fuzz.text_door import damaged_text
from tests.quantization import calibration_files
from tests.safetensors_files import join, parts
from tests.sample_graphs import CASES, sample_graph


def made_by(write: Callable[[Path], object]) -> bytes:
    """The bytes that `write` writes to a path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write(path)
        return path.read_bytes()


def damaged_json(value: Any, chance: Chance) -> Any:
    """A JSON value with one part changed: another number, text or kind, a part dropped, repeated or nested deep."""
    if isinstance(value, dict) and value and chance.often(0.85):
        key = chance.one(list(value))
        if chance.often(0.15):
            return {name: part for name, part in value.items() if name != key}
        if chance.often(0.1):
            return {**value, chance.one(ODD_NAMES): value[key]}
        return {**value, key: damaged_json(value[key], chance)}
    if isinstance(value, list) and value and chance.often(0.85):
        at = chance.below(len(value))
        kept = value[:at] if chance.often(0.2) else [*value[:at], damaged_json(value[at], chance)]
        return [*kept, *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and chance.often(0.7):
        return chance.one([value + 1, value - 1, -value, 2 * value, chance.one(ODD_INTS)])
    if isinstance(value, str) and chance.often(0.6):
        return chance.one([damaged_text(value, chance), value[: chance.below(len(value) + 1)], *ODD_NAMES[:12]])
    return chance.one([None, True, 0, -1, 0.5, 1e300, 10**30, "", "x", [], [[]], {}, {"x": 1}, chance.one(ODD_FLOATS)])


def damaged_file(
    raw: bytes,
    chance: Chance,
    change: Callable[[dict[str, Any], bytes], bytes],
    seal: Callable[[dict[str, Any], bytes], bytes],
) -> bytes:
    """A safetensors file with its header, its data or any bytes damaged. Mostly the digest is made to fit again.

    Args:
        change: gives other data for a header and its data, and may change the header in place.
        seal: joins a header and data, with the digest that fits them.
    """
    if chance.often(0.2):
        return damaged(raw, chance)
    header, data = parts(raw)
    kind = chance.one([0, 1, 2, 2, 2, 2, 3, 4])
    if kind == 0:
        header = damaged_json(header, chance)
    elif kind == 1:
        data = damaged(data, chance)
    elif kind == 2:
        data = change(header, data)
    elif kind == 3:
        key = form.METADATA
        header = {**header, key: damaged_json(header[key], chance)}
    else:
        nested = "[" * chance.one([10, 1000, 100_000])
        text = json.dumps(header)
        at = chance.below(len(text))
        return join(text[:at] + nested + text[at:], data)
    if chance.often(0.1) or not isinstance(header, dict) or not isinstance(header.get(form.METADATA), dict):
        return join(header, data)
    return seal(header, data)


class _Files:
    """The base of the doors of files, whose inputs are files in the working folder."""

    suffix = ".safetensors"

    def write(self, data: bytes, name: str = "in") -> Path:
        path = Path(name + self.suffix)
        path.write_bytes(data)
        return path

    def is_clear(self, error: QCompilerError) -> bool:
        return isinstance(error, ArtifactError)

    def smaller(self, data: bytes) -> Iterator[bytes]:
        return shorter_bytes(data)


# -- saved models


@cache
def _model(index: int) -> bytes:
    graph = small_graph() if index < 0 else sample_graph(*CASES[index])
    return made_by(lambda path: save_graph(graph, path))


class Artifact(_Files):
    """Loads a model, saves it, and loads it again."""

    def draw(self, seed: int) -> bytes:
        chance = Chance(generator("artifact", seed))
        raw = _model(-1 if chance.often(0.4) else chance.below(len(CASES)))

        def other_text(header: dict[str, Any], data: bytes) -> bytes:
            begin, end = header[TEXT]["data_offsets"]
            text = damaged_text(data[begin:end].decode(), chance).encode("utf-8", "surrogatepass")
            grown = len(text) - (end - begin)
            for name, entry in header.items():
                if name != form.METADATA:
                    entry["data_offsets"] = [at + grown if at > begin else at for at in entry["data_offsets"]]
            header[TEXT]["shape"] = [len(text)]
            return data[:begin] + text + data[end:]

        return damaged_file(raw, chance, other_text, sealed)

    def run(self, data: bytes) -> str:
        path = self.write(data)
        graph = load_graph(path)
        check_text(graph)
        save_graph(graph, "out.safetensors")
        assert first_difference(graph, load_graph("out.safetensors")) is None, "saved and loaded, it differs"
        try:
            model = qc.load(path, target="reference")
        except ArtifactError:
            return "a graph"  # no compiled model
        assert first_difference(graph, model.graph) is None, "load and load_graph give different graphs"
        return "a model"


# -- calibrations


@cache
def _calibration(index: int) -> bytes:
    graph = Graph("g")
    x = graph.add_input("x", tensor("f32", "B", 4))
    w = graph.add_const("w", np.eye(3, 4, dtype=np.float32))
    graph.set_outputs([graph.create("relu", [graph.create("linear", [x, w, None]).result]).result])
    rng = np.random.default_rng(index)
    batches = [(rng.normal(size=(2, 4)).astype(np.float32),) for _ in range(2)]
    calibration = qc.calibrate(qc.prepare(graph, OBSERVED[index]), batches)
    return made_by(calibration.save)


class CalibrationFile(_Files):
    """Loads a calibration, chooses parameters, merges, saves, and loads it again."""

    def draw(self, seed: int) -> bytes:
        chance = Chance(generator("calibration", seed))

        def other_arrays(header: dict[str, Any], data: bytes) -> bytes:
            held = bytearray(data)
            for _ in range(1 + chance.below(3)):
                entry = header[chance.one([name for name in header if name != form.METADATA])]
                begin, end = entry["data_offsets"]
                size = {"F64": 8, "I64": 8, "F32": 4, "I32": 4}.get(entry["dtype"], 1)
                if end > begin:
                    at = begin + size * chance.below((end - begin) // size)
                    number = chance.one(ODD_FLOATS) if entry["dtype"] == "F64" else chance.one(ODD_INTS)
                    odd = np.array(number).astype("f8" if entry["dtype"] == "F64" else "i8")
                    held[at : at + size] = odd.tobytes()[:size]
            return bytes(held)

        return damaged_file(
            _calibration(chance.below(len(OBSERVED))),
            chance,
            other_arrays,
            lambda *parts: calibration_files.sealed(join(*parts)),
        )

    def run(self, data: bytes) -> str:
        calibration = qc.Calibration.load(self.write(data))
        assert repr(calibration)
        for observer in calibration.values():
            try:
                params = observer.qparams()
            except QuantizationError:
                continue
            assert (params.scales > 0).all() and np.isfinite(params.scales).all(), "a scale is not positive"
        calibration.save("out.safetensors")
        again = qc.Calibration.load("out.safetensors")
        assert list(again) == sorted(calibration) and again.specs == calibration.specs, "saved and loaded, it differs"
        for group, observer in calibration.items():
            other = again[group]
            assert isinstance(observer, SavableObserver) and isinstance(other, SavableObserver)
            for (name, one), two in zip(observer.state().items(), other.state().values(), strict=True):
                assert np.array_equal(one, two, equal_nan=one.dtype.kind == "f"), f"{name} differs after saving"
        try:
            calibration + again
        except QuantizationError:
            return "loaded"
        return "merged"


# -- arrays


@cache
def _arrays(index: int) -> bytes:
    rng = np.random.default_rng(index)
    arrays: list[Any] = [
        rng.normal(size=(4, 3)).astype(np.float32),
        rng.integers(-5, 5, (2, 2)),
        np.zeros((0, 3), np.float32),
        np.float32(1.5),
        np.asfortranarray(rng.normal(size=(3, 2))),
        np.array(["a", "bc"]),
        np.zeros(2, [("a", "f4"), ("b", "i2")]),
        np.array([{}, None]),
    ]
    made = io.BytesIO()
    if index < len(arrays):
        np.save(made, arrays[index])
    else:
        save = np.savez if index % 2 else np.savez_compressed
        save(made, x=arrays[0], y=arrays[index % len(arrays)])
    return made.getvalue()


_FIELD = re.compile(rb"'(?:descr|fortran_order|shape)'|\d+|True|False|'[<>|=]?[a-zA-Z]\d+'|[(){},:]")
_SPELLINGS = [b"'O'", b"'<f4'", b"'V8'", b"'<U2147483647'", b"[('a','<f4')]", b"None", b"-1", b"1e9", b"10000000000",
              b"1152921504606846976", b"(", b")", b"{", b"[" * 500, b"'shape'", b"True", b"\xff", b"\n", b"lambda:0",
              b"'<f4,'", b"'M8[ns]'", b"''"]  # fmt: skip


class DataFile(_Files):
    """Reads arrays as .npy and as .npz, by name and as calibration data."""

    suffix = ".bin"

    def draw(self, seed: int) -> bytes:
        chance = Chance(generator("data", seed))
        raw = _arrays(chance.below(20))
        start = raw.find(b"{'descr'")
        if chance.often(0.6) or start < 0:
            return damaged(raw, chance)
        end = raw.index(b"\n", start)
        head, found = raw[start:end], list(_FIELD.finditer(raw[start:end]))
        for _ in range(1 + chance.below(2)):
            found = list(_FIELD.finditer(head))
            if not found:
                break
            at = chance.one(found)
            head = head[: at.start()] + chance.one(_SPELLINGS) + head[at.end() :]
        length = (len(head) + 1).to_bytes(2, "little")
        return raw[: start - 2] + length + head + raw[end:]

    def run(self, data: bytes) -> str:
        graph = Graph("g")
        graph.set_outputs([graph.create("relu", [graph.add_input("x", tensor("f32", "B", 3))]).result])
        ended, refusal = "", None
        for suffix in (".npy", ".npz"):
            path = Path("in" + suffix)
            path.write_bytes(data)
            try:
                arrays = read_arrays(path)
                assert all(isinstance(array, np.ndarray) for array in arrays.values()), "not arrays"
                assert all(array.dtype != object for array in arrays.values()), "objects were read"
                ended = ended or "read"
                given = open_data(str(path), graph, 2)
                for item in given:
                    run(graph, item)
                    ended = "ran"
            except QCompilerError as error:
                if not self.is_clear(error):
                    raise
                refusal = error
        if not ended and refusal is not None:
            raise refusal
        return ended

    def is_clear(self, error: QCompilerError) -> bool:
        return isinstance(error, InputError)
