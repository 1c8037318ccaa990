"""Programs of saved models, kept for later processes: loading one then needs no graph, no lowering and no packing.

An entry of the object cache (JSON) says what a program is made of: its signature, its steps with their argument words,
its kernels by their keys, and where each constant lies in a block of bytes that is a file of its own beside the
entries. It is found by the digest of the saved model, the target, and what every key says (`object_cache.key_of`: the
sources of all that makes a program of a graph). A model whose program has Python steps is not kept; one with symbolic
sizes is kept with the sizes that it was bound to first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from qcompiler import knobs
from qcompiler.backends.cache import blocks as block_cache
from qcompiler.backends.cache import entries as object_cache
from qcompiler.backends.cache import kernels as kernel_cache
from qcompiler.backends.program.constants import Constants
from qcompiler.backends.program.memory import aligned_block
from qcompiler.backends.runtime.executable import ArenaLayout, ArraySpec, BoundProgram, NativeSegment, StepInfo
from qcompiler.backends.runtime.execution import runner
from qcompiler.backends.target import Target
from qcompiler.notes import Guard
from qcompiler.signature import Input, Signature

_WATCHING = (knobs.DUMP, knobs.DEBUG, knobs.VERIFY, knobs.STOP_AFTER, knobs.PASS_LIMIT, knobs.POISON, knobs.GUARD)
"""Knobs that ask for what happens between a graph and its program, or for another program: then nothing is kept or
taken."""


@dataclass(frozen=True)
class StoredProgram:
    """A program that is ready to run: how it is called, one binding of its sizes, and the constants that all bindings
    share."""

    signature: Signature
    sizes: dict[str, int]
    bound: BoundProgram
    constants: Constants


def find(digest: str, target: Target) -> StoredProgram | None:
    """The program that some process kept for the saved model of this digest."""
    key = _key(digest, target)
    found = object_cache.load([key]) if key is not None else {}
    if key is None or key not in found:
        return None
    entry = json.loads(found[key])
    kernels = kernel_cache.restored([kernel_cache.StoredKernel(*kernel) for kernel in entry["kernels"]], target)
    if kernels is None:
        return None
    block = aligned_block(entry["constants"]["nbytes"])
    if not block_cache.load(entry["constants"]["parts"], block.data):
        return None
    constants = Constants.sealed_in(
        block,
        {bytes.fromhex(digest): tuple(offsets) for digest, offsets in entry["constants"]["known"].items()},
        entry["constants"]["keyed"],
    )
    args = np.array(entry["args"], np.int64)
    rows = np.array(entry["rows"], np.int64).reshape(-1, 3)
    used = [kernels[number] for number in rows[:, 0]]
    rows[:, 0] = [kernel.address for kernel in used]
    rows[:, 1] = args.ctypes.data + 8 * rows[:, 1]
    bound = BoundProgram(
        name=entry["name"],
        inputs=tuple(_spec(*each) for each in entry["inputs"]),
        outputs=tuple(_spec(*each) for each in entry["outputs"]),
        steps=tuple(StepInfo(*step) for step in entry["steps"]),
        segments=(NativeSegment(0, 0, len(rows)),),
        layout=ArenaLayout(*entry["arena"]),
        constants=block,
        extra=None,
        table=rows,
        args=args,
        keep=tuple(used),
        runner=runner(target),
    )
    return StoredProgram(_signature(entry["signature"]), entry["sizes"], bound, constants)


def keep(
    digest: str,
    target: Target,
    signature: Signature,
    sizes: Mapping[str, int],
    bound: BoundProgram,
    constants: Constants,
) -> None:
    """Keep the binding that sealed `constants`, if it is data: native steps, kernels and types that other processes
    find."""
    key = _key(digest, target)
    kernels = list(dict.fromkeys(bound.keep))
    stored = kernel_cache.stored(kernels)
    only_native = len(bound.segments) == 1 and isinstance(bound.segments[0], NativeSegment)
    per_channel = any(each.type.quant is not None and each.type.quant.axis is not None for each in signature.inputs)
    if key is None or stored is None or not only_native or per_channel or bound.extra is not None:
        return
    parts = block_cache.store(bound.constants.data)
    if parts is None:
        return
    numbers = {kernel.address: number for number, kernel in enumerate(kernels)}
    rows = [
        [numbers[address], (start - bound.args.ctypes.data) // 8, flags]
        for address, start, flags in bound.table.tolist()
    ]
    known, keyed = constants.offsets()
    entry = {
        "name": bound.name,
        "signature": _described(signature),
        "sizes": dict(sizes),
        "inputs": [[spec.dtype.str, spec.shape, spec.name] for spec in bound.inputs],
        "outputs": [[spec.dtype.str, spec.shape, spec.name] for spec in bound.outputs],
        "kernels": [astuple(kernel) for kernel in stored],
        "steps": [astuple(step) for step in bound.steps],
        "rows": rows,
        "args": bound.args.tolist(),
        "arena": [bound.layout.total, bound.layout.lower_bound],
        "constants": {
            "nbytes": bound.constants.data.nbytes,
            "parts": parts,
            "keyed": keyed,
            "known": {digest.hex(): offsets for digest, offsets in known.items()},
        },
    }
    object_cache.store({key: json.dumps(entry, separators=(",", ":")).encode()})


def _key(digest: str, target: Target) -> str | None:
    if any(knob.get() != knob.default for knob in _WATCHING):
        return None
    return object_cache.key_of(f"target {target.key}", f"machine {target.machine}", f"program of {digest}")


def _spec(dtype: str, shape: list[int], name: str) -> ArraySpec:
    return ArraySpec(np.dtype(dtype), tuple(shape), name)


def _described(signature: Signature) -> dict[str, Any]:
    return {
        "name": signature.name,
        "inputs": [[each.name, str(each.type)] for each in signature.inputs],
        "structure": signature.structure,
        "guards": [str(guard) for guard in signature.guards],
    }


def _signature(given: Mapping[str, Any]) -> Signature:
    from qcompiler.text.parser import parse_type

    return Signature(
        given["name"],
        tuple(Input(name, parse_type(text)) for name, text in given["inputs"]),
        given["structure"],
        tuple(Guard.parse(text) for text in given["guards"]),
    )
