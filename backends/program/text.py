"""A program image as text: its arrays and memory, then one line a step.

    program demo for x86-64+avx2(avx2)
    inputs: %x float32[2,16]
    outputs: %b float32[2,16]
    arena: 192 bytes (lower bound 192)
      0..192           %a, steps 0 to 1
    constants: 0 bytes
    steps:
        0  softmax_real_log0_modealong(x=%x, y=%a, outer=2, size=16, ...) writes %a; node a; 256 bytes; barrier
        1  map_real_2_...(map.count=32, ..., map.y.start=%b, ...) writes %b; node b; 384 bytes

Constants that are named by their content have no name here; a pointer into a buffer is `%h+16`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from qcompiler.backends.kernel_ir.kernel_key import KernelKey
from qcompiler.backends.program.constants import CONTENT
from qcompiler.backends.program.image import (
    ARENA,
    CONSTANTS,
    NULL,
    Argument,
    ArrayView,
    KernelStep,
    PlacedBuffer,
    Pointer,
    ProgramImage,
    PythonStep,
    Step,
)


def image_text(image: ProgramImage) -> str:
    """The text of an image, deterministic."""
    return "\n".join(_ImageText(image).lines()) + "\n"


class _ImageText:
    def __init__(self, image: ProgramImage) -> None:
        self.image = image
        self.labels = self._labels()

    def _labels(self) -> list[str]:
        """The label of each buffer: %name, or #number for a constant."""
        constants, seen = 0, Counter[str]()
        labels = []
        for buffer in self.image.buffers:
            if self._is_constant(buffer):
                labels.append(f"#{constants}")
                constants += 1
                continue
            seen[buffer.name] += 1
            number = seen[buffer.name]
            labels.append(f"%{buffer.name}" if number == 1 else f"%{buffer.name}.{number}")
        return labels

    def _is_constant(self, buffer: PlacedBuffer) -> bool:
        return buffer.base in (CONSTANTS, self.image.own_constants)

    def lines(self) -> Iterator[str]:
        image = self.image
        sizes = "".join(f", {name}={size}" for name, size in image.sizes)
        yield f"program {image.name} for {image.target or 'any target'}{sizes}"
        inputs = len(image.inputs)
        for title, specs, first in (("inputs", image.inputs, 0), ("outputs", image.outputs, inputs)):
            yield f"{title}: {', '.join(f'{self.labels[first + i]} {spec}' for i, spec in enumerate(specs)) or 'none'}"
        yield f"arena: {image.arena.nbytes:,} bytes (lower bound {image.arena.lower_bound:,})"
        yield from self._arena()
        yield f"constants: {image.constant_bytes:,} bytes"
        yield from self._constants(CONSTANTS)
        if image.own_constant_bytes:
            yield f"constants of this image alone: {image.own_constant_bytes:,} bytes"
            yield from self._constants(image.own_constants)
        yield "steps:"
        for number, step in enumerate(image.steps):
            yield f"  {number:3}  {self._step(step)}"

    def _arena(self) -> Iterator[str]:
        first, last = self._lifetimes()
        for number, buffer in enumerate(self.image.buffers):
            if buffer.base == ARENA:
                place = f"{buffer.offset}..{buffer.offset + buffer.nbytes}"
                yield f"  {place:16} {self.labels[number]}, steps {first.get(number, 0)} to {last.get(number, 0)}"

    def _constants(self, base: int) -> Iterator[str]:
        for number, buffer in enumerate(self.image.buffers):
            if buffer.base == base:
                place = f"{buffer.offset}..{buffer.offset + buffer.nbytes}"
                name = "" if buffer.name.startswith(CONTENT) else f"  {buffer.name}"
                yield f"  {place:16} {self.labels[number]}{name}"

    def _lifetimes(self) -> tuple[dict[int, int], dict[int, int]]:
        """The first and the last step at which each buffer is named."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for number, step in enumerate(self.image.steps):
            if isinstance(step, PythonStep):
                named = [view.buffer for view in (*step.reads, *step.writes)]
            else:
                named = [argument.buffer for argument in step.args if isinstance(argument, Pointer)]
            for buffer in named:
                first.setdefault(buffer, number)
                last[buffer] = number
        return first, last

    def _step(self, step: Step) -> str:
        if isinstance(step, PythonStep):
            reads, writes = (", ".join(map(self._view, views)) for views in (step.reads, step.writes))
            return f"python({reads}) writes {writes}; node {step.node}"
        names = _parameter_names(step)
        arguments = ", ".join(f"{name}{self._argument(value)}" for name, value in zip(names, step.args))
        notes = [f"writes {', '.join(self.labels[buffer] for buffer in step.writes)}"] if step.writes else []
        notes += [f"node {step.node}"] if step.node else []
        notes += [f"{step.macs:,} macs"] if step.macs else []
        notes += [f"{step.bytes:,} bytes"] if step.bytes else []
        notes += ["barrier"] if step.barrier else []
        return f"{step.kernel}({arguments}) {'; '.join(notes)}".rstrip()

    def _view(self, view: ArrayView) -> str:
        strides = "" if view.strides is None else f" strides {view.strides}"
        return f"{self._argument(Pointer(view.buffer, view.offset))} {view.spec}{strides}"

    def _argument(self, argument: Argument) -> str:
        if isinstance(argument, Pointer):
            if argument == NULL:
                return "null"
            return self.labels[argument.buffer] + (f"+{argument.offset}" if argument.offset else "")
        return str(np.float32(argument)) if isinstance(argument, float) else str(argument)


def _parameter_names(step: KernelStep) -> list[str]:
    """`name=` of each argument; nothing where the kernel's definition does not say."""
    parameters = _parameters(step.key)
    if len(parameters) != len(step.args):
        return [""] * len(step.args)
    return [f"{name}=" for name in parameters]


def _parameters(key: KernelKey[Any]) -> list[str]:
    return [parameter.name for parameter in getattr(key.definition, "parameters", ())]
