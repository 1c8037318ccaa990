"""Calibration data, checked item by item while it streams; and what calibration learnt, to be saved, merged and used
again."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qcompiler.dims import Dim
from qcompiler.errors import ArtifactError, QuantizationError
from qcompiler.ir import Value
from qcompiler.quantization.observers import make_observer
from qcompiler.quantization.spec import QuantSpec


def iterate_items(
    data: Iterable[Any], inputs: Sequence[Value], transform: Callable[[Any], Any] | None = None
) -> Iterator[list[np.ndarray]]:
    """The inputs of one call after another. An item is an array, a tuple by position, or a dict by name.

    Raises:
        QuantizationError: no items, NaN or Inf, a shape or dtype that does not fit, a (input, label) pair; names the
            item and input.
    """
    index = -1
    for index, item in enumerate(data):
        yield _item(item if transform is None else transform(item), inputs, index)
    if index < 0:
        raise QuantizationError(
            "the calibration data is empty",
            expected="at least one item: the inputs of one call",
            hint="a generator is consumed by its first use",
        )


def _item(item: Any, inputs: Sequence[Value], index: int) -> list[np.ndarray]:
    names = [value.name for value in inputs]
    where = f"calibration item {index}"
    if isinstance(item, Mapping):
        missing = [name for name in names if name not in item]
        if missing or len(item) != len(names):
            raise QuantizationError(
                "a calibration item has other names",
                where=where,
                expected=", ".join(names),
                got=", ".join(map(str, item)),
            )
        parts = [item[name] for name in names]
    elif isinstance(item, (tuple, list)):
        parts = list(item)
    else:
        parts = [item]
    if len(parts) != len(names):
        pair = " It looks like an (input, label) pair." if len(parts) == len(names) + 1 else ""
        raise QuantizationError(
            f"a calibration item is the inputs of one call.{pair}",
            where=where,
            expected=f"{len(names)} ({', '.join(names)})",
            got=len(parts),
            hint="transform=lambda item: item[0] takes the input out of a pair",
        )
    return [_array(part, value, where) for part, value in zip(parts, inputs)]


def _array(part: Any, value: Value, where: str) -> np.ndarray:
    array = np.asarray(part)
    place = f"{where}, input {value.name!r}"
    fits = array.ndim == value.type.rank and all(
        isinstance(e, Dim) or e == g for e, g in zip(value.type.shape, array.shape)
    )
    if array.dtype != value.type.dtype.numpy or not fits:
        raise QuantizationError(
            "a calibration item does not fit the input",
            where=place,
            expected=str(value.type),
            got=f"{array.dtype}{list(array.shape)}",
            hint="convert the items with transform=",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise QuantizationError("calibration data is not finite", where=place, got="NaN or Inf")
    return array


FORMAT = 1
"""Of a saved calibration."""


class Calibration(Mapping[str, Any]):
    """What calibration learnt: group of values -> its observer. Saved, loaded, merged, and used again with another
    qconfig.

    Merging adds what two runs saw; the order does not matter to the bit for histograms and min-max. Observers that
    depend on the order of the data refuse.
    """

    def __init__(self, observers: Mapping[str, Any], specs: Mapping[str, QuantSpec]) -> None:
        self.observers = dict(observers)
        self.specs = dict(specs)

    def __getitem__(self, group: str) -> Any:
        return self.observers[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self.observers)

    def __len__(self) -> int:
        return len(self.observers)

    def merge(self, other: Calibration) -> Calibration:
        """A new calibration of both runs.

        Raises:
            QuantizationError: the runs observed other values, or by other observers.
        """
        if set(self) != set(other):
            differ = sorted(set(self) ^ set(other))
            raise QuantizationError("the calibrations are of other graphs or qconfigs", got=", ".join(differ[:5]))
        merged = {}
        for group in self:
            if self.specs[group] != other.specs[group]:
                raise QuantizationError(
                    "the calibrations observed a value differently",
                    where=f"%{group}",
                    expected=str(self.specs[group]),
                    got=str(other.specs[group]),
                )
            merged[group] = copy.deepcopy(self[group])
            merged[group].merge(other[group])
        return Calibration(merged, self.specs)

    __add__ = merge

    def for_specs(self, specs: Mapping[str, QuantSpec]) -> Calibration:
        """The same data under other specs: each observer is made anew and takes over what was learnt.

        Raises:
            QuantizationError: a value was not observed, or its observer kept less than the new one needs.
        """
        found = {}
        for group, spec in specs.items():
            if group not in self:
                raise QuantizationError(
                    "the calibration did not observe a value",
                    where=f"%{group}",
                    hint="calibrate with this qconfig: another one groups or quantizes other values",
                )
            if self.specs[group] == spec:
                found[group] = self[group]
                continue
            found[group] = make_observer(spec)
            try:
                found[group].restore(self[group].state())
            except QuantizationError as error:
                raise error.located(f"%{group}") from None
        return Calibration(found, specs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """One safetensors file, written beside and renamed: the old file stays if anything fails."""
        from safetensors.numpy import save

        from qcompiler.artifact import replacing

        tensors, groups = {}, []
        for number, group in enumerate(sorted(self)):
            if not hasattr(self[group], "state"):
                raise QuantizationError(
                    "an observer without state() cannot be saved", where=f"%{group}", got=type(self[group]).__name__
                )
            state = self[group].state()
            groups.append({"group": group, "spec": str(self.specs[group]), "fields": sorted(state)})
            tensors |= {f"{number}.{name}": np.asarray(array, order="C") for name, array in state.items()}
        metadata = {
            "calibration": json.dumps({"format": FORMAT, "groups": groups}, sort_keys=True)
        }  # one key: their order is not fixed
        with replacing(os.fspath(path)) as file:
            file.write(save(tensors, metadata))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Calibration:
        """What `save` wrote.

        Raises:
            ArtifactError: the file cannot be read, is truncated, or is no calibration of this format.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(os.fspath(path), "numpy") as file:
                header = json.loads((file.metadata() or {}).get("calibration", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        except (OSError, SafetensorError, ValueError) as error:
            raise ArtifactError("the calibration cannot be read", where=os.fspath(path), got=str(error)[:200]) from None
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ArtifactError(
                "no calibration, or one of another format",
                where=os.fspath(path),
                expected=f"format {FORMAT}",
                got=str(header)[:80],
            )
        observers, specs = {}, {}
        try:
            for number, entry in enumerate(header["groups"]):
                spec = QuantSpec.parse(entry["spec"])
                observer = make_observer(spec)
                observer.restore({name: tensors[f"{number}.{name}"] for name in entry["fields"]})
                observers[entry["group"]], specs[entry["group"]] = observer, spec
        except (KeyError, TypeError, ValueError, QuantizationError) as error:
            raise ArtifactError("the calibration is damaged", where=os.fspath(path), got=str(error)[:200]) from None
        return Calibration(observers, specs)
