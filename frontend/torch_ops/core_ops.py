"""The table of torch's core ATen ops for docs/ops.md: served, decomposed by torch, or refused and why.

The list is torch's own (torch.Tag.core), and what is served comes from the importer's table.
"""

from __future__ import annotations

import re

from qcompiler.frontend.torch_ops.sizes import SIZE_NAMES
from qcompiler.frontend.torch_ops.table import TABLE

REASONS: dict[str, str] = {
    r".*_backward": "a derivative, for training",
    r"rand.*|bernoulli|native_dropout": "random numbers: a program gives the same answer each time",
    r"nonzero|masked_select|_local_scalar_dense": "a shape, or a number of Python, that depends on data",
    r"_fft_.*|view_as_complex|view_as_real": "complex numbers",
    r"_native_batch_norm_legit.*": "statistics of the batch, for training",
    r"as_strided|empty_strided|resize_|sym_storage_offset": "the layout of memory, which a graph does not have",
    r"masked_scatter": "positions that depend on how many elements of a mask are true",
    r"atan2": "writes to a given tensor; atan2 itself is served",
}
"""A regular expression of the names of ops -> why they are refused; the others have no meaning yet."""


def core_ops() -> list[str]:
    """The printed names of torch's core ATen ops, without their namespace."""
    import torch

    found = set()
    for registered in torch._C._dispatch_get_all_op_names():  # torch.ops.aten lists what was used so far
        namespace, _, name = registered.partition("::")
        if namespace != "aten":
            continue
        packet, _, overload = name.partition(".")
        op = getattr(getattr(torch.ops.aten, packet), overload or "default")
        if torch.Tag.core in op.tags:
            found.add(str(op).removeprefix("aten."))
    return sorted(found)


def status(op: str) -> str:
    """What the importer makes of a core ATen op: a cell of the table."""
    import torch

    from qcompiler.frontend.torch_export import CORE_BUT_DECOMPOSED

    name = op.rpartition(".")[0]
    if f"aten.{op}" in TABLE or name in SIZE_NAMES:
        return "served"
    rules = {str(rule) for rule in torch.export.default_decompositions()}
    if name in CORE_BUT_DECOMPOSED or f"aten.{op}" in rules:
        return "decomposed by torch"
    why = next((why for pattern, why in REASONS.items() if re.fullmatch(pattern, name)), None)
    return f"refused: {why or 'no op of the graph has this meaning yet'}"


def page() -> list[str]:
    """The section of docs/ops.md, line by line."""
    import torch

    statuses = {op: status(op) for op in core_ops()}
    served = sum(not text.startswith("refused") for text in statuses.values())
    return [
        "## Core ATen ops of torch",
        "",
        f"{served} of {len(statuses)}, of torch {torch.__version__.partition('+')[0]}. Other ATen ops are served too, "
        "or decomposed into these. Written from the importer's table and `torch.Tag.core`.",
        "",
        "| op | |",
        "|---|---|",
        *(f"| {op.removesuffix('.default')} | {text} |" for op, text in statuses.items()),
    ]
