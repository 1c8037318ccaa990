"""dce (dead code elimination): erase nodes and constants that no output depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Graph
from qcompiler.passes.rewrite import erase_dead


@dataclass(frozen=True)
class Dce:
    """Erase nodes and constants that no output depends on. Inputs stay, because they are the signature.

    Before:
        %a = exp(%x) : f32[4]
        %y = relu(%x) : f32[4]
        return %y
    After:
        %y = relu(%x) : f32[4]
        return %y
    """

    name: ClassVar[str] = "dce"

    def run(self, graph: Graph) -> Graph:
        erase_dead(graph)
        return graph
