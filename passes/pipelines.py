"""The pipelines, as plain lists to be read top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qcompiler.ir import Node
from qcompiler.passes.canonicalize import Canonicalize, ConstantFold, Cse, Dce
from qcompiler.passes.fold_batchnorm import FoldBatchnorm
from qcompiler.passes.fold_pad import FoldPad
from qcompiler.passes.fuse import Fuse
from qcompiler.passes.insert_observers import InsertObservers
from qcompiler.passes.insert_qdq import InsertQdq
from qcompiler.passes.integerize import Integerize
from qcompiler.passmanager import Pass
from qcompiler.quantization.qconfig import QConfig
from qcompiler.types import QuantParams


def float_pipeline(agree: Callable[[Node, Node], bool] | None = None) -> list[Pass]:
    """Simplify a float graph and fuse its nodes."""
    return [
        Canonicalize(),
        ConstantFold(),
        Cse(),
        FoldPad(),
        FoldBatchnorm(),
        Fuse(agree) if agree is not None else Fuse(),
        Dce(),
    ]


def observe_pipeline(configs: Mapping[str, QConfig | None]) -> list[Pass]:
    """float -> observed."""
    return [InsertObservers(configs)]


def convert_pipeline(params: Mapping[str, QuantParams], configs: Mapping[str, QConfig | None]) -> list[Pass]:
    """observed -> qdq -> integer."""
    return [
        InsertQdq(params, configs),
        Integerize(),
    ]
