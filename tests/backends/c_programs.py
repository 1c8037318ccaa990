"""Exported models in C programs: finds a C compiler, builds and runs a program, and writes a main() that runs any
model.

The ELF header of an object says which machine it is for. Its program is built by a compiler for that machine, and run
by qemu if this is another machine.
"""

from __future__ import annotations

import importlib.util
import pathlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from qcompiler import knobs
from qcompiler.backends.object_export.export import ObjectFile
from qcompiler.backends.object_export.interface import Interface
from qcompiler.backends.target import known_targets, parse_target

X86_64, AARCH64 = 62, 183  # e_machine of ELF
HOST = {"x86_64": X86_64, "aarch64": AARCH64}.get(platform.machine())
ARM_TARGETS = ("aarch64-linux+neon", "aarch64-linux+dotprod", "aarch64-linux+i8mm")
TARGETS = (
    *(name for name in known_targets() if name.startswith("x86-64") and parse_target(name).can_run()),
    *ARM_TARGETS,
)
"""The targets whose objects can be run: the levels of this CPU, and those of AArch64 in qemu."""
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-g")


def missing(message: str) -> None:
    """Skip a test that can't run, or fail it where QC_REQUIRE_ALL says that all must run."""
    pytest.fail(message) if knobs.REQUIRE_ALL.get() else pytest.skip(message)


def tool(name: str) -> str:
    """The path of a program; skips the test if it is not installed."""
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed")
    return str(found)


def machine(path: pathlib.Path) -> int:
    """The machine that an ELF file is for."""
    head = path.read_bytes()[:20]
    assert head[:6] == b"\x7fELF\x02\x01", f"{path.name} is no ELF file of 64 bits, little-endian"
    return int.from_bytes(head[18:20], "little")


def c_compiler(for_machine: int | None = HOST) -> list[str]:
    """The command of a C compiler: gcc or cc for this machine, the cross compiler for AArch64 (statically, so that qemu
    needs no libraries of it), or the one in the ziglang package."""
    native = for_machine == HOST
    for name in ("gcc", "cc") if native else ("aarch64-linux-gnu-gcc",):
        found = shutil.which(name)
        if found is not None:
            return [found] if native else [found, "-static"]
    if importlib.util.find_spec("ziglang") is None:
        missing("no C compiler is installed" if native else "aarch64-linux-gnu-gcc is not installed")
    return [sys.executable, "-m", "ziglang", "cc", *(() if native else ("-target", "aarch64-linux-musl"))]


def emulator(for_machine: int) -> list[str]:
    """The command that runs a machine's programs: none for this machine, otherwise an emulated CPU that has all
    levels."""
    return [] if for_machine == HOST else [tool("qemu-aarch64"), "-cpu", "max"]


def write(folder: pathlib.Path, name: str, made: ObjectFile) -> None:
    """Write NAME.o and NAME.h."""
    (folder / f"{name}.o").write_bytes(made.data)
    (folder / f"{name}.h").write_text(made.header)


def build(
    folder: pathlib.Path, source: str, objects: Sequence[str], *, flags: Sequence[str] = (), name: str = "program"
) -> pathlib.Path:
    """Compile a C program in a folder and link it with the objects there, for their machine. Warnings are errors."""
    (folder / f"{name}.c").write_text(source)
    machines = {machine(folder / each) for each in objects} or {HOST}
    assert len(machines) == 1, "objects of one machine"
    command = [*c_compiler(*machines), *STRICT, *flags, f"{name}.c", *objects, "-o", name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stderr
    return folder / name


def execute(program: pathlib.Path, *arguments: str, wrapper: Sequence[str] = ()) -> str:
    """The stdout of a program that must succeed and print nothing on stderr."""
    command = [*wrapper, *emulator(machine(program)), str(program), *arguments]
    done = subprocess.run(command, cwd=program.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def runner(interface: Interface, header: str) -> str:
    """C source that reads the inputs from input_*.bin, runs the model in memory of malloc, writes output_*.bin and runs
    the self-test."""
    prefix, macro = interface.prefix, interface.macro
    load = "".join(f'  load({p.name}, {macro}_{p.name.upper()}_BYTES, "{p.name}.bin");\n' for p in interface.inputs)
    save = "".join(f'  save({p.name}, {macro}_{p.name.upper()}_BYTES, "{p.name}.bin");\n' for p in interface.outputs)
    declare = "".join(f"  {p.c_type} *{p.name} = fresh({macro}_{p.name.upper()}_BYTES);\n" for p in interface.ports)
    free = "".join(f"  free({p.name});\n" for p in interface.ports)
    arguments = ", ".join(p.name for p in interface.ports)
    return f"""\
#include "{header}"
#include <stdio.h>
#include <stdlib.h>
static void *fresh(size_t size) {{ void *p = malloc(size); if (p == NULL) exit(2); return p; }}
static void *aligned(void *block) {{
  char *start = (char *)block;
  return start + ({macro}_ARENA_ALIGN - (uintptr_t)start % {macro}_ARENA_ALIGN) % {macro}_ARENA_ALIGN;
}}
static void load(void *data, size_t size, const char *path) {{
  FILE *file = fopen(path, "rb");
  if (file == NULL || fread(data, 1, size, file) != size) exit(3);
  fclose(file);
}}
static void save(const void *data, size_t size, const char *path) {{
  FILE *file = fopen(path, "wb");
  if (file == NULL || fwrite(data, 1, size, file) != size) exit(4);
  fclose(file);
}}
int main(void) {{
  void *block = fresh({macro}_ARENA_SIZE + {macro}_ARENA_ALIGN);
  void *big = fresh({macro}_SELF_TEST_ARENA_SIZE + {macro}_ARENA_ALIGN);
{declare}{load}  printf("%d ", {prefix}_run({arguments}, aligned(block), {macro}_ARENA_SIZE));
{save}  printf("%d ", {prefix}_self_test(aligned(big), {macro}_SELF_TEST_ARENA_SIZE));
  printf("%d\\n", {prefix}_abi_version() == {macro}_ABI_VERSION);
{free}  free(block);
  free(big);
  return 0;
}}
"""


def run_in_c(
    folder: pathlib.Path, made: ObjectFile, inputs: Sequence[np.ndarray], wrapper: Sequence[str] = ()
) -> list[np.ndarray]:
    """The outputs of the object in a C program, whose self-test must pass."""
    write(folder, "model", made)
    program = build(folder, runner(made.interface, "model.h"), ["model.o"])
    for port, array in zip(made.interface.inputs, inputs, strict=True):
        assert array.nbytes == port.nbytes
        np.ascontiguousarray(array).tofile(folder / f"{port.name}.bin")
    assert execute(program, wrapper=wrapper) == "0 0 1\n"
    return [
        np.fromfile(folder / f"{port.name}.bin", port.type.dtype.numpy).reshape(port.type.shape)
        for port in made.interface.outputs
    ]
