"""Layers that read the rows of a table by index."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from qcompiler.errors import TraceError
from qcompiler.frontend import functional as F
from qcompiler.frontend.functional.embedding import BAG_MODES, checked_padding, no_max_norm
from qcompiler.frontend.nn import init
from qcompiler.frontend.nn.module import Module, Parameter
from qcompiler.frontend.source import user_place


class _Table(Module):
    """A table [num_embeddings, embedding_dim]. The row of `padding_idx` starts as zeros."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        max_norm: float | None,
        weight: Any,
    ) -> None:
        super().__init__()
        no_max_norm(type(self).__name__, max_norm)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = None if padding_idx is None else checked_padding(padding_idx, num_embeddings)
        if weight is None:
            self.weight = init.normal((num_embeddings, embedding_dim))
            if self.padding_idx is not None:
                self.weight[self.padding_idx] = 0
            return
        self.weight = Parameter(weight)
        if self.weight.shape != (num_embeddings, embedding_dim):
            raise TraceError(
                f"weight of {type(self).__name__}",
                where=user_place(),
                expected=f"shape [{num_embeddings},{embedding_dim}]",
                got=f"shape {list(self.weight.shape)}",
            )

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


def _table(what: str, embeddings: Any) -> np.ndarray:
    if hasattr(embeddings, "detach"):
        embeddings = embeddings.detach().cpu().numpy()
    table = np.asarray(embeddings, np.float32)
    if table.ndim != 2:
        raise TraceError(f"table of {what}", where=user_place(), expected="rank 2", got=f"shape {list(table.shape)}")
    return table


class Embedding(_Table):
    """Maps integer indices of any shape to rows of weight [num_embeddings, embedding_dim]. The other options of torch's
    layer change gradients alone, but `max_norm`, which is refused."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Any = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, max_norm, _weight)

    @classmethod
    def from_pretrained(
        cls, embeddings: Any, freeze: bool = True, padding_idx: int | None = None, max_norm: float | None = None
    ) -> Self:
        """A layer with this table, [num_embeddings, embedding_dim]."""
        table = _table(cls.__name__, embeddings)
        rows, columns = table.shape
        return cls(rows, columns, padding_idx=padding_idx, max_norm=max_norm, _weight=table)

    def forward(self, x: Any) -> Any:
        return F.embedding(x, self.weight)


class EmbeddingBag(_Table):
    """The sums, means or maxima of the rows in each bag of indices, [bags, embedding_dim].

    Indices are [bags, length], or [count] with the offsets where bags start. More in `functional.embedding_bag`.
    `max_norm` is refused.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Any = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, max_norm, _weight)
        if mode not in BAG_MODES:
            raise TraceError("mode of EmbeddingBag", where=user_place(), expected=" | ".join(BAG_MODES), got=repr(mode))
        self.mode, self.include_last_offset = mode, include_last_offset

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Any,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> Self:
        """A layer with this table, [num_embeddings, embedding_dim]."""
        table = _table(cls.__name__, embeddings)
        rows, columns = table.shape
        return cls(
            rows,
            columns,
            max_norm=max_norm,
            mode=mode,
            _weight=table,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
        )

    def forward(self, input: Any, offsets: Any = None, per_sample_weights: Any = None) -> Any:
        return F.embedding_bag(
            input,
            self.weight,
            offsets,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mode={self.mode!r}"
