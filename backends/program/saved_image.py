"""Converts program images to JSON data and back, for the cache of programs. Images must have no Python steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qcompiler.backends.kernel_ir.kernel_key import KernelKey
from qcompiler.backends.program.image import (
    Arena,
    Argument,
    ArraySpec,
    KernelStep,
    PlacedBuffer,
    Pointer,
    ProgramImage,
)


def image_data(image: ProgramImage) -> dict[str, Any]:
    """An image as lists, dicts, numbers and texts. A pointer becomes a pair; ints and floats stay as they are."""
    assert not image.python_steps
    numbers = {key: number for number, key in enumerate(image.kernels)}
    return {
        "name": image.name,
        "target": image.target,
        "sizes": image.sizes,
        "inputs": [_spec_data(spec) for spec in image.inputs],
        "outputs": [_spec_data(spec) for spec in image.outputs],
        "buffers": image.buffers,
        "kernels": [[key.place, key.name, key.static] for key in numbers],
        "steps": [
            [numbers[step.key], step.node, step.args, step.writes, step.macs, step.bytes, step.barrier]
            for step in image.kernel_steps
        ],
        "arena": [image.arena.nbytes, image.arena.lower_bound, image.arena.guards],
        "constant_bytes": image.constant_bytes,
        "own_constant_bytes": image.own_constant_bytes,
    }


def image_of(data: Mapping[str, Any]) -> ProgramImage:
    """The image that `image_data` described."""
    kernels: list[KernelKey[Any]] = [KernelKey(place, name, _tuple(static)) for place, name, static in data["kernels"]]
    nbytes, lower_bound, guards = data["arena"]
    return ProgramImage(
        name=data["name"],
        target=data["target"],
        sizes=_tuple(data["sizes"]),
        inputs=tuple(_spec(each) for each in data["inputs"]),
        outputs=tuple(_spec(each) for each in data["outputs"]),
        buffers=tuple(PlacedBuffer(*each) for each in data["buffers"]),
        steps=tuple(
            KernelStep(kernels[number], node, _arguments(args), tuple(writes), macs, moved, barrier)
            for number, node, args, writes, macs, moved, barrier in data["steps"]
        ),
        arena=Arena(nbytes, lower_bound, tuple(guards)),
        constant_bytes=data["constant_bytes"],
        own_constant_bytes=data["own_constant_bytes"],
    )


def _spec_data(spec: ArraySpec) -> list[Any]:
    return [spec.dtype.str, spec.shape, spec.name]


def _spec(data: list[Any]) -> ArraySpec:
    dtype, shape, name = data
    return ArraySpec(dtype, tuple(shape), name)


def _arguments(data: list[Any]) -> tuple[Argument, ...]:
    return tuple([Pointer(*each) if isinstance(each, list) else each for each in data])


def _tuple(data: Any) -> Any:
    """Convert nested lists to tuples, as which static arguments hold them."""
    return tuple(_tuple(each) for each in data) if isinstance(data, list) else data
