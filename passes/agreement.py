"""Decides whether two nodes may be merged: only if they resolved to the same qconfig."""

from __future__ import annotations

from collections.abc import Mapping

from qcompiler.ir import Node
from qcompiler.quantization.qconfig import QConfig


def agree(configs: Mapping[str, QConfig | None] | None, first: Node, second: Node) -> bool:
    """Whether two nodes have the same qconfig.

    configs: node name -> QConfig, from the resolution table; None if nothing is to be quantized.
    """
    return configs is None or configs.get(first.name) == configs.get(second.name)
