"""Linking: makes an executable of a program image, which is data, and of loaded kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qcompiler import knobs
from qcompiler.backends.kernel_ir.kernel_key import KernelKey
from qcompiler.backends.program.image import ProgramImage
from qcompiler.backends.runtime.executable import Executable, PythonFunction
from qcompiler.backends.runtime.loader import LoadedKernel, Loader
from qcompiler.backends.runtime.pages import Block


def link(
    image: ProgramImage,
    kernels: Mapping[KernelKey[Any], LoadedKernel],
    loader: Loader,
    constants: Block,
    own: Block | None = None,
    functions: Mapping[str, PythonFunction] | None = None,
    poison: bool | None = None,
) -> Executable:
    """The executable of an image, which runs here or in an emulator.

    Args:
        kernels: the kernel of every key of `image.kernels`, loaded by `loader`.
        constants: the block that `Constants.block` packs. own: the block of the image's own constants, if it has any.
        functions: the functions of Python steps, by the name of their node.
        poison: whether to fill memory with 0xA5 before each run, for debugging; by default as QC_POISON says. Guard
            pages imply it.
    """
    poison = knobs.POISON.get() if poison is None else poison
    by_node = functions or {}
    return Executable(
        image,
        [kernels[step.key] for step in image.kernel_steps],
        loader,
        constants,
        own,
        [by_node[step.node] for step in image.python_steps],
        poison or bool(image.arena.guards),
    )
