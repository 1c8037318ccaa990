"""einsum of one or two traced operands, by transposes, reshapes, sums and one batched matmul."""

from __future__ import annotations

from typing import Any

from qcompiler.dims import DimLike
from qcompiler.errors import TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import dims, lift, rank, trace_of
from qcompiler.frontend.source import user_place


def einsum(subscripts: str, *operands: Any) -> Any:
    """numpy's einsum with explicit or implicit output; more operands are contracted from left to right.

    Raises:
        TraceError: malformed subscripts, or a letter that stands for two sizes.
    """
    trace = trace_of(list(operands))
    xs = [lift(x, trace) for x in operands]
    inputs, output = _parse(subscripts, xs)
    terms = [_diagonal_free(labels) for labels in inputs]
    while len(xs) > 2:
        later = set(output).union(*terms[2:])
        kept = [label for label in dict.fromkeys(terms[0] + terms[1]) if label in later]
        xs[:2] = [_pair(xs[0], terms[0], xs[1], terms[1], kept)]
        terms[:2] = [kept]
    if len(xs) == 2:
        return _pair(xs[0], terms[0], xs[1], terms[1], output)
    return _single(xs[0], terms[0], output)


def _parse(subscripts: str, xs: list[Any]) -> tuple[list[list[str]], list[str]]:
    text = subscripts.replace(" ", "")
    left, arrow, right = text.partition("->")
    parts = left.split(",")
    if len(parts) != len(xs):
        raise TraceError("einsum: one term for each operand", where=user_place(), expected=len(xs), got=subscripts)
    extra = max((rank(x) - len(part.replace("...", "")) for part, x in zip(parts, xs) if "..." in part), default=0)
    batch = [f"_{i}" for i in range(extra)]
    terms = [_labels(part, batch, rank(x), subscripts) for part, x in zip(parts, xs)]
    if arrow:
        head, dots, tail = right.partition("...")
        output = [*head, *(batch if dots else []), *tail]
    else:
        letters = [label for term in terms for label in term if label not in batch]
        output = batch + sorted(label for label in set(letters) if letters.count(label) == 1)
    known = {label for term in terms for label in term}
    if any(label not in known for label in output) or len(set(output)) != len(output):
        raise TraceError("einsum: malformed output", where=user_place(), got=subscripts)
    return terms, output


def _labels(part: str, batch: list[str], count: int, subscripts: str) -> list[str]:
    head, dots, tail = part.partition("...")
    width = count - len(head) - len(tail)
    labels = [*head, *(batch[len(batch) - width :] if dots and width > 0 else []), *tail]
    if len(labels) != count or not all(label.isalpha() or label.startswith("_") for label in labels):
        raise TraceError(
            "einsum: a term does not fit its operand",
            where=user_place(),
            got=subscripts,
            expected=f"{count} letters in {part!r}",
        )
    return labels


def _diagonal_free(labels: list[str]) -> list[str]:
    if len(set(labels)) != len(labels):
        raise TraceError("einsum: diagonals are not supported", where=user_place(), got="".join(labels))
    return labels


def _single(x: Any, labels: list[str], output: list[str]) -> Any:
    summed = [i for i, label in enumerate(labels) if label not in output]
    if summed:
        x = ops.reduce("sum", x, summed)
        labels = [label for label in labels if label in output]
    return ops.transpose(x, [labels.index(label) for label in output])


def _pair(x: Any, left: list[str], y: Any, right: list[str], output: list[str]) -> Any:
    x, left = _sum_out(x, left, {*right, *output})
    y, right = _sum_out(y, right, {*left, *output})
    shared = [label for label in left if label in right]
    batch = [label for label in shared if label in output]
    inner = [label for label in shared if label not in output]
    rows = [label for label in left if label not in right]
    columns = [label for label in right if label not in left]
    sizes = _sizes(left, x) | _sizes(right, y)
    for label in shared:
        a, b = dims(x)[left.index(label)], dims(y)[right.index(label)]
        if a != b and 1 not in (a, b):
            raise TraceError(f"einsum: {label!r} stands for two sizes", where=user_place(), got=f"{a} and {b}")
        sizes[label] = b if a == 1 else a
    x = ops.expand(
        ops.transpose(x, [left.index(label) for label in batch + rows + inner]),
        [sizes[label] for label in batch + rows + inner],
    )
    y = ops.expand(
        ops.transpose(y, [right.index(label) for label in batch + inner + columns]),
        [sizes[label] for label in batch + inner + columns],
    )
    if not inner:
        x = ops.reshape(x, [sizes[label] for label in batch + rows] + [1] * len(columns))
        y = ops.reshape(y, [sizes[label] for label in batch] + [1] * len(rows) + [sizes[label] for label in columns])
        product = ops.binary("mul", x, y)
    else:
        outer = [sizes[label] for label in batch]
        x = ops.reshape(x, [*outer, _product(rows, sizes), _product(inner, sizes)])
        y = ops.reshape(y, [*outer, _product(inner, sizes), _product(columns, sizes)])
        product = ops.reshape(ops.matmul(x, y), [sizes[label] for label in batch + rows + columns])
    order = batch + rows + columns
    return ops.transpose(product, [order.index(label) for label in output])


def _sum_out(x: Any, labels: list[str], needed: set[str]) -> tuple[Any, list[str]]:
    dropped = [i for i, label in enumerate(labels) if label not in needed]
    if dropped:
        x = ops.reduce("sum", x, dropped)
    return x, [label for label in labels if label in needed]


def _sizes(labels: list[str], x: Any) -> dict[str, DimLike]:
    return dict(zip(labels, dims(x)))


def _product(labels: list[str], sizes: dict[str, DimLike]) -> DimLike:
    total: DimLike = 1
    for label in labels:
        total = total * sizes[label]
    return total
