"""The notes of a graph: decisions that passes and frontends record, as typed values.

A note prints as one line of the graph's text, and `parse_note` reads it back, so notes travel in artifacts:

    note "guard: B >= 2"                       the trace took a branch that holds for such sizes only
    note "structure: {\"dict\": {\"y\": 0}}"   how the flat outputs nest (structure.py)
    note "float: %s = softmax: kept by a rule" why a node of a quantized graph computes in float
    note "real: %y = linear: %s = softmax ..." why a node that reads codes gives real numbers
    note "estimate: zen5: 1.0 us as quantized, 2.0 us in float"
    note "calibrated on the interpreter: no backend for riscv64"
    note "equalized: %x for %q, %k by %n: a = 0.5, error 2.50e-03 -> 1.21e-04"   scales of channels (equalization)
    note "not equalized: %x: the calibration kept no rows of it"
    note "outliers: 6 of 384 channels of %x for %q, %k: error 2.50e-03 -> 1.21e-04"   read in 16 bits
    note "not calibrated: %x: it was 0 in all items"   calibration data that says little
    note "bias: %y: 37 of 96 channels take up the mean error of rounded weights"
    note "rounded: %y by adaround: error 2.50e-03 -> 1.21e-04"   codes of a weight that were chosen on data
    note "not rounded by data: %y: its corrected bias needs a larger scale"
    note "parts between products: 3 are codes: with codes the outputs lose 2.50e-05 of their energy"
    note "input x: float64 became f32"         a remark, for the reader only

Only `parse_note` reads the text of a note, and only the text parser calls it; everything else asks for the note's
class.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from qcompiler.dims import Dim, DimLike, evaluate, parse_dim, substitute
from qcompiler.errors import ParseError, VerifyError
from qcompiler.structure import Structure, parse_structure

_RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NEGATED = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_NODE_REASON = re.compile(r"%(.*?) = (\w+): (.*)", re.DOTALL)
_EQUALIZED = re.compile(r"%(.*?) for %(.*?)( by %.*)?: a = ([\d.]+),( shifted,)? error (\S+) -> (\S+)", re.DOTALL)
_CORRECTED = re.compile(r"%(.*?): (\d+) of (\d+) channels take up the mean error of rounded weights", re.DOTALL)
_OUTLIERS = re.compile(r"(\d+) of (\d+) channels of %(.*?) for %(.*?): error (\S+) -> (\S+)", re.DOTALL)
_ROUNDED = re.compile(r"%(.*?) by (\w+): error (\S+) -> (\S+)", re.DOTALL)
_PARTS = re.compile(
    r"(\d+) (stay real|are codes): (?:with codes the outputs lose (\S+) of their energy"
    r"|the calibration kept no items to judge the outputs by)"
)
_ESTIMATE = re.compile(r"(.*): (\d+\.\d) us as quantized, (\d+\.\d) us in float", re.DOTALL)


class Note:
    """One note of a graph. `str(note)` is what reports show; `text` also says which kind of note it is."""

    kind: ClassVar[str]

    @property
    def text(self) -> str:
        """The note as the graph's text has it."""
        return f"{self.kind}: {self}"


@dataclass(frozen=True)
class Guard(Note):
    """A relation of sizes that must hold for a graph to mean what its model meant."""

    left: DimLike
    relation: str
    right: DimLike
    kind: ClassVar[str] = "guard"

    @staticmethod
    def parse(text: str) -> Guard:
        """Read what `str(guard)` prints; ParseError otherwise."""
        parts = re.split(r"(==|!=|<=|>=|<|>)", text)
        if len(parts) != 3:
            raise ParseError(f"malformed guard {text!r}", expected="size relation size, as in B >= 2")
        return Guard(parse_dim(parts[0].strip()), parts[1], parse_dim(parts[2].strip()))

    def holds(self, sizes: Mapping[str, int]) -> bool:
        return _RELATIONS[self.relation](evaluate(self.left, sizes), evaluate(self.right, sizes))

    def negated(self) -> Guard:
        return Guard(self.left, _NEGATED[self.relation], self.right)

    def substitute(self, sizes: Mapping[str, DimLike]) -> Guard:
        return Guard(substitute(self.left, sizes), self.relation, substitute(self.right, sizes))

    @property
    def is_static(self) -> bool:
        """Whether both sides are ints, so that `holds({})` decides."""
        return not isinstance(self.left, Dim) and not isinstance(self.right, Dim)

    def __str__(self) -> str:
        return f"{self.left} {self.relation} {self.right}"


@dataclass(frozen=True)
class OutputStructure(Note):
    """How the flat outputs nest in what the model returned."""

    structure: Structure
    kind: ClassVar[str] = "structure"

    @staticmethod
    def parse(text: str) -> OutputStructure:
        """Read what `str(note)` prints; ParseError otherwise."""
        return OutputStructure(parse_structure(text))

    def __str__(self) -> str:
        return json.dumps(self.structure)


