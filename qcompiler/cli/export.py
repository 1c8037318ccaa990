"""The command export: a model in another form. `arguments.py` owns the arguments, `qcompiler/export` writes the forms
but objects."""

from __future__ import annotations

import argparse
import os

from qcompiler import compiler
from qcompiler.cli.inputs import given_model, open_data
from qcompiler.cli.output import check_writable, print_json, print_table
from qcompiler.errors import QCompilerError, nearest
from qcompiler.export.forms import FORMS

_OBJECT_ONLY = ("target", "prefix", "size", "io")


def export(options: argparse.Namespace) -> None:
    known = (*FORMS, "object")
    if options.to not in known:
        raise QCompilerError(f"unknown form {options.to!r}", hint=nearest(options.to, known))
    foreign = [name for name in _OBJECT_ONLY if getattr(options, name)]
    if options.to != "object" and foreign:
        raise QCompilerError(
            f"--{foreign[0]} is for objects", got=f"--to {options.to}", hint=f"--to object, or no --{foreign[0]}"
        )
    if options.to == "object":
        _object(options)
    else:
        _form(options)


def _form(options: argparse.Namespace) -> None:
    """Write a form that needs nothing from here, and run what was written if the caller asks for it."""
    from qcompiler.export.check import check_export, check_packages

    form = FORMS[options.to]
    check_writable(options.output, form.suffixes)
    graph = given_model(options)
    data = None
    if options.check is not None:
        check_packages(form)
        data = open_data(options.check, graph)
    form.write(graph, options.output)
    size = os.path.getsize(options.output)
    rows = []
    if data is not None:
        rows = [
            {
                "output": error.name,
                "sqnr_db": error.sqnr_db,
                "top1_agreement": error.agreement,
                "max_abs": error.max_abs,
                "identical": error.noise == 0.0,
            }
            for error in check_export(form, options.output, graph, data)
        ]
    if options.json:
        print_json({"form": options.to, "file": options.output, "bytes": size, "check": rows or None})
        return
    print(f"written to {options.output}, {size:,} bytes")
    if rows:
        print("run in a process of its own, against the interpreter:")
        header = ("output", "SQNR dB", "top-1 agreement", "largest error", "identical")
        print_table(header, [list(row.values()) for row in rows])


def _object(options: argparse.Namespace) -> None:
    """Write an object file. The arguments are checked before the model is read."""
    if options.check is not None:
        raise QCompilerError(
            "--check does not run object files", hint="call the self test that the object holds: docs/object-export.md"
        )
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
