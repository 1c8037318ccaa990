"""The commands that make and show graphs: quantize, check, passes, dump, draw. `arguments.py` owns the arguments."""

from __future__ import annotations

import argparse
import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from qcompiler import compiler
from qcompiler.cli.arguments import refuse_unused
from qcompiler.cli.inputs import Data, given_model, open_data
from qcompiler.cli.output import check_writable, print_json, print_table, progress, write_text
from qcompiler.errors import QCompilerError
from qcompiler.ir import Graph
from qcompiler.passmanager import Instrument, Pass, describe

# -- quantize, check, passes


def _calibrated(graph: Graph, data: Data, compile_it: Callable[[Callable[[int], None]], Any]) -> Any:
    with progress("calibrate", data.count()) as advance:
        return compile_it(advance)


def _qconfig(options: argparse.Namespace) -> str:
    return "int8" if options.qconfig is None else str(options.qconfig)


def _is_dynamic(options: argparse.Namespace) -> bool:
    from qcompiler.quantization.qconfig import is_dynamic

    return options.qconfig not in (None, "keep") and is_dynamic(options.qconfig)


def _kept(graph: Graph, options: argparse.Namespace, watch: Sequence[Instrument] = ()) -> Graph:
    """The integer graph of a model that is quantized already."""
    unused = [name for name in ("data", "batch") if hasattr(options, name)]
    refuse_unused(options, unused, "the model keeps its own parameters")
    if options.qconfig not in (None, "keep"):
        raise QCompilerError(
            "the model is quantized already", got=f"--qconfig {options.qconfig}", hint="--qconfig keep"
        )
    return compiler.compile(graph, "keep", target="reference", instruments=watch).graph


def float_model(options: argparse.Namespace) -> Graph:
    from qcompiler.quantization.qconfig import get_qconfig

    get_qconfig(_qconfig(options))
    graph = given_model(options)
    if graph.stage != "float":
        raise QCompilerError(
            "the model is quantized already", where=options.model, expected="stage float", got=f"stage {graph.stage}"
        )
    return graph


def quantize(options: argparse.Namespace) -> None:
    check_writable(options.output, [".qc.safetensors"])
    if options.qconfig == "keep":
        refuse_unused(options, ["scales"], "the model keeps its own parameters")
        graph = _kept(given_model(options), options)
        _save(compiler.compile(graph, "keep", target=options.target, threads=options.threads), options)
        return
    graph = float_model(options)
    if _is_dynamic(options):
        refuse_unused(options, ["data", "batch", "scales"], "dynamic quantization finds ranges at run time")
        _save(compiler.compile(graph, _qconfig(options), target=options.target, threads=options.threads), options)
        return
    if options.scales is not None:
        from qcompiler.quantization.scales import Scales

        refuse_unused(options, ["data", "batch"], "--scales gives all ranges")
        scales = Scales.load(options.scales)
        compiled = compiler.compile(
            graph, _qconfig(options), calibration=scales, target=options.target, threads=options.threads
        )
        _save(compiled, options)
        return
    if options.data is None:
        raise QCompilerError(
            "quantization needs calibration data",
            hint="--data CALIB.npz, --scales F.scales, --qconfig dynamic, or --qconfig keep",
        )
    data = open_data(options.data, graph, options.batch)
    model = _calibrated(
        graph,
        data,
        lambda advance: compiler.compile(
            graph,
            _qconfig(options),
            calibration_data=data,
            target=options.target,
            threads=options.threads,
            progress=advance,
        ),
    )
    _save(model, options)


def _save(model: compiler.CompiledModel, options: argparse.Namespace) -> None:
    model.save(options.output)
    found = model.report()
    if options.json:
        print_json({"output": options.output, **found.to_dict()})
    else:
        print(found)
        print(f"saved to {options.output}")


def check(options: argparse.Namespace) -> None:
    from qcompiler.notes import RealResult
    from qcompiler.passes.pipelines import precision_pipeline
    from qcompiler.passmanager import PassManager
    from qcompiler.quantization.dynamic import quantize_graph
    from qcompiler.quantization.resolution import resolve
    from qcompiler.report import noted_reasons, report

    graph = given_model(options)
    if graph.stage != "float":
        if options.qconfig != "keep":
            refuse_unused(options, ["qconfig"], "the model is quantized already")
        print_json(report(graph).to_dict()) if options.json else print(report(graph))
        return
    if options.qconfig == "keep":
        _kept(graph, options)  # which refuses a float model
    if _is_dynamic(options):
        table, decided = resolve(graph, options.qconfig), quantize_graph(graph, options.qconfig)
    else:
        prepared = compiler.prepare(graph, _qconfig(options))
        table, decided = prepared.table, PassManager(precision_pipeline(prepared.configs)).run(prepared.graph)
    reasons = noted_reasons(decided)
    real = {note.node: note.reason for note in decided.notes if isinstance(note, RealResult)}
    rows = [
        (
            row.node,
            row.op,
            "float" if row.qconfig is None or row.node in reasons else row.qconfig.kind,
            reasons.get(row.node) or (f"gives f32: {real[row.node]}" if row.node in real else row.rule),
        )
        for row in table.rows
    ]
    counts = Counter(row[1] for row in rows)
    if options.json:
        nodes = [dict(zip(("node", "op", "runs_in", "why"), row)) for row in rows]
        print_json({"name": graph.name, "inputs": _signature(graph), "ops": counts, "nodes": nodes})
        return
    print(f"{graph.name}: {', '.join(f'{name}: {type}' for name, type in _signature(graph).items())}")
    print(f"ops: {', '.join(f'{count} {op}' for op, count in counts.most_common())}")
    print_table(("node", "op", "runs in", "why"), rows, left=4)
    print(f"{sum(row[2] == 'int8' for row in rows)} of {len(rows)} nodes will run in int8")


