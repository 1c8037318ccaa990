"""The command export: a model as text, or as an object file with a C header. `arguments.py` owns the arguments."""

from __future__ import annotations

import argparse

from qcompiler import compiler
from qcompiler.cli.inputs import given_model
from qcompiler.cli.output import check_writable, print_json, write_text
from qcompiler.errors import QCompilerError, nearest

_FORMS = ("text", "onnx", "object", "python")
_OBJECT_ONLY = ("target", "prefix", "size", "io", "json")


def export(options: argparse.Namespace) -> None:
    if options.to not in _FORMS:
        raise QCompilerError(f"unknown form {options.to!r}", hint=nearest(options.to, _FORMS))
    if options.to not in ("text", "object"):
        raise QCompilerError(f"export to {options.to} is not there yet", expected="text or object", hint="--to text")
    foreign = [name for name in _OBJECT_ONLY if getattr(options, name)]
    if options.to != "object" and foreign:
        raise QCompilerError(
            f"--{foreign[0]} is for objects", got=f"--to {options.to}", hint=f"--to object, or no --{foreign[0]}"
        )
    if options.to == "object":
        _object(options)
        return
    write_text(options.output, str(given_model(options)))


def _object(options: argparse.Namespace) -> None:
    """Write an object file. The arguments are checked before the model is read."""
    from qcompiler.backends.object_export.export import check_target, export_object
    from qcompiler.backends.object_export.interface import choose_prefix
    from qcompiler.backends.target import parse_target

    check_writable(options.output, [".o"])
    if options.target == "reference":
        raise QCompilerError(
            "the interpreter has no object code", hint="--target native, or a level: see `qcompiler targets`"
        )
    target = parse_target(options.target or "native", exact=True)
    check_target(target)
    choose_prefix(options.prefix, "model")
    sizes: dict[str, int] = {}
    for name, size in options.size or ():
        if sizes.setdefault(name, size) != size:
            raise QCompilerError(
                f"--size {name} is given twice", expected=f"{name}={sizes[name]}", got=f"{name}={size}"
            )
    graph = given_model(options)
    if graph.stage not in ("float", "qdq", "integer"):
        raise QCompilerError(
            f"a graph of stage {graph.stage} is not lowered",
            where=options.model,
            expected="stage float, qdq or integer",
        )
    qconfig = "keep" if graph.stage == "qdq" else None
    graph = compiler.compile(graph, qconfig, target="reference", io=options.io or "float").graph
    made = export_object(graph, options.output, target, prefix=options.prefix, sizes=sizes)
    header = options.output.removesuffix(".o") + ".h"
    if options.json:
        print_json(
            {
                "object": options.output,
                "header": header,
                "prefix": made.interface.prefix,
                "target": made.interface.target,
                "object_bytes": len(made.data),
                "constant_bytes": made.constant_bytes,
                "arena_bytes": made.interface.arena_size,
            }
        )
        return
    print(
        f"{made.interface.prefix}_run for {made.interface.target}: {len(made.data):,} bytes, "
        f"{made.constant_bytes:,} of them constants; a call needs an arena of {made.interface.arena_size:,}"
    )
    print(f"written to {options.output} and {header}")
