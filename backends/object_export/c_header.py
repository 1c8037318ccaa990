"""The C header of an exported model. Owns its text; C99 and C++, no warnings under -Wall -Wextra."""

from __future__ import annotations

import re

from qcompiler import __version__
from qcompiler.backends.object_export.interface import ABI_VERSION, STATUSES, Interface, Port
from qcompiler.types import QuantParams


def emit_header(interface: Interface) -> str:
    """The header's text, deterministic."""
    macro = interface.macro
    guard = f"{macro}_MODEL_H"
    parts = [
        _title(interface),
        f"#ifndef {guard}\n#define {guard}\n\n#include <stddef.h>\n#include <stdint.h>",
        _macros([(f"{macro}_ABI_VERSION", ABI_VERSION, "of these functions; compare with what the object says")]),
        "/* Scratch memory of one call; its contents mean nothing before and after."
        " Where the size is 0 it may be NULL. */\n"
        + _macros([
            (f"{macro}_ARENA_SIZE", interface.arena_size, "bytes"),
            (f"{macro}_ARENA_ALIGN", interface.arena_align, "bytes"),
            (f"{macro}_SELF_TEST_ARENA_SIZE", interface.self_test_size, "bytes, of the self-test"),
        ]),
        "/* Status codes. */\n"
        + _macros([(f"{macro}_{name}", _parenthesised(code), doc) for name, (code, doc) in STATUSES.items()]),
        _macros([
            (f"{macro}_NUM_INPUTS", len(interface.inputs), ""),
            (f"{macro}_NUM_OUTPUTS", len(interface.outputs), ""),
        ]),
        *(_port(macro, port) for port in interface.ports),
        '#ifdef __cplusplus\nextern "C" {\n#endif',
        _functions(interface),
        "#ifdef __cplusplus\n}\n#endif",
        f"#endif /* {guard} */",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Make text safe in a comment: nothing may end it, or cause a compiler's warning."""
    return re.sub(r"[^A-Za-z0-9_ .,:;()\[\]{}=+-]", "_", text)


def _shape(port: Port) -> str:
    return f"{port.type.dtype}[{','.join(map(str, port.type.shape))}]"


def _title(interface: Interface) -> str:
    lines = [f"/* {_plain(interface.model)}: a neural network as an object file, by qcompiler {__version__}.", " *"]
    for kind, ports in (("input", interface.inputs), ("output", interface.outputs)):
        lines += [f" * {kind:8}{_plain(port.value)}: {_shape(port)}" for port in ports]
    lines += [f" * target  {interface.target}: the CPU must have {interface.features}", " */"]
    return "\n".join(lines)


def _parenthesised(code: int) -> str:
    return str(code) if code >= 0 else f"({code})"


def _macros(rows: list[tuple[str, object, str]]) -> str:
    width = max(len(f"#define {name} {value}") for name, value, _ in rows)
    return "\n".join(
        f"#define {name} {value}".ljust(width) + f" /* {doc} */" if doc else f"#define {name} {value}"
        for name, value, doc in rows
    )


def _port(macro: str, port: Port) -> str:
    """The macros of one input or output."""
    stem = f"{macro}_{port.name.upper()}"
    rows: list[tuple[str, object, str]] = [
        (f"{stem}_ELEMENTS", port.elements, f"of {port.c_type}" + _meaning(port)),
        (f"{stem}_BYTES", port.nbytes, ""),
        (f"{stem}_RANK", port.type.rank, ""),
    ]
    rows += [(f"{stem}_DIM{axis}", size, "") for axis, size in enumerate(port.type.shape)]
    title = f"/* {_plain(port.value)}: {_shape(port)}, row major"
    if port.type.quant is None:
        return f"{title}. */\n{_macros(rows)}"
    return f"{title}; real = scale * (code - zero_point). */\n{_macros([*rows, *_quantization(stem, port.type.quant)])}"


def _meaning(port: Port) -> str:
    return {"f16": ", the bits of a half", "bool": ", 0 or 1", "i4": ", one value each", "u4": ", one value each"}.get(
        str(port.type.dtype), ""
    )


def _quantization(stem: str, quant: QuantParams) -> list[tuple[str, object, str]]:
    """The macros of quantization parameters. Scales are the shortest decimals that give the same float."""
    scales, zeros = [f"{_float(scale)}" for scale in quant.scale], [_parenthesised(zero) for zero in quant.zero_point]
    rows: list[tuple[str, object, str]]
    if quant.axis is None:
        rows = [(f"{stem}_SCALE", scales[0], ""), (f"{stem}_ZERO_POINT", zeros[0], "")]
    else:
        rows = [
            (f"{stem}_AXIS", quant.axis, "which the scales lie along"),
            (f"{stem}_SCALES", "{" + ", ".join(scales) + "}", ""),
            (f"{stem}_ZERO_POINTS", "{" + ", ".join(zeros) + "}", ""),
        ]
    return [*rows, (f"{stem}_QMIN", _parenthesised(quant.qmin), ""), (f"{stem}_QMAX", _parenthesised(quant.qmax), "")]


def _float(value: float) -> str:
    """A C float constant that is exactly this float32."""
    import numpy as np

    text = str(np.float32(value))
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _functions(interface: Interface) -> str:
    prefix, macro = interface.prefix, interface.macro
    parameters = [f"const {port.c_type} *{port.name}" for port in interface.inputs]
    parameters += [f"{port.c_type} *{port.name}" for port in interface.outputs]
    parameters += ["void *arena", "size_t arena_size"]
    return f"""\
/* Run the model once, on the calling thread. It allocates nothing and keeps nothing: threads may call it at the same
 * time, each with its own arena and outputs. Outputs and arena must not overlap each other or an input.
 * Returns {macro}_OK, or an error, in which case nothing was written. */
int {prefix}_run({(", ").join(parameters)});

/* Run the model on a generated input and compare with the bits that the compiler recorded. Once after linking or at
 * start-up; needs an arena of {macro}_SELF_TEST_ARENA_SIZE bytes. Returns {macro}_OK or an error. */
int {prefix}_self_test(void *arena, size_t arena_size);

/* {macro}_ABI_VERSION of the object that is linked in. */
int {prefix}_abi_version(void);"""
