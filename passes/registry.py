"""Passes by name, and their text: `fuse`, `insert-qdq{per-channel=false}`, `equalize{iterations=2},fuse`.

    pipeline = pass ("," pass)*          pass = name ("{" option ("," option)* "}")?        option = field "=" value
    value    = true | false | none | number | "string" | ["key": value, ...]

Options are the fields of the pass, with `_` written as `-`; those at their defaults are left out. QuantParams, QConfigs
and tuples of numbers are written as strings. The resolution table and calibration give mappings of these, so a pipeline
with all its decisions can be written as text.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_type_hints

from qcompiler.errors import PassError, QCompilerError, nearest
from qcompiler.passmanager import Pass
from qcompiler.quantization.qconfig import QConfig
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import QuantParams

_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([A-Za-z_][\w-]*)|(-?\d[\w.+-]*|-?inf)|([{}\[\],=:]))')
_FLAGS = {"plain": "mixed_precision", "unequalized": "equalize"}
"""What the text of a qconfig says of a field that is False."""
_WORDS = {"dynamic": None, "rounding": "nearest"}
"""The fields of a qconfig that are words, and their defaults: the text has `field=word` of others."""
_PLAIN = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def passes_by_name() -> dict[str, type]:
    """Every pass, under its name."""
    from qcompiler.passes.assign_layout import AssignLayout
    from qcompiler.passes.canonicalize import Canonicalize
    from qcompiler.passes.choose_precision import ChoosePrecision
    from qcompiler.passes.constant_fold import ConstantFold
    from qcompiler.passes.correct_bias import CorrectBias
    from qcompiler.passes.cse import Cse
    from qcompiler.passes.dce import Dce
    from qcompiler.passes.decompose import Decompose
    from qcompiler.passes.dynamic_products import DynamicProducts
    from qcompiler.passes.equalize import Equalize
    from qcompiler.passes.expose_statistics import ExposeStatistics
    from qcompiler.passes.fold_batchnorm import FoldBatchnorm
    from qcompiler.passes.fold_pad import FoldPad
    from qcompiler.passes.fold_requantize import FoldRequantize
    from qcompiler.passes.fuse import Fuse
    from qcompiler.passes.insert_observers import InsertObservers
    from qcompiler.passes.insert_qdq import InsertQdq
    from qcompiler.passes.integerize import Integerize
    from qcompiler.passes.own_passes import own_passes
    from qcompiler.passes.per_tensor_codes import PerTensorCodes
    from qcompiler.passes.propagate_qparams import PropagateQparams
    from qcompiler.passes.quantize_dynamic import QuantizeDynamic
    from qcompiler.passes.quantize_states import QuantizeStates
    from qcompiler.passes.quantized_io import QuantizedIo
    from qcompiler.passes.recognize import Recognize
    from qcompiler.passes.round_weights import RoundWeights
    from qcompiler.passes.scale_channels import ScaleChannels
    from qcompiler.passes.split_outliers import SplitOutliers
    from qcompiler.passes.unsigned_codes import UnsignedCodes
    from qcompiler.passes.verify_integer_safety import VerifyIntegerSafety

    known = (
        ConstantFold,
        Canonicalize,
        Decompose,
        Cse,
        Recognize,
        FoldPad,
        FoldBatchnorm,
        Fuse,
        Equalize,
        Dce,
        InsertObservers,
        ExposeStatistics,
        ChoosePrecision,
        ScaleChannels,
        SplitOutliers,
        CorrectBias,
        InsertQdq,
        RoundWeights,
        PerTensorCodes,
        UnsignedCodes,
        PropagateQparams,
        QuantizedIo,
        QuantizeDynamic,
        QuantizeStates,
        Integerize,
        DynamicProducts,
        FoldRequantize,
        VerifyIntegerSafety,
        AssignLayout,
    )
    return {each.name: each for each in known} | own_passes()


def format_pass(given: Pass) -> str:
    """The whole text of a pass: `parse_pass(format_pass(given)) == given`."""
    options = []
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(given) if dataclasses.is_dataclass(given) else ()
    for field in fields:
        value = getattr(given, field.name)
        default: Any = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if value != default:
            options.append(f"{field.name.replace('_', '-')}={_format(value)}")
    return given.name + (f"{{{','.join(options)}}}" if options else "")


def format_pipeline(passes: Sequence[Pass]) -> str:
    return ",".join(map(format_pass, passes))


def _format(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"[{','.join(f'{json.dumps(key)}:{_format(item)}' for key, item in value.items())}]"
    if isinstance(value, QuantParams):
        return json.dumps(f"{_floats(value.scale)} {_floats(value.zero_point)} {value.axis} {value.qmin} {value.qmax}")
    if isinstance(value, tuple):
        return json.dumps(_floats(value))
    if isinstance(value, QConfig):
        flags = [word for word, field in _FLAGS.items() if not getattr(value, field)]
        words = {field: getattr(value, field) for field in _WORDS}
        flags += [f"{field}={word}" for field, word in words.items() if word != _WORDS[field]]
        return json.dumps("; ".join([str(value.activation), str(value.weight), *flags]))
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _floats(values: Sequence[float]) -> str:
    return "/".join(map(repr, values))


def parse_pipeline(text: str) -> list[Pass]:
    """Passes from text.

    Raises:
        PassError: an unknown pass or option (with the nearest known one), a value of another kind, or malformed text.
    """
    reader = _Reader(text)
    if reader.done:
        return []
    found = [reader.read_pass()]
    while reader.accept(","):
        found.append(reader.read_pass())
    if not reader.done:
        reader.fail("a comma or the end")
    return found


def parse_pass(text: str) -> Pass:
    """One pass from text; PassError as `parse_pipeline`."""
    found = parse_pipeline(text)
    if len(found) != 1:
        raise PassError("the text is not one pass", expected="name{option=value}", got=text[:80])
    return found[0]


class _Reader:
    """Recursive descent over tokens; nesting is two levels deep at most."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._tokens(text))
        self.position = 0

    def _tokens(self, text: str) -> Iterator[str]:
        start = 0
        while text[start:].strip():
            match = _TOKEN.match(text, start)
            if match is None:
                raise PassError(
                    "malformed text of a pass",
                    where=f"column {start + 1}",
                    expected="name{option=value}",
                    got=text[start : start + 40],
                )
            yield match.group().strip()
            start = match.end()

    @property
    def done(self) -> bool:
        return self.position == len(self.tokens)

    @property
    def token(self) -> str:
        return "" if self.done else self.tokens[self.position]

    def fail(self, expected: str) -> None:
        raise PassError(
            "malformed text of a pass", expected=expected, got=self.token or "the end", where=self.text[:80]
        )

    def next(self) -> str:
        token = self.token
        self.position += 1
        return token

    def accept(self, token: str) -> bool:
        if self.token != token:
            return False
        self.position += 1
        return True

    def expect(self, token: str) -> None:
        if not self.accept(token):
            self.fail(repr(token))

    def read_pass(self) -> Pass:
        name, known = self.next(), passes_by_name()
        if name not in known:
            raise PassError(f"unknown pass {name!r}", hint=nearest(name, known))
        chosen = known[name]
        hints, given = get_type_hints(chosen), {}
        fields = {field.name.replace("_", "-"): field.name for field in dataclasses.fields(chosen)}
        if self.accept("{"):
            while not self.accept("}"):
                option = self.next()
                if option not in fields:
                    raise PassError(
                        f"{name} has no option {option!r}", hint=nearest(option, fields) if fields else "it has none"
                    )
                self.expect("=")
                given[fields[option]] = self._convert(self._value(), hints[fields[option]], f"{name}: {option}")
                if self.token != "}":
                    self.expect(",")
        return chosen(**given)

    def _value(self) -> Any:
        if self.accept("["):
            found = {}
            while not self.accept("]"):
                key = self._value()
                self.expect(":")
                found[key] = self._value()
                if self.token != "]":
                    self.expect(",")
            return found
        token = self.next()
        if token in ("true", "false", "none"):
            return {"true": True, "false": False, "none": None}[token]
        try:
            return (
                json.loads(token)
                if token.startswith('"')
                else int(token)
                if re.fullmatch(r"-?\d+", token)
                else float(token)
            )
        except ValueError:
            self.position -= 1
            self.fail("true, false, none, a number, a string or [key: value]")

    def _convert(self, value: Any, hint: Any, where: str) -> Any:
        if isinstance(value, dict):
            text = str(hint)
            readers = {
                "QuantParams": _quant_params,
                "QConfig": _qconfig,
                "tuple[float": _numbers,
                "tuple[int": _integers,
            }
            reads = next((reader for kind, reader in readers.items() if kind in text), None)
            if reads is not None:
                return {key: None if item is None else reads(item, where) for key, item in value.items()}
            if hint == Mapping[str, str] and all(isinstance(item, str) for item in value.values()):
                return value
        elif hint in _PLAIN:
            if type(value) is hint or (hint is float and type(value) is int):
                return hint(value)
        elif value is None and "None" in str(hint):
            return None
        raise PassError(
            "an option of another kind", where=where, expected=_PLAIN.get(hint, str(hint)), got=repr(value)[:80]
        )


