"""Programs that call the kernels of `native_kernels`, for the tests of programs."""

from pathlib import Path

import numpy as np

from qcompiler.backends.kernel_ir.kernel_key import KernelKey
from qcompiler.backends.program.builder import ProgramBuilder
from qcompiler.backends.program.image import ArraySpec
from qcompiler.backends.runtime.executable import Executable
from qcompiler.backends.runtime.link import link
from qcompiler.backends.runtime.loader import LoadedKernel
from qcompiler.backends.runtime.native import NativeLoader
from qcompiler.backends.target import native_target
from tests.backends.native_kernels import kernel

HERE = Path(__file__).parents[1]
BYTES = np.uint8


def key(name):
    """The key of a kernel of native_kernels."""
    return KernelKey("tests.backends.native_kernels:kernel", name, ())


def add(builder, source, target, n, k, **options):
    """Append a step of the kernel `add`: target = source + k over n bytes."""
    builder.step(key("add"), [source, target, n, k], reads=[source], writes=[target], **options)


def rotate(builder, source, target, n, k):
    builder.step(key("rotate"), [source, target, n, k], reads=[source], writes=[target])


def linked(builder, constants=None, *, guard=None, poison=None, **functions) -> Executable:
    """The builder's program, ready to run. constants: those that the builder was given; functions: those of the Python
    steps."""
    image = builder.finish(guard=guard)
    shared = builder._constants if constants is None else constants
    kernels = {each: kernel(each.name) for each in image.kernels}
    loaded = {each: LoadedKernel(found.name, found.address, found.engine) for each, found in kernels.items()}
    own = builder.own.block() if image.own_constant_bytes else None
    return link(image, loaded, NativeLoader(native_target()), shared.block(), own, functions, poison)


def rotated(x, shifts):
    index = np.arange(len(x))
    with np.errstate(over="ignore"):
        for k in shifts:
            x = x[(index + k) % len(x)] * np.int32(3) + index.astype(np.int32)
    return x


def chain(n, steps, **options):
    """A chain of `steps` steps of `add`, from x through buffers of n bytes to y. Each adds its own number."""
    builder = ProgramBuilder([ArraySpec(BYTES, (n,), "x")], [ArraySpec(BYTES, (n,), "y")], name="chain")
    value = builder.input(0)
    for number in range(steps):
        target = builder.output(0) if number == steps - 1 else builder.buffer(n, f"h{number}")
        add(builder, value, target, n, number)
        value = target
    return linked(builder, **options)


def bytes_in(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, n, BYTES)


def random_program(seed, n=64, **options):
    """A random graph of `rotate` steps, with many buffers and reused memory, and what it must compute."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 25))
    builder = ProgramBuilder([ArraySpec(np.int32, (n,))], [ArraySpec(np.int32, (n,))] * 2)
    handles, shifts, sources = [builder.input(0)], [], []
    for number in range(count + 2):
        source = int(rng.integers(max(0, len(handles) - 4), len(handles))) if number < count else len(handles) - 1
        k = int(rng.integers(0, n))
        target = builder.buffer(4 * n) if number < count else builder.output(number - count)
        rotate(builder, handles[source], target, n, k)
        sources.append(source)
        shifts.append(k)
        if number < count:
            handles.append(target)

    def expected(x):
        values = [x]
        for source, k in zip(sources, shifts):
            values.append(rotated(values[source], [k]))
        return values[-2:]

    return linked(builder, **options), expected
