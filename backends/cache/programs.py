"""Program images of saved models, stored for later processes: loading one needs no graph, no lowering, no packing.

An entry (JSON) holds an image, how the model is called, and the digests of its block of constants, which is a file of
its own. It is found by the digest of the saved model, the target, and what every key says (`entries.key_of`: the
sources of all that makes a program of a graph). A program with Python steps is not stored. Of a model with symbolic
sizes, the program of the sizes that it was bound to first is stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qcompiler import knobs
from qcompiler.backends.cache import blocks, entries
from qcompiler.backends.program.constants import Constants
from qcompiler.backends.program.image import CONSTANTS, ProgramImage
from qcompiler.backends.program.saved_image import image_data, image_of
from qcompiler.backends.runtime.pages import Block, aligned_block
from qcompiler.backends.target import Target
from qcompiler.notes import Guard
from qcompiler.signature import Input, Signature

_WATCHING = (knobs.DUMP, knobs.DEBUG, knobs.VERIFY, knobs.STOP_AFTER, knobs.PASS_LIMIT, knobs.POISON, knobs.GUARD)
"""Knobs that watch or change lowering. While one is set, programs are neither stored nor loaded."""


@dataclass(frozen=True)
class StoredProgram:
    """A program image, how its model is called, and the constants that images of other sizes share."""

    signature: Signature
    image: ProgramImage
    constants: Constants


def load(digest: str, target: Target) -> StoredProgram | None:
    """The program that some process stored for the saved model of this digest."""
    key = entry_key(digest, target)
    found = entries.load([key]) if key is not None else {}
    if key is None or key not in found:
        return None
    entry = json.loads(found[key])
    image = image_of(entry["image"])
    block = aligned_block(image.constant_bytes)
    if not blocks.load(entry["constants"], block.data):
        return None
    offsets = {buffer.name: buffer.offset for buffer in image.buffers if buffer.base == CONSTANTS}
    return StoredProgram(_signature(entry["signature"]), image, Constants.packed(block, offsets))


def store(digest: str, target: Target, signature: Signature, image: ProgramImage, constants: Block) -> None:
    """Store an image and the block of constants, if all of it is data that other processes can use."""
    key = entry_key(digest, target)
    is_per_channel = any(each.type.quant is not None and each.type.quant.axis is not None for each in signature.inputs)
    if key is None or is_per_channel or image.python_steps or image.own_constant_bytes:
        return
    if any(kernel.is_local for kernel in image.kernels):
        return
    digests = blocks.store(constants.data)
    if digests is None:
        return
    entry = {"signature": _signature_data(signature), "image": image_data(image), "constants": digests}
    entries.store({key: json.dumps(entry, separators=(",", ":")).encode()})


def entry_key(digest: str, target: Target) -> str | None:
    """The key of a program's entry. None while the cache is off, or a knob watches or changes lowering."""
    if any(knob.get() != knob.default for knob in _WATCHING):
        return None
    return entries.key_of(f"target {target.key}", f"machine {target.machine}", f"program of {digest}")


def _signature_data(signature: Signature) -> dict[str, Any]:
    return {
        "name": signature.name,
        "inputs": [[each.name, str(each.type)] for each in signature.inputs],
        "structure": signature.structure,
        "guards": [str(guard) for guard in signature.guards],
    }


def _signature(data: Mapping[str, Any]) -> Signature:
    from qcompiler.text.parser import parse_type

    return Signature(
        data["name"],
        tuple(Input(name, parse_type(text)) for name, text in data["inputs"]),
        data["structure"],
        tuple(Guard.parse(text) for text in data["guards"]),
    )
