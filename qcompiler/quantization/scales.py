"""Scales: the parameters of all observed values as a text of one line a value, to review, edit, diff and apply again.

    qcompiler scales 1
    "conv1" u8 [0,255] scale=0.01823 zero_point=0

Lines are sorted by name; a name is a JSON string in ASCII. Lines that are empty or begin with # are comments. Does not
own how parameters are chosen (`observers.py`), nor weights and biases: these follow from the scales.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from qcompiler.arguments import check_path, check_text, check_type
from qcompiler.errors import ArtifactError, ParseError, QuantizationError, nearest
from qcompiler.types import DType, QuantParams

if TYPE_CHECKING:
    from qcompiler.quantization.observers import Observer
    from qcompiler.quantization.workflow import Prepared

HEADER = "qcompiler scales 1"
_MOST_BYTES = 2**26
_LINE = re.compile(r" (\w+) \[(-?\d{1,10}),(-?\d{1,10})\] scale=([\d.e+-]{1,40}) zero_point=(-?\d{1,10})", re.ASCII)


class Scale(NamedTuple):
    """The parameters of a group of values: their element type, and one scale."""

    dtype: DType
    params: QuantParams

    def __str__(self) -> str:
        from qcompiler.text.printer import format_scale

        (scale,), (zero_point,) = self.params.scale, self.params.zero_point
        legal = f"[{self.params.qmin},{self.params.qmax}]"
        return f"{self.dtype} {legal} scale={format_scale(scale)} zero_point={zero_point}"


@dataclass(frozen=True)
class _Locked:
    """An observer that has its parameters already."""

    params: QuantParams

    def observe(self, array: np.ndarray, name: str = "") -> NoReturn:
        raise QuantizationError("locked scales observe no data", where=f"%{name}")

    def qparams(self) -> QuantParams:
        return self.params

    def merge(self, other: object) -> NoReturn:
        raise QuantizationError("locked scales are not merged", hint="merge the calibrations that they come from")


class Scales(Mapping[str, "Observer"]):
    """Group of values -> its parameters. `qc.convert(prepared, scales)` quantizes with exactly these.

    Weights are quantized anew and biases get scale(x) * scale(weight), so both follow an edited scale, and the scales
    fit retrained weights. Nothing else of a calibration is used: no corrections, and no choices that need data.

    Args:
        lines: the parameters by group.
    """

    def __init__(self, lines: Mapping[str, Scale]) -> None:
        check_type("lines", lines, Mapping, "parameters by group")
        for group, scale in lines.items():
            check_text("lines", group, "the name of a group")
            check_type("lines", scale, Scale, "a Scale")
            if scale.params.axis is not None:
                raise QuantizationError("the scale of an activation", where=f"%{group}", expected="one scale")
        self.lines = dict(sorted(lines.items()))

    @staticmethod
    def of(prepared: Prepared, observers: Mapping[str, Observer]) -> Scales:
        """The parameters that `qc.convert(prepared, observers)` begins with.

        Raises:
            QuantizationError: a value that was not observed, or held NaN or Inf.
        """
        from qcompiler.quantization.calibration import Calibration
        from qcompiler.quantization.workflow import check_prepared, ranges

        check_prepared(prepared)
        check_type("observers", observers, Mapping, "a Calibration")
        if isinstance(observers, Calibration):
            observers = observers.for_prepared(prepared)
            if observers.not_finite:
                raise QuantizationError(
                    "values that held NaN or Inf have no scale", got=", ".join(sorted(observers.not_finite)[:5])
                )
        specs = prepared.specs()
        params = ranges(prepared, observers).params | _fixed(prepared)
        missing = sorted(set(specs) - set(params))
        if missing:
            raise QuantizationError("no range was calibrated", where=f"%{missing[0]}")
        return Scales({group: Scale(spec.dtype, params[group]) for group, spec in specs.items()})

    def for_prepared(self, prepared: Prepared) -> Scales:
        """These scales, checked against a graph.

        Raises:
            QuantizationError: a value without a line or a line without a value; another element type or range than the
                qconfig's; a zero point where the qconfig is symmetric; another scale where the op fixes it (sigmoid).
        """
        from qcompiler.quantization.choose_qparams import symmetric_zero_point

        specs, fixed = prepared.specs(), _fixed(prepared)
        unknown, missing = sorted(set(self) - set(specs)), sorted(set(specs) - set(self))
        if unknown:
            raise QuantizationError(
                "a scale of a value that is not observed", got=f"%{unknown[0]}"[:80], hint=nearest(unknown[0], specs)
            )
        if missing:
            raise QuantizationError("a value has no line in the scales", where=f"%{missing[0]}", got=f"{len(missing)}")
        for group, spec in specs.items():
            scale, where = self.lines[group], f"%{group}"
            expected = (spec.dtype, spec.qmin, spec.qmax)
            if (scale.dtype, scale.params.qmin, scale.params.qmax) != expected:
                legal = f"{spec.dtype} [{spec.qmin},{spec.qmax}]"
                raise QuantizationError(
                    "a scale of another range than the qconfig's", where=where, expected=legal, got=str(scale)
                )
            if group in fixed and scale.params != fixed[group]:
                raise QuantizationError(
                    "the op fixes this scale",
                    where=where,
                    expected=str(Scale(spec.dtype, fixed[group])),
                    got=str(scale),
                )
            point = symmetric_zero_point(spec)
            if spec.symmetric and group not in fixed and scale.params.zero_point[0] != point:
                raise QuantizationError(
                    "the qconfig is symmetric", where=where, expected=f"zero_point={point}", got=str(scale)
                )
        return self

    def __getitem__(self, group: str) -> Observer:
        return _Locked(self.lines[group].params)

    def __iter__(self) -> Iterator[str]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __eq__(self, other: object) -> bool:
        return self.lines == other.lines if isinstance(other, Scales) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Scales of {len(self)} values>"

    def __str__(self) -> str:
        """The text of the file."""
        return "\n".join([HEADER, *(f"{json.dumps(group)} {scale}" for group, scale in self.lines.items()), ""])

    def diff(self, other: Scales) -> list[str]:
        """A line for each value whose parameters differ, sorted: what it was here, and what it is in `other`."""
        check_type("other", other, Scales, "Scales")
        found = []
        for group in sorted({*self, *other}):
            old, new = self.lines.get(group), other.lines.get(group)
            if old != new:
                ratio = ""
                if old is not None and new is not None and old.params.scale != new.params.scale:
                    ratio = f" ({new.params.scale[0] / old.params.scale[0]:.4g} times)"
                found.append(f"{json.dumps(group)} {old or 'none'} -> {new or 'none'}{ratio}")
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the text; the old file stays if anything fails. ArtifactError if it cannot be written."""
        from qcompiler.artifact.replacing import replacing

        check_path("path", path)
        with replacing(path) as file:
            file.write(str(self).encode())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Scales:
        """The scales of a file that `save` wrote, or a person edited.

        Raises:
            ArtifactError: the file cannot be read.
            ParseError: a line that is none; the error says which.
            QuantizationError: an illegal scale or zero point, or a value with two lines.
        """
        from qcompiler.regular_file import open_regular

        check_path("path", path)
        where = f"file {os.fspath(path)}"
        try:
            with open_regular(path) as file:
                data = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise ArtifactError("the scales cannot be read", where=where, got=error.strerror or str(error)) from None
        if len(data) > _MOST_BYTES:
            raise ArtifactError("the scales are too long", where=where, expected=f"at most {_MOST_BYTES} bytes")
        try:
            return _parsed(data.decode("utf-8-sig").split("\n"), where)
        except UnicodeDecodeError as error:
            raise ArtifactError("the scales are not UTF-8", where=where, got=str(error)) from None


