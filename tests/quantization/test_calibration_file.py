"""Files of calibrations: round trips, format 1, and every way a file can be damaged."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import qcompiler as qc
from qcompiler.errors import ArtifactError
from qcompiler.quantization.observers import SavableObserver, make_observer
from qcompiler.quantization.product_inputs import ProductInput
from tests.quantization.calibration_files import DIGEST_KEY, sealed
from tests.safetensors_files import join, parts

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "calibration_v1.safetensors"
W = np.array([[1, -2, 0.5], [0.25, 3, -1], [-1, 1, 2], [2, 0, -0.5]], np.float32)
X = np.arange(-8, 8, dtype=np.float32).reshape(4, 4) / 4


def model(x: np.ndarray) -> np.ndarray:
    return np.maximum(x @ W, 0)


def calibration(qconfig: str = "int8:minmax") -> qc.Calibration:
    return qc.calibrate(qc.prepare(model, qconfig, (X,)), [X])


def states(given: qc.Calibration) -> dict[str, dict[str, tuple[str, bytes]]]:
    found = {}
    for group, observer in given.items():
        assert isinstance(observer, SavableObserver)
        found[group] = {name: (str(array.dtype), array.tobytes()) for name, array in observer.state().items()}
    return found


@pytest.fixture
def saved(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "c.safetensors"
    calibration().save(path)
    return path


def refused(path: pathlib.Path, raw: bytes) -> ArtifactError:
    path.write_bytes(raw)
    with pytest.raises(ArtifactError) as caught:
        qc.Calibration.load(path)
    assert str(path) in str(caught.value.where)
    assert len(str(caught.value)) < 2000
    return caught.value


# -- what goes in comes out


@pytest.mark.parametrize("qconfig", ["int8", "int8:minmax", "int8:kl", "int8:percentile", "torch:fbgemm", "torch:x86"])
@pytest.mark.parametrize("interpreted", ["", 'no backend for "riscv64" \N{GREEK SMALL LETTER ALPHA}\n'])
def test_round_trip(tmp_path: pathlib.Path, qconfig: str, interpreted: str) -> None:
    path, given = tmp_path / "c.safetensors", calibration(qconfig)
    given.interpreted = interpreted
    given.save(path)
    raw = path.read_bytes()
    loaded = qc.Calibration.load(path)
    assert states(loaded) == states(given)
    assert (loaded.specs, loaded.members, loaded.interpreted) == (given.specs, given.members, interpreted)
    loaded.save(path)
    assert path.read_bytes() == raw
    assert given.kept_items is not None
    assert set(safetensors.numpy.load(raw)) == {
        *(f"item.{name}" for name in given.kept_items.state()),
        *(f"{number}.{field}" for number in range(len(given)) for field in next(iter(states(given).values()))),
        *(f"input{number}.{field}" for number in range(len(given.inputs)) for field in ProductInput.fields),
    }


@pytest.mark.parametrize("observer", ["histogram", "minmax", "moving_average", "torch_histogram", "percentile", "kl"])
@pytest.mark.parametrize(
    "values",
    [[], [0.0], [-0.0], [1e-45], [-1e-45], [3.4e38, -3.4e38], [1e-45, 3.4e38], [-1.0, 2.0], [5e9, 5e9], [-1e-39, 7.0]],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_every_state_that_data_gives_is_possible(tmp_path: pathlib.Path, observer: str, values: list[float]) -> None:
    spec = qc.QuantSpec(observer=observer)
    made = make_observer(spec)
    for array in (np.array(values, np.float32), np.array(values[:1], np.float32)):
        made.observe(array)
    given = qc.Calibration({"x": made}, {"x": spec}, {"x": ["x"]})
    given.save(tmp_path / "c")
    assert states(qc.Calibration.load(tmp_path / "c")) == states(given)


def test_bytes_depend_on_the_content_alone(tmp_path: pathlib.Path) -> None:
    given = calibration()
    given.save(tmp_path / "a")
    backwards = {group: given[group] for group in reversed(list(given))}
    members, inputs = (dict(reversed(each.items())) for each in (given.members, given.inputs))
    qc.Calibration(backwards, given.specs, members, inputs=inputs, kept_items=given.kept_items).save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_user_s_file_stays_if_saving_fails(saved: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def fails(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(ArtifactError, match="No space left"):
        calibration("int8").save(saved)
    assert saved.read_bytes() == before and os.listdir(saved.parent) == [saved.name]


# -- format 1


def test_format_1_loads_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        loaded = qc.Calibration.load(GOLDEN)
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "format 1" in caplog.text
    assert states(loaded) == states(calibration()) and loaded.interpreted == "no backend for riscv64"
    assert loaded.members == {}
    ours = qc.compile(model, "int8:minmax", (X,), calibration=loaded)
    assert np.array_equal(ours(X), qc.compile(model, "int8:minmax", (X,), calibration=calibration())(X))


def test_the_current_format_loads_without_a_warning(saved: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        qc.Calibration.load(saved)
    assert not caplog.records


def test_a_file_of_a_later_format_cannot_pass_for_format_1(saved: pathlib.Path) -> None:
    raw = saved.read_bytes()
    assert raw.count(b'\\"format\\": 3') == 1
    assert "damaged" in refused(saved, raw.replace(b'\\"format\\": 3', b'\\"format\\": 1')).message
    header, data = parts(raw)
    del header["__metadata__"][DIGEST_KEY]
    assert "no digest" in refused(saved, join(header, data)).message


# -- damage


def test_every_changed_byte_is_found(saved: pathlib.Path) -> None:
    raw = bytearray(saved.read_bytes())
    for place in range(len(raw)):
        for bit in (0, 5):
            raw[place] ^= 1 << bit
            refused(saved, bytes(raw))
            raw[place] ^= 1 << bit
    saved.write_bytes(raw)
    qc.Calibration.load(saved)


def test_every_cut_is_found(saved: pathlib.Path) -> None:
    raw = saved.read_bytes()
    for length in range(len(raw)):
        refused(saved, raw[:length])
    refused(saved, raw + b"\0")


def _set(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update(changes)


def _entry(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["groups"][0].update(changes)


CONTENT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no groups": lambda content: content.pop("groups"),
    "groups are a number": _set(groups=5),
    "groups are texts": _set(groups=["x"]),
    "a group is a list": _entry(group=[1]),
    "a group twice": lambda content: content["groups"].append(content["groups"][0]),
    "an unknown observer": _entry(spec="u8 [0,255] affine per_tensor nothing eps=1e-07"),
    "no spec": _entry(spec="u8"),
    "a range beyond the dtype": _entry(spec="u8 [0,256] affine per_tensor minmax eps=1e-07"),
    "another observer": _entry(spec="u8 [0,255] affine per_tensor histogram eps=1e-07"),
    "an observer with a bad number": _entry(spec="u8 [0,255] affine per_tensor percentile(1) eps=1e-07"),
    "infinite fixed parameters": _entry(spec="u8 [0,255] affine per_tensor fixed(0.1,1e999) eps=1e-07"),
    "fields are a number": _entry(fields=7),
    "fields of another name": _entry(fields=["high", "lowest"]),
    "a field is left over": _entry(fields=["high"]),
    "members are a number": _entry(members=7),
    "members are numbers": _entry(members=[7]),
    "a member twice": _entry(members=["x", "x"]),
    "no format": lambda content: content.pop("format"),
    "format 4": _set(format=4),
    "format true": _set(format=True),
    "format text": _set(format="2"),
    "interpreted is a number": _set(interpreted=1),
    "items are a number": _set(items=7),
    "an item is left over": _set(items=["keys", "limit"]),
    "an item that the file lacks": _set(items=["0.0", "0.1", "keys", "limit"]),
}


@pytest.mark.parametrize("case", CONTENT)
def test_sealed_content_that_means_nothing(saved: pathlib.Path, case: str) -> None:
    header, data = parts(saved.read_bytes())
    content = json.loads(header["__metadata__"]["calibration"])
    CONTENT[case](content)
    header["__metadata__"]["calibration"] = json.dumps(content)
    message = refused(saved, sealed(join(header, data))).message
    assert "format" in case or "not valid" in message
    assert "digest" not in message


def test_a_sealed_file_loads(saved: pathlib.Path) -> None:
    header, data = parts(saved.read_bytes())
    saved.write_bytes(sealed(join(header, data)))
    assert states(qc.Calibration.load(saved)) == states(calibration())


@pytest.mark.parametrize(
    "low,high",
    [(2.0, 1.0), (np.nan, 1.0), (-np.inf, 1.0), (0.0, np.inf), (np.inf, 1.0)],
)
def test_sealed_bounds_that_no_data_gives(saved: pathlib.Path, low: float, high: float) -> None:
    header, data = parts(saved.read_bytes())
    begin = header["0.low"]["data_offsets"][0], header["0.high"]["data_offsets"][0]
    changed = bytearray(data)
    for place, bound in zip(begin, (low, high)):
        changed[place : place + 4] = np.float32(bound).tobytes()
    assert "impossible" in str(refused(saved, sealed(join(header, bytes(changed)))))


@pytest.mark.parametrize("qconfig", ["int8", "torch:fbgemm"])
def test_sealed_counts_that_no_data_gives(tmp_path: pathlib.Path, qconfig: str) -> None:
    path, given = tmp_path / "c", calibration(qconfig)
    for change in (
        lambda counts: np.zeros_like(counts),
        lambda counts: -counts,
        lambda counts: counts[:-1],
        lambda counts: counts.astype(np.float64),
        lambda counts: np.full_like(counts, 2.0**60),
    ):
        observer = make_observer(given.specs["x"])
        state = dict(given["x"].state())  # type: ignore[attr-defined]
        for name, array in {**state, "counts": change(state["counts"])}.items():
            setattr(observer, name, array)
        qc.Calibration({"x": observer}, {"x": given.specs["x"]}).save(path)
        refused(path, path.read_bytes())


def test_counts_and_bounds_that_contradict_each_other(tmp_path: pathlib.Path) -> None:
    given = calibration("int8")
    for name, value in (("low", np.float32(-100)), ("high", np.float32(0)), ("exponent", 119), ("exponent", -127)):
        observer = make_observer(given.specs["x"])
        for field, array in {**given["x"].state(), name: value}.items():  # type: ignore[attr-defined]
            setattr(observer, field, array)
        qc.Calibration({"x": observer}, {"x": given.specs["x"]}).save(tmp_path / "c")
        assert "impossible" in str(refused(tmp_path / "c", (tmp_path / "c").read_bytes()))


@pytest.mark.parametrize("nested", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000])
def test_json_that_is_nested_too_deep(saved: pathlib.Path, nested: bytes) -> None:
    for header in (nested, b'{"__metadata__":' + nested):
        assert "JSON" in refused(saved, struct.pack("<Q", len(header)) + header).message
    text = json.dumps({"__metadata__": {"calibration": nested.decode()}}).encode()
    assert "JSON" in refused(saved, struct.pack("<Q", len(text)) + text).message


def test_other_files(saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    qc.compile(model, None, (X,)).save(saved)
    assert "no calibration" in refused(saved, saved.read_bytes()).message
    refused(saved, safetensors.numpy.save({"a": X}))
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ArtifactError, match="cannot be read"):
            qc.Calibration.load(path)
    calibration().save(tmp_path / "c")
    with pytest.raises(ArtifactError, match="no saved model"):
        qc.load(tmp_path / "c", target="reference")