@dataclass(frozen=True)
class _NodeReason(Note):
    """A node, its op, and the reason of a decision about it."""

    node: str
    op: str
    reason: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what `str(note)` prints; None for other text."""
        match = _NODE_REASON.fullmatch(text)
        return None if match is None else cls(*match.groups())

    def __str__(self) -> str:
        return f"%{self.node} = {self.op}: {self.reason}"


NO_PRODUCT = "only products are quantized dynamically"
NO_TABLE = "its qconfig is for tables of embeddings"
DECODES_TABLE = "it makes numbers of the codes of a table"
UNREMARKABLE = (NO_PRODUCT, NO_TABLE, DECODES_TABLE)
"""Reasons that hold for most nodes of a graph: texts give their count."""


class KeptFloat(_NodeReason):
    """Why a node of a quantized graph computes in float."""

    kind = "float"


class RealResult(_NodeReason):
    """Why a product of codes gives real numbers."""

    kind = "real"


@dataclass(frozen=True)
class Estimate(Note):
    """What a cost profile expects of a graph on one thread, in microseconds: as quantized, and all in float."""

    profile: str
    quantized: float
    all_float: float
    kind: ClassVar[str] = "estimate"

    @staticmethod
    def parse(text: str) -> Estimate | None:
        """Read what `str(note)` prints; None for other text."""
        match = _ESTIMATE.fullmatch(text)
        return None if match is None else Estimate(match[1], float(match[2]), float(match[3]))

    def __str__(self) -> str:
        return f"{self.profile}: {self.quantized:.1f} us as quantized, {self.all_float:.1f} us in float"


@dataclass(frozen=True)
class Interpreted(Note):
    """The interpreter ran the calibration data, and not the compiled float program: why. Its roundings may differ, so
    another machine may choose other scales."""

    reason: str
    kind: ClassVar[str] = "calibrated on the interpreter"

    @staticmethod
    def parse(text: str) -> Interpreted:
        """Read what `str(note)` prints."""
        return Interpreted(text)

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Equalized(Note):
    """The channels of a value were divided by scales, and the weights that multiply them multiplied.

    Attributes:
        value, products: the value, and the products that read it.
        source: what took the reciprocal scales into its weights; "" for a multiplication of its own.
        strength: 0 to 1: how far the spread of the channels moved into the weights.
        before, after: the energy of the error of the products' outputs on the sampled rows, relative to that of the
            outputs; the mean over the products.
        shifted: whether the channels were shifted to the middles of their ranges first.
    """

    value: str
    products: tuple[str, ...]
    source: str
    strength: float
    before: float
    after: float
    shifted: bool = False
    kind: ClassVar[str] = "equalized"

    @staticmethod
    def parse(text: str) -> Equalized | None:
        """Read what `str(note)` prints; None for other text."""
        match = _EQUALIZED.fullmatch(text)
        if match is None:
            return None
        value, products, source, strength_text, shifted, *errors = match.groups()
        try:
            strength, before, after = map(float, (strength_text, *errors))
        except ValueError:
            return None
        names = tuple(products.split(", %"))
        return Equalized(value, names, (source or "").removeprefix(" by %"), strength, before, after, bool(shifted))

    def __str__(self) -> str:
        products, source = ", ".join(f"%{name}" for name in self.products), f" by %{self.source}" if self.source else ""
        errors = f"error {self.before:.2e} -> {self.after:.2e}"
        return f"%{self.value} for {products}{source}: a = {self.strength:g},{' shifted,' * self.shifted} {errors}"


@dataclass(frozen=True)
class _ValueReason(Note):
    """A value, and the reason why something could not be decided about it."""

    value: str
    reason: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what `str(note)` prints; None for other text."""
        value, colon, reason = text.partition(": ")
        return cls(value[1:], reason) if colon and value.startswith("%") else None

    def __str__(self) -> str:
        return f"%{self.value}: {self.reason}"


class Unjudged(_ValueReason):
    """Why no scales could be chosen for the channels of a value."""

    kind = "not equalized"


class Uncalibrated(_ValueReason):
    """Why calibration data says little about the range of a value."""

    kind = "not calibrated"


class Unclipped(_ValueReason):
    """Why the range of a value spans all that calibration saw."""

    kind = "not clipped"