def _numbers(text: Any, where: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split("/")))
    except (ValueError, AttributeError) as error:
        raise PassError("malformed numbers", where=where, expected="number/number/...", got=repr(text)[:80]) from error


def _integers(text: Any, where: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split("/")))
    except (ValueError, AttributeError) as error:
        raise PassError(
            "malformed integers", where=where, expected="integer/integer/...", got=repr(text)[:80]
        ) from error


def _quant_params(text: Any, where: str) -> QuantParams:
    try:
        scale, zero_point, axis, qmin, qmax = text.split()
        return QuantParams(
            tuple(map(float, scale.split("/"))),
            tuple(map(int, zero_point.split("/"))),
            None if axis == "None" else int(axis),
            int(qmin),
            int(qmax),
        )
    except (ValueError, AttributeError, QCompilerError) as error:
        raise PassError(
            "malformed quantization parameters",
            where=where,
            expected="scale zero_point axis qmin qmax",
            got=repr(text)[:80],
        ) from error


def _qconfig(text: Any, where: str) -> QConfig:
    try:
        parts = [part.strip() for part in text.split(";")]
        activation, weight = (None if part == "None" else QuantSpec.parse(part) for part in parts[:2])
        given: dict[str, Any] = dict(part.split("=") for part in parts[2:] if part.partition("=")[0] in _WORDS)
        flags: dict[str, Any] = {_FLAGS[part]: False for part in parts[2:] if part.partition("=")[0] not in _WORDS}
        return QConfig(activation, weight, **given, **flags)
    except (ValueError, KeyError, AttributeError, QCompilerError) as error:
        rest = "".join(f"[; {word}]" for word in (*_FLAGS, *(f"{field}=word" for field in _WORDS)))
        raise PassError(
            "malformed qconfig", where=where, expected=f"activation spec; weight spec{rest}", got=repr(text)[:80]
        ) from error
