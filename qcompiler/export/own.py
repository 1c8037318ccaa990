"""`register_exporter`: how an op of a user is written in another form."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from qcompiler.arguments import check_text, check_type, described
from qcompiler.errors import ArgumentError, LoweringError, nearest
from qcompiler.opdef import Op, OpDef

FORMS = ("onnx", "torch")


@dataclass(frozen=True)
class Exporter:
    """How an op is written.

    Attributes:
        write: takes the NodeWriter of the form; None for a node of a domain whose meaning the reader has to know.
        domain: of ONNX, in which the op is a function, or a node without a body; None: what `write` makes stands in
            the graph itself.
    """

    write: Callable[[Any], Any] | None
    domain: str | None = None


_exporters: dict[tuple[str, bool, str], Exporter] = {}
"""(form, on codes, op) -> its exporter."""


def register_exporter(
    form: Literal["onnx", "torch"],
    op: OpDef,
    write: Callable[[Any], Any] | None,
    *,
    domain: str | None = None,
    on_codes: bool = False,
) -> None:
    """Say how an op of your own is exported. A script (`export_python`) needs no exporter: it gets the op's reference.

    Args:
        form: "onnx" or "torch".
        op: the class of the op.
        write: a function of a NodeWriter (`qcompiler.export.onnx.node`, `qcompiler.export.torch.node`) that makes the
            op of others: for ONNX it gives the name of the result, for torch the tensor.
        domain: for ONNX: the op is a node of this domain, named as its class is, and `write` makes the body of a
            function of the model, which every reader runs. With write=None there is no body: only a reader that knows
            the domain runs the file.
        on_codes: for torch: `write` computes codes from codes, instead of real numbers from real numbers.

    Raises:
        ArgumentError: an argument of another type.
        LoweringError: an unknown form, an op of qcompiler, an op that has an exporter, or options that the form does
            not have.
    """
    check_text("form", form, '"onnx" or "torch"')
    check_type("on_codes", on_codes, bool, "a bool")
    if domain is not None:
        check_text("domain", domain, 'the name of a domain, such as "com.example", or None')
    if form not in FORMS:
        raise LoweringError(f"no exporters are registered for the form {form!r}", hint=nearest(form, FORMS))
    if not (isinstance(op, type) and issubclass(op, Op) and op.name):
        raise ArgumentError("argument 'op'", expected="the class of an op", got=described(op))
    if not op.is_own:
        raise LoweringError(f"{op.name} is an op of qcompiler, which writes it")
    _check_writer(form, write, domain, on_codes)
    key = (form, on_codes, op.name)
    if key in _exporters:
        raise LoweringError(f"{op.name} has an exporter for {form} already", hint=f'qc.unregister_op("{op.name}")')
    _exporters[key] = Exporter(write, domain)


def _check_writer(form: str, write: object, domain: str | None, on_codes: bool) -> None:
    if form == "onnx" and on_codes:
        raise LoweringError("on_codes is for torch: an ONNX file converts codes to real numbers around the op")
    if form != "onnx" and domain is not None:
        raise LoweringError("domain is for ONNX", got=repr(domain))
    if domain in ("", "ai.onnx"):
        raise LoweringError("the domain of an op of your own", expected="a name that is not ONNX's", got=repr(domain))
    if write is None and domain is not None:
        return
    if not callable(write) or isinstance(write, type):
        raise ArgumentError("argument 'write'", expected="a function of a NodeWriter", got=described(write))
    try:
        inspect.signature(write).bind(None)
    except (TypeError, ValueError):
        raise LoweringError("an exporter takes one argument", expected="write(w)", got=described(write)) from None


def find_exporter(form: str, op: str, *, on_codes: bool = False) -> Exporter | None:
    """The exporter of an op, or None."""
    return _exporters.get((form, on_codes, op))


def why_no_exporter(form: str, op: OpDef) -> str:
    """Why an op of a user has no form."""
    return f'no exporter is registered: qc.register_exporter("{form}", {op.__name__}, write)'


def forget_exporters(op: str) -> None:
    for key in [key for key in _exporters if key[2] == op]:
        del _exporters[key]
