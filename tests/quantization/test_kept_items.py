"""The items that calibration keeps are the same in any order of the data, on any workers, and after a file."""

from __future__ import annotations

import itertools
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.quantization import kept_items
from qcompiler.quantization.kept_items import KeptItems
from tests.quantization.test_calibration_file import model

RNG = np.random.default_rng(0)
DATA = [RNG.normal(size=(4, 4)).astype(np.float32) for _ in range(20)]


def kept(data: list[np.ndarray], limit: int = 8) -> KeptItems:
    made = KeptItems(limit)
    for each in data:
        made.take([each])
    return made


def same(a: KeptItems, b: KeptItems) -> bool:
    first, second = a.state(), b.state()
    return set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)


def test_the_order_and_the_parts_make_no_difference() -> None:
    whole = kept(DATA)
    assert len(whole.items) == 8
    assert same(kept(DATA[::-1]), whole) and same(kept(DATA * 2), whole)
    for parts in itertools.permutations([DATA[:3], DATA[3:9], DATA[9:]]):
        total = kept(parts[0])
        for part in parts[1:]:
            total.merge(kept(part))
        assert same(total, whole)


def test_of_items_that_a_hash_cannot_tell_apart_the_lesser_stays() -> None:
    """Items of more elements than are hashed, which differ in one that is not."""
    first, second = np.zeros((1, 1024), np.float32), np.zeros((1, 1024), np.float32)
    second[0, 1] = 1
    for data in ([first, second], [second, first]):
        (item,) = kept(data).items
        assert np.array_equal(item[0], first)


def test_a_kept_item_is_a_copy() -> None:
    item = DATA[0].copy()
    made = kept([item])
    item[:] = 0
    assert np.array_equal(made.items[0][0], DATA[0])


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = qc.trace(model, (DATA[0],))
    assert KeptItems.of_inputs(graph.inputs).limit == kept_items.MAX_ITEMS
    monkeypatch.setattr(kept_items, "MAX_TOTAL_BYTES", 3 * DATA[0].nbytes)
    assert KeptItems.of_inputs(graph.inputs).limit == 3
    monkeypatch.setattr(kept_items, "MAX_TOTAL_BYTES", DATA[0].nbytes - 1)
    assert KeptItems.of_inputs(graph.inputs).limit == kept_items.ENOUGH_ITEMS
    assert not kept(DATA).items


def test_workers_and_files_keep_the_same(tmp_path: pathlib.Path) -> None:
    prepared = qc.prepare(model, "int8", (DATA[0],))
    found = qc.calibrate(prepared, DATA)
    with ThreadPoolExecutor(2) as pool:
        spread = qc.calibrate(prepared, DATA, executor=pool)
    found.save(tmp_path / "c.safetensors")
    loaded = qc.Calibration.load(tmp_path / "c.safetensors")
    united = qc.calibrate(prepared, DATA[:7]) + qc.calibrate(prepared, DATA[7:])
    assert found.kept_items is not None and len(found.kept_items.items) == 8
    for other in (spread, loaded, united, found.for_prepared(prepared)):
        assert other.kept_items is not None and same(other.kept_items, found.kept_items)


def test_a_merge_with_a_calibration_without_items_has_none() -> None:
    prepared = qc.prepare(model, "int8", (DATA[0],))
    first, second = qc.calibrate(prepared, DATA[:7]), qc.calibrate(prepared, DATA[7:])
    second.kept_items = None
    assert (first + second).kept_items is None and (second + first).kept_items is None


@pytest.mark.parametrize(
    "change",
    [
        {"limit": np.asarray(0)},
        {"limit": np.asarray(1)},
        {"keys": np.asarray([2, 1])},
        {"keys": np.asarray([1])},
        {"keys": np.asarray([1, 2], np.int32)},
        {"0.0": np.asarray([np.nan], np.float32)},
        {"0.1": np.zeros(2, np.float32)},
    ],
    ids=str,
)
def test_states_that_no_data_gives_are_refused(change: dict[str, np.ndarray]) -> None:
    state = {**kept(DATA[:2]).state(), "keys": np.asarray([1, 2])}
    assert KeptItems.restored(state).keys == [1, 2]
    with pytest.raises((KeyError, ValueError)):
        KeptItems.restored({**state, **change})
