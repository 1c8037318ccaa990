"""Declares an op from functions. Goes once every family declares classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qcompiler.opdef import FLOAT_ONLY, AttrSpec, Op, OpDef, OperandSpec, QuantRule, Sample, Trait


def legacy_op(
    *,
    name: str,
    doc: str,
    family: str,
    operands: Sequence[OperandSpec],
    infer: Callable,
    reference: Callable,
    samples: Callable[[], Sequence[Sample]],
    attrs: Sequence[AttrSpec] = (),
    integer: Callable | None = None,
    quant: QuantRule = FLOAT_ONLY,
    traits: frozenset[Trait] = frozenset(),
) -> OpDef:
    members: dict[str, object] = {
        "__slots__": (),
        "__doc__": doc,
        "__module__": f"qcompiler.ops.{family}",
        "name": name,
        "quant": quant,
        "traits": traits,
        "infer": lambda self, *types: infer(*types, **self.attr_values),
        "reference": lambda self, *arrays: reference(*arrays, **self.attr_values),
        "samples": staticmethod(samples),
    }
    if integer is not None:

        def run(self: Op, *given: object, out: object) -> np.ndarray:
            arrays = [None if o is None else o.array for o in given]
            types = [None if o is None else o.type for o in given]
            return integer(arrays, types, out, **self.attr_values)

        members["integer"] = run
    for spec in operands:
        members[spec.name] = OperandSpec(spec.name, spec.role, spec.optional, spec.variadic)
    for spec in attrs:
        key = spec.name if not hasattr(Op, spec.name) else f"{spec.name}_attr"
        members[key] = AttrSpec(spec.name, spec.kind, spec.default, spec.doc, spec.choices)
    return type(name.title().replace("_", ""), (Op,), members)


def register(definition: OpDef) -> OpDef:
    return definition
