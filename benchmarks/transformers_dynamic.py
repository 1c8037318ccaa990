"""Configurations of transformers, quantized dynamically: a section of docs/models.md is this program's output.

The names are NAMES, or those that `models_in.py` draws from the registry of transformers. Small configurations, random
weights, inputs and open sizes are those of that program. Each model goes through two doors: torch.export, and the ONNX
file that torch.onnx.export writes of it. `qconfig="dynamic"` compiles both. A row shows, for each door, the share of
the weight bytes of linear layers that is int8, and the cosine between the first result and torch's in f32, for a batch
and a length other than the example's.

    python benchmarks/transformers_dynamic.py --results dynamic.json                 # one process for each model
    python benchmarks/transformers_dynamic.py --results dynamic.json --only bert     # those names again
    python benchmarks/transformers_dynamic.py --results dynamic.json --draw 20       # as many drawn ones
    python benchmarks/transformers_dynamic.py --results dynamic.json --table >> docs/models.md
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import pathlib
import random
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

from models_in import Case, NotDrawn, _called, _leaves, _randomize, _transformers_case, _transformers_names

SHARE, COSINE = 0.99, 0.99
NAMES = [
    "bert",
    "distilbert",
    "roberta",
    "electra",
    "mpnet",
    "albert",
    "xlm-roberta-xl",
    "flaubert",
    "jina_embeddings_v3",
    "bert-generation",
    "deberta-v2",
    "bart",
    "mbart",
    "mvp",
    "t5",
    "mt5",
    "gpt2",
    "opt",
    "gpt_neox",
    "gpt_bigcode",
    "phi",
    "granite",
    "glm4",
    "cohere",
    "neomme",
    "ultrabert",
    "hrm_text",
    "mellum",
    "exaone_moe",
]
"""Encoders, encoders with decoders, and decoders."""


@dataclass
class Door:
    """What became of a model at one door.

    Attributes:
        error: why it does not come in, or "".
        int8, all: elements of the weights of linear layers that are int8, and of all of them.
        stacked: elements of f32 weights that are stacks of matrices, as those of a mixture of experts.
        cosine: between our first result and torch's.
    """

    error: str = ""
    int8: int = 0
    all: int = 0
    stacked: int = 0
    cosine: float = 0.0


@dataclass
class Result:
    """A model at both doors. passed: why it was passed over, or ""."""

    name: str
    passed: str = ""
    doors: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def weight_elements(graph: Any) -> tuple[int, int, int]:
    """(int8, all, stacked) of `Door`. A weight that several products share counts once."""
    from qcompiler.ir import Const
    from qcompiler.opdef import op_of

    matrices: dict[int, tuple[bool, int]] = {}
    stacks: dict[int, int] = {}
    for node in graph.nodes:
        if op_of(node).products() is None:
            continue
        for value in node.operands:
            if isinstance(value, Const) and value.data.ndim == 2:
                matrices[id(value)] = (value.data.dtype.itemsize == 1, value.data.size)
            elif isinstance(value, Const) and value.data.ndim > 2:
                stacks[id(value)] = value.data.size
    is_int8 = sum(size for is_int8, size in matrices.values() if is_int8)
    return is_int8, sum(size for _, size in matrices.values()), sum(stacks.values())


def cosine(got: Any, want: Any) -> float:
    """The cosine between the first arrays of two results."""
    import numpy as np

    a, b = (np.asarray(_leaves(each)[0], np.float64).ravel() for each in (got, want))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _through_torch(case: Case, folder: pathlib.Path) -> Any:
    import qcompiler as qc

    return qc.compile(case.module, "dynamic", case.examples, dynamic=case.dynamic)


def _through_onnx(case: Case, folder: pathlib.Path) -> Any:
    import torch

    import qcompiler as qc

    path, axes = folder / "model.onnx", {axis: torch.export.Dim.DYNAMIC for axis in (0, 1)}
    torch.onnx.export(
        case.module,
        (),
        path,
        kwargs=case.examples,
        dynamo=True,
        verbose=False,
        dynamic_shapes={name: axes for name in case.examples},
    )
    examples = {name: tensor.numpy() for name, tensor in case.examples.items()}
    return qc.compile(path, "dynamic", example_inputs=examples)


DOORS = {"torch.export": _through_torch, "ONNX": _through_onnx}


def _try(door: str, case: Case, want: Any) -> Door:
    try:
        with tempfile.TemporaryDirectory() as folder:
            compiled = DOORS[door](case, pathlib.Path(folder))
            got = compiled(**{name: tensor.numpy() for name, tensor in case.others.items()})
        return Door("", *weight_elements(compiled.graph), cosine(got, want))
    except Exception as caught:
        error: BaseException = caught
        while error.__cause__ is not None and type(error).__name__ == "ConversionError":
            error = error.__cause__  # the exporter's own message says how to report it
        return Door(" ".join(f"{type(error).__name__}: {error}".split())[:500])


def _child(connection: Any, name: str) -> None:
    import torch

    begin, result = time.process_time(), Result(name)
    torch.manual_seed(0)
    try:
        case = _transformers_case(name)
        _randomize(case.module)
        with torch.no_grad():
            want = _called(case, case.others)
    except NotDrawn as reason:
        result.passed = str(reason)
    except Exception as error:
        result.passed = " ".join(f"needs other inputs: {type(error).__name__} {error}".split())[:200]
    else:
        result.doors = {door: asdict(_try(door, case, want)) for door in DOORS}
    result.seconds = time.process_time() - begin
    connection.send(result)


def run(name: str, limit: float) -> Result:
    """One model in a forked process, so that a crash is one model's."""
    here, there = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=_child, args=(there, name))
    process.start()
    there.close()
    try:
        failed = {door: asdict(Door(f"more than {limit:.0f} s")) for door in DOORS}
        return here.recv() if here.poll(limit) else Result(name, "", failed)
    except EOFError:
        return Result(name, "", {door: asdict(Door("the process ended")) for door in DOORS})
    finally:
        process.kill()
        process.join()


