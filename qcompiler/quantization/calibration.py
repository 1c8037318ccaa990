"""Calibration: what the observers collected, to be saved, merged and used again.

Does not own the file's form (`calibration_file.py`).
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.arguments import check_path, check_type
from qcompiler.errors import ArtifactError, QuantizationError
from qcompiler.quantization.kept_items import KeptItems
from qcompiler.quantization.observers import Observer, SavableObserver, make_observer
from qcompiler.quantization.product_inputs import ProductInput
from qcompiler.quantization.spec import QuantSpec

if TYPE_CHECKING:
    from qcompiler.quantization.workflow import Prepared

Members = Sequence[str]
"""The names of the values that share one observer."""


class Calibration(Mapping[str, Observer]):
    """Group of values -> its observer, with what it collected. It can be saved, loaded, merged, and used again with
    another qconfig.

    Merging adds up what two runs saw. For histograms and min-max the result has the same bits in any order; observers
    that depend on the order of the data refuse.

    Args:
        observers: by group.
        specs: what each observer was made from, by group.
        members: the names of the values of each group. A group that is not in it has unknown members.
        interpreted: why the interpreter ran the data, or a part of it, and not the compiled float program; else "".
        inputs: what was kept of the inputs of products, by key (see `product_inputs`). Calibrations of other qconfigs
            and of older versions may lack some or all.
        not_finite: the names of values that held NaN or Inf. The observers took nothing of the items where they did.
        left_out: input -> how many items were left out, since this input held NaN or Inf.
        kept_items: a few whole items, on which conversion judges outputs. Calibrations of older versions have none.
    """

    def __init__(
        self,
        observers: Mapping[str, Observer],
        specs: Mapping[str, QuantSpec],
        members: Mapping[str, Members] | None = None,
        interpreted: str = "",
        inputs: Mapping[str, ProductInput] = MappingProxyType({}),
        not_finite: Iterable[str] = (),
        left_out: Mapping[str, int] = MappingProxyType({}),
        kept_items: KeptItems | None = None,
    ) -> None:
        self.observers = dict(observers)
        self.specs = dict(specs)
        self.members = {group: tuple(names) for group, names in (members or {}).items()}
        self.interpreted = interpreted
        self.inputs = dict(inputs)
        self.not_finite = frozenset(not_finite)
        self.left_out = dict(left_out)
        self.kept_items = kept_items

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
            mine, theirs = (set(each.members.get(group, ())) for each in (self, other))
            if mine and theirs and mine != theirs:
                raise QuantizationError(
                    "the calibrations observed other values together",
                    where=f"%{group}",
                    expected=_listed(mine),
                    got=_listed(theirs),
                )
            merged[group] = copy.deepcopy(self[group])
            merged[group].merge(other[group])
        inputs = copy.deepcopy({key: kept for key, kept in self.inputs.items() if key in other.inputs})
        for key, kept in inputs.items():
            try:
                kept.merge(other.inputs[key])
            except QuantizationError as error:
                raise error.located(key) from None
        members = {**other.members, **self.members}
        interpreted = self.interpreted or other.interpreted
        not_finite = self.not_finite | other.not_finite
        left_out = dict(Counter(self.left_out) + Counter(other.left_out))
        items = copy.deepcopy(self.kept_items) if other.kept_items is not None else None
        if items is not None and other.kept_items is not None:
            items.merge(other.kept_items)
        return Calibration(merged, self.specs, members, interpreted, inputs, not_finite, left_out, items)

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

    def for_prepared(self, prepared: Prepared) -> Calibration:
        """The same data for a graph that was prepared with another qconfig, which may group the values otherwise.

        Groups are matched by their members. One that unites several old groups takes over what all of these collected.
        Under another spec an observer is made anew and takes over what was collected.

        Raises:
            QuantizationError: a value was not observed, or only together with a value of another group; or its observer
                collected less than the new one needs, or cannot merge.
        """
        from qcompiler.quantization.workflow import check_prepared

        check_prepared(prepared)
        specs, members = prepared.specs(), prepared.members()
        found = {group: self._united(group, members[group], spec) for group, spec in specs.items()}
        return Calibration(
            found, specs, members, self.interpreted, self.inputs, self.not_finite, self.left_out, self.kept_items
        )

    def _united(self, group: str, members: Members, spec: QuantSpec) -> Observer:
        """The observer of a group with these members: an old one, or a new one that took over all that was seen."""
        old = self._groups_of(group, members)
        if len(old) == 1 and self.specs[old[0]] == spec:
            return self[old[0]]
        parts = [self._under(each, spec) for each in old]
        for part in parts[1:]:
            try:
                parts[0].merge(part)
            except QuantizationError as error:
                raise error.located(f"%{group}, which unites {_listed(old)} of the calibration") from None
        return parts[0]

    def _groups_of(self, group: str, members: Members) -> list[str]:
        """The old groups whose members are, together, exactly the given ones."""
        if group in self and group not in self.members:
            return [group]  # unknown members
        if set(self.members.get(group, ())) == set(members):
            return [group]  # also where a member is in two groups, as one first state of both h and c
        group_of = {name: each for each, names in self.members.items() for name in names}
        missing = [name for name in members if name not in group_of]
        if missing:
            raise QuantizationError(
                "the calibration did not observe a value",
                where=f"%{missing[0]}",
                hint="calibrate with this qconfig: another one quantizes other values",
            )
        old = list(dict.fromkeys(group_of[name] for name in members))
        together = {name for each in old for name in self.members[each]}
        if together != set(members):
            other = sorted(together - set(members))[0]
            raise QuantizationError(
                f"the calibration observed a value together with %{other}, which has parameters of its own here",
                where=f"%{next(name for name in members if group_of[name] == group_of[other])}",
                hint="calibrate with this qconfig: another one groups the values otherwise",
            )
        return old

    def _under(self, group: str, spec: QuantSpec) -> Observer:
        """A new observer for the spec that takes over what the group's observer collected."""
        if self.specs[group] == spec:
            return copy.deepcopy(self[group])
        return _restored(make_observer(spec), _savable(self[group], group).state(), group)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file; the old file stays if anything fails.

        Raises:
            QuantizationError: an observer that cannot be saved.
        """
        from qcompiler.quantization.calibration_file import write_calibration

        check_path("path", path)
        arrays: dict[str, np.ndarray] = {}
        groups: list[dict[str, Any]] = []
        for number, group in enumerate(sorted(self)):
            state = _savable(self[group], group).state()
            entry = {"group": group, "spec": str(self.specs[group]), "fields": sorted(state)}
            if group in self.members:
                entry["members"] = list(self.members[group])
            groups.append(entry)
            arrays |= {f"{number}.{name}": array for name, array in state.items()}
        for number, key in enumerate(sorted(self.inputs)):
            arrays |= {f"input{number}.{name}": array for name, array in self.inputs[key].state().items()}
        content: dict[str, Any] = {"groups": groups, "inputs": sorted(self.inputs)}
        if self.kept_items is not None:
            state = self.kept_items.state()
            content["items"] = sorted(state)
            arrays |= {f"item.{name}": array for name, array in state.items()}
        if self.interpreted:
            content["interpreted"] = self.interpreted
        if self.not_finite:
            content["not_finite"] = sorted(self.not_finite)
        if self.left_out:
            content["left_out"] = self.left_out
        write_calibration(path, content, arrays)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Calibration:
        """The calibration that `save` wrote.

        Raises:
            ArtifactError: the file cannot be read, is damaged, or is no calibration of a known version.
        """
        from qcompiler.quantization.calibration_file import read_calibration

        check_path("path", path)
        content, arrays = read_calibration(path)
        try:
            return _rebuilt(content, arrays)
        except (AttributeError, KeyError, TypeError, ValueError, QuantizationError) as error:
            raise ArtifactError(
                "the content of the calibration is not valid", where=f"file {os.fspath(path)}", got=str(error)[:200]
            ) from None


def _rebuilt(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Calibration:
    """The calibration that a file's content stands for; an error of any of the kinds that `load` catches if it stands
    for none."""
    observers: dict[str, Observer] = {}
    specs: dict[str, QuantSpec] = {}
    members: dict[str, Members] = {}
    left = dict(arrays)
    for number, entry in enumerate(content["groups"]):
        group, spec = _text(entry["group"]), QuantSpec.parse(_text(entry["spec"]))
        if group in observers:
            raise ValueError(f"the group {group} occurs twice")
        state = {_text(name): left.pop(f"{number}.{name}") for name in entry["fields"]}
        observers[group], specs[group] = _restored(make_observer(spec), state, group), spec
        if "members" in entry:
            members[group] = tuple(map(_text, entry["members"]))
    keys = [_text(key) for key in content.get("inputs", [])]
    inputs = {
        key: ProductInput.restored({name: left.pop(f"input{number}.{name}") for name in ProductInput.fields})
        for number, key in enumerate(keys)
    }
    items = None
    if "items" in content:
        items = KeptItems.restored({_text(name): left.pop(f"item.{name}") for name in content["items"]})
    if left:
        raise ValueError(f"no group and no input has the array {next(iter(left))}")
    twice = [name for name, count in Counter(name for names in members.values() for name in names).items() if count > 1]
    if twice:
        raise ValueError(f"the value {twice[0]} occurs twice")
    not_finite = [_text(name) for name in content.get("not_finite", [])]
    left_out = {_text(name): int(count) for name, count in content.get("left_out", {}).items()}
    interpreted = _text(content.get("interpreted", ""))
    return Calibration(observers, specs, members, interpreted, inputs, not_finite, left_out, items)


def _listed(names: Iterable[str]) -> str:
    """A few names, sorted, for a message."""
    first, *rest = sorted(names)
    shown = [first, *rest[:4]]
    return ", ".join(f"%{name}" for name in shown) + (f" and {len(rest) - 4} more" if len(rest) > 4 else "")


def _text(item: object) -> str:
    if not isinstance(item, str):
        raise TypeError(f"{item!r} is no text"[:200])
    return item


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
