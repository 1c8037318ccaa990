"""The doors of ONNX files: models drawn from schemas and then damaged, and files whose bytes are damaged."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import qcompiler as qc
from qcompiler.errors import PassError, QCompilerError, ShapeError, VerifyError
from tests.frontend.onnx.one_op_models import draw
from tests.frontend.onnx.qdq_graphs import QdqGraph
from tests.fuzz.accepted import OBSERVED, check_legal, check_runs, check_text
from tests.fuzz.damage import Chance, damaged
from tests.fuzz.door import generator
from tests.fuzz.minimize import shorter_bytes
from tests.fuzz.onnx_damage import damage_model


class _OnnxFile:
    """The base of both doors: a file is imported, printed, compiled and run."""

    suffix = ".onnx"

    def run(self, data: bytes) -> str:
        path = Path("in.onnx")
        path.write_bytes(data)
        graph = qc.trace(path)
        check_legal(graph, "the imported graph")
        check_text(graph)
        chance = Chance(np.random.default_rng(zlib.crc32(data)))
        try:
            return check_runs(
                graph, chance, native=chance.often(0.1), config=chance.one(OBSERVED) if chance.often(0.1) else None
            )
        except VerifyError as error:
            raise AssertionError(f"an imported graph is refused: {error}") from error

    def is_clear(self, error: QCompilerError) -> bool:
        """Whether the import itself refused: it must not leave shapes that do not fit to a pass or to the verifier."""
        return not isinstance(error, PassError) and (
            not isinstance(error, VerifyError) or isinstance(error, ShapeError)
        )

    def smaller(self, data: bytes) -> Iterator[bytes]:
        try:
            model = onnx.ModelProto.FromString(data)
        except Exception:  # noqa: BLE001 -- whatever protobuf raises for damaged bytes
            yield from shorter_bytes(data)
            return
        for part in _parts(model):
            for index in range(len(part)):
                kept = list(part)
                del part[index]
                yield model.SerializeToString()
                while len(part):
                    del part[0]
                part.extend(kept)
        yield from shorter_bytes(data)


def _parts(model: Any) -> Iterator[Any]:
    graph = model.graph
    yield from (graph.node, graph.output, graph.initializer, graph.input, graph.value_info, graph.sparse_initializer)
    yield from (model.metadata_props, model.functions, model.opset_import)
    for node in graph.node:
        yield from (node.attribute, node.input, node.output)


@cache
def _bases() -> list[bytes]:
    return [drawn_model(Chance(np.random.default_rng(seed)), seed).SerializeToString() for seed in range(60)]


class OnnxBytes(_OnnxFile):
    """Files of legal models with damaged bytes."""

    def draw(self, seed: int) -> bytes:
        chance = Chance(generator("onnx-bytes", seed))
        return damaged(chance.one(_bases()), chance)


class OnnxStructure(_OnnxFile):
    """Models with damaged attributes, shapes, names, opsets and wiring."""

    def draw(self, seed: int) -> bytes:
        chance = Chance(generator("onnx-structure", seed))
        model = drawn_model(chance, seed)
        for _ in range(chance.below(4)):
            damage_model(model, chance)
        return model.SerializeToString()


def drawn_model(chance: Chance, seed: int) -> onnx.ModelProto:
    """A model of one to three ops, drawn by their recipes and wired where types allow, or a QDQ graph."""
    if chance.often(0.2):
        graph = QdqGraph(seed)
        return graph.model()
    model = draw(chance.below(2**31)).model()
    for number in range(chance.below(3)):
        _append(model, draw(chance.below(2**31)).model(), f"p{number}_", chance)
    return model


def _append(model: onnx.ModelProto, other: onnx.ModelProto, prefix: str, chance: Chance) -> None:
    """Append the nodes of another model, which now and then read values that are there already."""
    graph = model.graph
    made = [name for node in graph.node for name in node.output if name]
    renamed = {value.name: prefix + value.name for value in (*other.graph.input, *other.graph.initializer)}
    for value in other.graph.input:
        if made and chance.often(0.6):
            renamed[value.name] = chance.one(made)
    for node in other.graph.node:
        renamed.update({name: prefix + name for name in node.output if name})
        added = graph.node.add()
        added.CopyFrom(node)
        for names in (added.input, added.output):
            names[:] = [renamed.get(name, name) for name in names]
    for source, target in (
        (other.graph.input, graph.input),
        (other.graph.initializer, graph.initializer),
        (other.graph.output, graph.output),
    ):
        for item in source:
            name = renamed.get(item.name, item.name)
            if name not in made:
                copied = target.add()
                copied.CopyFrom(item)
                copied.name = name