def _parsed(texts: Sequence[str], where: str) -> Scales:
    lines: dict[str, Scale] = {}
    if texts[0].strip() != HEADER:
        raise ParseError("no file of scales", where=where, expected=HEADER, got=texts[0][:80])
    for number, text in enumerate(texts[1:], start=2):
        text = text.strip()
        if not text or text.startswith("#"):
            continue
        place = f"{where}, line {number}"
        try:
            group, end = json.JSONDecoder().raw_decode(text)
            found = _LINE.fullmatch(text, end)
            if not isinstance(group, str) or found is None:
                raise ValueError(text)
            name, qmin, qmax, scale, zero_point = found.groups()
            dtype, low, high, point, step = DType(name), int(qmin), int(qmax), int(zero_point), float(scale)
        except (ValueError, RecursionError):
            expected = '"NAME" u8 [0,255] scale=0.5 zero_point=0'
            raise ParseError("a line of scales", where=place, expected=expected, got=text[:120]) from None
        if group in lines:
            raise QuantizationError("a value has two lines", where=place, got=f"%{group}"[:80])
        try:
            with np.errstate(over="ignore"):
                lines[group] = Scale(dtype, QuantParams.per_tensor(step, point, dtype, low, high))
        except QuantizationError as error:
            raise error.located(place) from None
    return Scales(lines)


def _fixed(prepared: Prepared) -> dict[str, QuantParams]:
    """The groups of which an op fixes the parameters of every value, whatever was observed."""
    from qcompiler.ops.quantized import Observe
    from qcompiler.passes.insert_qdq import fixed_params
    from qcompiler.quantization.spec import QuantSpec

    found: dict[str, set[QuantParams | None]] = {}
    for node in prepared.graph.nodes:
        observe = Observe.of(node)
        if observe is not None:
            params = fixed_params(observe.x, QuantSpec.parse(observe.spec_text))
            found.setdefault(observe.group, set()).add(params)
    return {group: params for group, each in found.items() if len(each) == 1 and (params := min(each, key=str))}
