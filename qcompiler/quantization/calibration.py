"""Calibration: what the observers collected, to be saved, merged and used again."""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from qcompiler.arguments import check_path, check_type
from qcompiler.errors import ArtifactError, QuantizationError
from qcompiler.quantization.observers import Observer, SavableObserver, make_observer
from qcompiler.quantization.spec import QuantSpec
from qcompiler.regular_file import open_regular

FORMAT = 1
"""The version of the file format."""


class Calibration(Mapping[str, Observer]):
    """Group of values -> its observer, with what it collected. It can be saved, loaded, merged, and used again with
    another qconfig.

    Merging adds up what two runs saw. For histograms and min-max the result has the same bits in any order; observers
    that depend on the order of the data refuse.

    Attributes:
        interpreted: why the interpreter ran the data, or a part of it, and not the compiled float program; else "".
    """

    def __init__(
        self, observers: Mapping[str, Observer], specs: Mapping[str, QuantSpec], interpreted: str = ""
    ) -> None:
        self.observers = dict(observers)
        self.specs = dict(specs)
        self.interpreted = interpreted

    def __getitem__(self, group: str) -> Observer:
        return self.observers[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self.observers)

    def __len__(self) -> int:
        return len(self.observers)

    def merge(self, other: Calibration) -> Calibration:
        """A new calibration that adds up both runs.

        Raises:
            QuantizationError: the runs observed other values, or by other observers.
        """
        check_type("other", other, Calibration, "a Calibration")
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
        return Calibration(merged, self.specs, self.interpreted or other.interpreted)

    __add__ = merge

    def __radd__(self, other: object) -> Calibration:
        """sum(calibrations) begins with 0."""
        if isinstance(other, int) and other == 0:
            return self
        return NotImplemented

    def __repr__(self) -> str:
        counts = Counter(spec.observer for spec in self.specs.values())
        kinds = ", ".join(f"{count} by {observer}" for observer, count in sorted(counts.items()))
        return f"<Calibration of {len(self)} values: {kinds}>"

    def for_specs(self, specs: Mapping[str, QuantSpec]) -> Calibration:
        """The same data under other specs: each observer is made anew and takes over what was collected.

        Raises:
            QuantizationError: a value was not observed, or its observer collected less than the new one needs.
        """
        check_type("specs", specs, Mapping, "group -> QuantSpec, as Prepared.specs() gives")
        found: dict[str, Observer] = {}
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
            found[group] = _restored(make_observer(spec), _savable(self[group], group).state(), group)
        return Calibration(found, specs, self.interpreted)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file; the old file stays if anything fails.

        Raises:
            QuantizationError: an observer that cannot be saved.
        """
        from safetensors.numpy import save

        check_path("path", path)
        from qcompiler.artifact import replacing

        tensors: dict[str, np.ndarray] = {}
        groups: list[dict[str, Any]] = []
        for number, group in enumerate(sorted(self)):
            state = _savable(self[group], group).state()
            groups.append({"group": group, "spec": str(self.specs[group]), "fields": sorted(state)})
            tensors |= {f"{number}.{name}": np.asarray(array, order="C") for name, array in state.items()}
        # One key of metadata: the order of several is not fixed.
        header = {"format": FORMAT, "groups": groups}
        if self.interpreted:
            header["interpreted"] = self.interpreted
        metadata = {"calibration": json.dumps(header, sort_keys=True)}
        with replacing(os.fspath(path)) as file:
            file.write(save(tensors, metadata))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Calibration:
        """The calibration that `save` wrote.

        Raises:
            ArtifactError: the file cannot be read, is truncated, or is no calibration of this format.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        check_path("path", path)
        try:
            with open_regular(path) as file:
                data = file.read()
            tensors = load(data)  # checks the header
            whole = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            header = json.loads(whole.get("__metadata__", {}).get("calibration", "{}"))
        except (OSError, SafetensorError, ValueError) as error:
            raise ArtifactError("the calibration cannot be read", where=os.fspath(path), got=str(error)[:200]) from None
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ArtifactError(
                "no calibration, or one of another format",
                where=os.fspath(path),
                expected=f"format {FORMAT}",
                got=str(header)[:80],
            )
        observers: dict[str, Observer] = {}
        specs: dict[str, QuantSpec] = {}
        try:
            interpreted = header.get("interpreted", "")
            if not isinstance(interpreted, str):
                raise ValueError("interpreted is no text")
            for number, entry in enumerate(header["groups"]):
                spec = QuantSpec.parse(entry["spec"])
                state = {name: tensors[f"{number}.{name}"] for name in entry["fields"]}
                group = entry["group"]
                observers[group], specs[group] = _restored(make_observer(spec), state, group), spec
        except (KeyError, TypeError, ValueError, QuantizationError) as error:
            raise ArtifactError("the calibration is damaged", where=os.fspath(path), got=str(error)[:200]) from None
        return Calibration(observers, specs, interpreted)


def _savable(observer: Observer, group: str) -> SavableObserver:
    if not isinstance(observer, SavableObserver):
        raise QuantizationError(
            "an observer without state() cannot be saved", where=f"%{group}", got=type(observer).__name__
        )
    return observer


def _restored(observer: Observer, state: Mapping[str, np.ndarray], group: str) -> Observer:
    """A fresh observer that takes over a state."""
    try:
        _savable(observer, group).restore(state)
    except QuantizationError as error:
        raise error.located(f"%{group}") from None
    return observer