@dataclass(frozen=True)
class Outliers(Note):
    """The widest channels of a value are read in 16 bits, by small products beside those that read the others.

    Attributes:
        split, channels: how many channels are read in 16 bits, of how many.
        value, products: the value, and the products that read it.
        before, after: the error as in `Equalized`.
    """

    split: int
    channels: int
    value: str
    products: tuple[str, ...]
    before: float
    after: float
    kind: ClassVar[str] = "outliers"

    @staticmethod
    def parse(text: str) -> Outliers | None:
        """Read what `str(note)` prints; None for other text."""
        match = _OUTLIERS.fullmatch(text)
        if match is None:
            return None
        split, channels, value, products, before, after = match.groups()
        try:
            errors = float(before), float(after)
        except ValueError:
            return None
        return Outliers(int(split), int(channels), value, tuple(products.split(", %")), *errors)

    def __str__(self) -> str:
        products = ", ".join(f"%{name}" for name in self.products)
        errors = f"error {self.before:.2e} -> {self.after:.2e}"
        return f"{self.split} of {self.channels} channels of %{self.value} for {products}: {errors}"


@dataclass(frozen=True)
class BiasCorrected(Note):
    """Channels of a product whose bias takes up the mean error that the rounding of their weights makes."""

    product: str
    corrected: int
    channels: int
    kind: ClassVar[str] = "bias"

    @staticmethod
    def parse(text: str) -> BiasCorrected | None:
        """Read what `str(note)` prints; None for other text."""
        match = _CORRECTED.fullmatch(text)
        return None if match is None else BiasCorrected(match[1], int(match[2]), int(match[3]))

    def __str__(self) -> str:
        return (
            f"%{self.product}: {self.corrected} of {self.channels} channels take up the mean error of rounded weights"
        )


@dataclass(frozen=True)
class Rounded(Note):
    """The weight of a product has codes that were chosen on calibration data.

    Attributes:
        product: its name. method: "adaround" or "gptq".
        before, after: the energy of the error of its output as a share of the output's, with the nearest codes and with
            the chosen ones.
    """

    product: str
    method: str
    before: float
    after: float
    kind: ClassVar[str] = "rounded"

    @staticmethod
    def parse(text: str) -> Rounded | None:
        """Read what `str(note)` prints; None for other text."""
        match = _ROUNDED.fullmatch(text)
        if match is None:
            return None
        try:
            return Rounded(match[1], match[2], float(match[3]), float(match[4]))
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"%{self.product} by {self.method}: error {self.before:.2e} -> {self.after:.2e}"


class NotRounded(_ValueReason):
    """Why the weight of a product has the nearest codes, though its qconfig asks for others."""

    kind = "not rounded by data"


@dataclass(frozen=True)
class PartsJudged(Note):
    """Whether parts between products stay real, by what codes would cost the outputs of the graph.

    Attributes:
        parts: how many parts were judged: those whose codes cost the products behind them much.
        real: whether they stay real.
        lost: the largest error of an output with codes in all of these parts, as a share of the output's energy; None
            if the calibration kept no items that fit the graph, so that the parts stay real unjudged.
    """

    parts: int
    real: bool
    lost: float | None
    kind: ClassVar[str] = "parts between products"

    @staticmethod
    def parse(text: str) -> PartsJudged | None:
        """Read what `str(note)` prints; None for other text."""
        match = _PARTS.fullmatch(text)
        if match is None:
            return None
        try:
            return PartsJudged(int(match[1]), match[2] == "stay real", float(match[3]) if match[3] else None)
        except ValueError:
            return None

    def __str__(self) -> str:
        if self.lost is None:
            return f"{self.parts} stay real: the calibration kept no items to judge the outputs by"
        stay = "stay real" if self.real else "are codes"
        return f"{self.parts} {stay}: with codes the outputs lose {self.lost:.2e} of their energy"


@dataclass(frozen=True)
class Remark(Note):
    """Free text for the reader. It must not read as a guard or a structure, which have a meaning."""

    remark: str
    kind: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if isinstance(self.remark, str) and self.remark.startswith(("guard: ", "structure: ")):
            raise VerifyError("a remark reads as another kind of note", got=self.remark[:200])

    @property
    def text(self) -> str:
        return self.remark

    def __str__(self) -> str:
        return self.remark


_PARSERS: dict[str, Callable[[str], Note | None]] = {
    note.kind: note.parse
    for note in (
        Guard,
        OutputStructure,
        KeptFloat,
        RealResult,
        Estimate,
        Interpreted,
        Uncalibrated,
        Equalized,
        Unclipped,
        Unjudged,
        Outliers,
        BiasCorrected,
        Rounded,
        NotRounded,
        PartsJudged,
    )
}


def parse_note(text: str) -> Note:
    """The note that prints as `text`; a Remark unless it is of another kind.

    Raises:
        ParseError: a malformed guard or structure.
    """
    kind, colon, rest = text.partition(": ")
    parser = _PARSERS.get(kind) if colon else None
    note = parser(rest) if parser is not None else None
    return Remark(text) if note is None else note