_SECTION = """
## Dynamic int8

Written by `python benchmarks/transformers_dynamic.py`.

{good} of {total} configurations of transformers are quantized dynamically (`qconfig="dynamic"`) through both doors,
torch.export and the ONNX file that torch.onnx.export writes, with at least {share:.0%} of the weight bytes of linear
layers in int8, and a cosine to torch's f32 result of at least {cosine}. "int8" is that share. "cosine" is of the first
result, for another batch and length than the example's. The configurations are small, as above, and weights are random.
With such weights the residual paths dominate, so these cosines find mistakes; [accuracy.md](accuracy.md) has trained
models. Stacked matrices of experts (mellum, exaone_moe) are no linear layers, and stay f32. Versions: {versions}.

    python benchmarks/transformers_dynamic.py --results dynamic.json
    python benchmarks/transformers_dynamic.py --results dynamic.json --table >> docs/models.md

| model | torch.export: int8 | cosine | ONNX: int8 | cosine |
|---|---|---|---|---|
{rows}

{failures}
"""


def table(results: list[Result]) -> str:
    """The section of docs/models.md."""
    drawn = [each for each in results if not each.passed]
    rows, failures, good = [], [], 0
    for result in drawn:
        cells, holds = [], True
        for name in DOORS:
            door = Door(**result.doors[name])
            if door.error:
                cells += ["no", ""]
                failures.append(f"- `{result.name}`, {name}: {door.error[:200]}")
                holds = False
                continue
            share = door.int8 / max(door.all, 1)
            cells += [f"{share:.2%}", f"{door.cosine:.5f}"]
            holds &= share >= SHARE and door.cosine >= COSINE
        good += holds
        rows.append(f"| {result.name} | {' | '.join(cells)} |")
    versions = ("torch", "transformers", "onnx", "onnxscript")
    return _SECTION.format(
        good=good,
        total=len(drawn),
        share=SHARE,
        cosine=COSINE,
        versions=", ".join(f"{name} {importlib.metadata.version(name)}" for name in versions),
        rows="\n".join(rows),
        failures="What does not come in is refused by torch.onnx.export:\n\n" + "\n".join(failures) if failures else "",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--draw", type=int, help="how many models to draw in place of NAMES")
    parser.add_argument("--results", type=pathlib.Path, required=True, help="a JSON file, read and written")
    parser.add_argument("--only", nargs="*", default=[], help="try the models again whose names contain one of these")
    parser.add_argument("--limit", type=float, default=400.0, help="seconds for one model")
    parser.add_argument("--table", action="store_true", help="print the section of docs/models.md")
    options = parser.parse_args()
    known = json.loads(options.results.read_text()) if options.results.exists() else []
    results = {each["name"]: Result(**each) for each in known}
    if options.table:
        print(table(list(results.values())), end="")
        return
    import torch
    import transformers

    import qcompiler  # noqa: F401

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    names = NAMES
    if options.draw:
        names = _transformers_names()
        random.Random(f"{options.seed} transformers").shuffle(names)
    for name in names:
        drawn = sum(not each.passed for each in results.values())
        if options.draw and drawn >= options.draw and name not in results:
            break
        if name not in results or any(part in name for part in options.only):
            results[name] = run(name, options.limit)
            print(name, results[name].passed or results[name].doors, flush=True)
            options.results.write_text(json.dumps([asdict(each) for each in results.values()], indent=1))


if __name__ == "__main__":
    main()