def _signature(graph: Graph) -> dict[str, str]:
    return {value.name: str(value.type) for value in graph.inputs}


class _Watch:
    """An instrument that collects a row per pass and, with `texts`, the diff that it made."""

    def __init__(self, texts: bool = False) -> None:
        self.texts = texts
        self.rows: list[dict[str, Any]] = []
        self.stages: dict[str, Graph] = {}

    def after(self, index: int, done: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        row = {
            "pass": describe(done),
            "stage": graph.stage,
            "before": len(before),
            "after": len(graph),
            "ms": seconds * 1e3,
        }
        if self.texts:
            row["diff"] = list(difflib.unified_diff(str(before).split("\n"), str(graph).split("\n"), lineterm="", n=1))[
                2:
            ]
        self.rows.append(row)
        self.stages[graph.stage] = graph.clone()


def _converted(graph: Graph, options: argparse.Namespace, watch: _Watch) -> Graph:
    """The graph after the passes that the given data allows: observed without data, integer with it or without need
    of it."""
    if _is_dynamic(options):
        from qcompiler.quantization.dynamic import quantize_graph

        refuse_unused(options, ["data", "batch"], "dynamic quantization finds ranges at run time")
        return quantize_graph(graph, options.qconfig, [watch])
    prepared = compiler.prepare(graph, _qconfig(options), instruments=[watch])
    if options.data is None:
        refuse_unused(options, ["batch"], "there is no --data to cut into calls")
        return prepared.graph
    data = open_data(options.data, graph, options.batch)
    observers = _calibrated(graph, data, lambda advance: compiler.calibrate(prepared, data, progress=advance))
    return compiler.convert(prepared, observers, instruments=[watch])


def passes(options: argparse.Namespace) -> None:
    watch = _Watch(options.texts)
    if options.qconfig == "keep":
        final = _kept(given_model(options), options, [watch])
    else:
        final = _converted(float_model(options), options, watch)
    if options.json:
        print_json({"passes": watch.rows, "stage": final.stage})
        return
    if options.texts:
        for row in watch.rows:
            print(f"== {row['pass']}: {row['before']} -> {row['after']} nodes, {row['ms']:.1f} ms")
            print("\n".join(row["diff"]) or "   nothing changed")
        return
    print_table(
        ("pass", "stage", "before", "after", "ms"),
        [(row["pass"], row["stage"], row["before"], row["after"], row["ms"]) for row in watch.rows],
        left=2,
    )
    if options.data is None and options.qconfig != "keep" and not _is_dynamic(options):
        print("with --data the passes after calibration run too")


# -- dump, draw


def _at_stage(options: argparse.Namespace) -> Graph:
    """The model's graph at the stage that is asked for, or as it is."""
    graph = given_model(options)
    stage = options.stage
    if stage != "lowered":
        refuse_unused(options, ["target"], "only the stage lowered depends on it")
    if stage is None or stage == graph.stage:
        refuse_unused(options, ["qconfig", "data", "batch"], "the model is shown as it is")
        return graph
    as_it_is = options.data is None and not _is_dynamic(options)
    if stage == "lowered" and (graph.stage == "integer" or (graph.stage == "float" and as_it_is)):
        refuse_unused(options, ["qconfig", "data", "batch"], f"a graph of stage {graph.stage} is lowered as it is")
        return _lowered(graph if graph.stage == "integer" else compiler.fuse(graph), options.target)
    if graph.stage == "qdq" and stage in ("integer", "lowered"):
        kept = _kept(graph, options)
        return kept if stage == "integer" else _lowered(kept, options.target)
    if graph.stage != "float":
        raise QCompilerError(
            f"a graph of stage {graph.stage} does not become one of stage {stage}", where=options.model
        )
    if _is_dynamic(options) and stage not in ("integer", "lowered"):
        raise QCompilerError(f"dynamic quantization has no stage {stage}", hint="--stage integer")
    if stage != "observed" and options.data is None and not _is_dynamic(options):
        raise QCompilerError(f"stage {stage} needs calibration data", hint="--data CALIB.npz")
    if stage == "observed":
        refuse_unused(options, ["data"], "observers are inserted without data")
    watch = _Watch()
    final = _converted(graph, options, watch)
    return _lowered(final, options.target) if stage == "lowered" else watch.stages[stage]


def _lowered(graph: Graph, target: str | None) -> Graph:
    from qcompiler.backends.lower import lower_graph
    from qcompiler.backends.target import parse_target

    if target == "reference":
        raise QCompilerError("the interpreter has no lowered graph", hint="--target native, or a level")
    return lower_graph(graph, parse_target("native" if target is None else target)).graph


def dump(options: argparse.Namespace) -> None:
    write_text(options.output, str(_at_stage(options)))


def draw(options: argparse.Namespace) -> None:
    from qcompiler.draw import draw as draw_graph

    check_writable(options.output, [".svg", ".png", ".pdf", ".dot", ".gv"])
    print(f"drawn to {draw_graph(_at_stage(options), options.output)}")
