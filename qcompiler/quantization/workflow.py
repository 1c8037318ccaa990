"""Static quantization in three calls: prepare a graph, calibrate it on data, convert it.

Nothing works in place: each call takes a graph and gives a new one. Does not own the passes, which are imported when
they are needed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeGuard

from qcompiler.arguments import check_callable, check_data, check_instruments, check_io, check_threads, check_type
from qcompiler.dims import Dynamic
from qcompiler.errors import QuantizationError, nearest
from qcompiler.ir import Graph
from qcompiler.passmanager import Instrument, PassManager

if TYPE_CHECKING:
    import numpy as np

    from qcompiler.notes import Note, PartsJudged
    from qcompiler.ops.interfaces import Weighted
    from qcompiler.ops.quantized import Observe
    from qcompiler.passes.real_parts import RealParts
    from qcompiler.passes.round_weights import Roundings
    from qcompiler.qat import QatModule
    from qcompiler.quantization.calibration import Calibration
    from qcompiler.quantization.collect import Collector
    from qcompiler.quantization.executors import Executor
    from qcompiler.quantization.observers import Observer
    from qcompiler.quantization.precision import Decision
    from qcompiler.quantization.qconfig import QConfig, QConfigMapping
    from qcompiler.quantization.resolution import ResolutionTable
    from qcompiler.quantization.spec import QuantSpec
    from qcompiler.quantization.tuning import Tuning
    from qcompiler.types import QuantParams


@dataclass(repr=False)
class Prepared:
    """An observed graph, and the qconfigs that its nodes resolved to.

    Attributes:
        graph: the graph at stage observed.
        table: which qconfig rule decided each node of the traced graph.
        configs: node name -> its qconfig, None where it stays float.
        weight_params: node name of a product -> the parameters of its weight, where they are known already.
    """

    graph: Graph
    table: ResolutionTable
    configs: Mapping[str, QConfig | None]
    weight_params: Mapping[str, QuantParams] = field(default_factory=dict)

    def __repr__(self) -> str:
        quantized = sum(config is not None for config in self.configs.values())
        return f"<Prepared {self.graph.name}: {quantized} of {len(self.configs)} nodes have a qconfig>"

    def specs(self) -> dict[str, QuantSpec]:
        """Group of values -> the spec that its observer is made from."""
        from qcompiler.quantization.tuning import specs_of

        return specs_of(self.graph)

    def members(self) -> dict[str, list[str]]:
        """Group of values -> the names of its values, which share one observer."""
        found: dict[str, list[str]] = {}
        for observe in self._observers():
            found.setdefault(observe.group, []).append(observe.x.name)
        return found

    def sampled_products(self) -> dict[str, Weighted]:
        """Key -> the product whose input calibration keeps under it (see `product_inputs`)."""
        from qcompiler.quantization.product_inputs import sampled_products

        return sampled_products(self.graph)

    def _observers(self) -> list[Observe]:
        from qcompiler.ops.quantized import Observe

        return [observe for node in self.graph.nodes if (observe := Observe.of(node)) is not None]


def prepare(
    model: object,
    qconfig: str | QConfig | QConfigMapping = "int8",
    example_inputs: object = None,
    *,
    dynamic: Dynamic | None = None,
    instruments: Sequence[Instrument] = (),
) -> Prepared:
    """Resolve the qconfigs on the traced graph, fuse, and insert observers.

    Args:
        model: a float graph, or what `trace` takes, with its example inputs and dynamic sizes.

    Raises:
        QuantizationError: an unknown qconfig, a dynamic one, a qconfig rule that matches nothing, a model that is
            quantized already.
        TraceError: the model cannot be traced.
    """
    from qcompiler.compiler import as_graph
    from qcompiler.passes.pipelines import float_pipeline, observe_pipeline
    from qcompiler.quantization.qconfig import is_dynamic
    from qcompiler.quantization.resolution import resolve

    instruments = check_instruments(instruments)
    if is_dynamic(qconfig):
        raise QuantizationError(
            "dynamic quantization has no calibration to prepare for", hint="qc.compile(model, qconfig, example_inputs)"
        )
    graph = as_graph(model, example_inputs, dynamic)
    if graph.stage != "float":
        raise QuantizationError("only a float graph is prepared", expected="stage float", got=f"stage {graph.stage}")
    table = resolve(graph, qconfig)
    configs = {node.name: table[node.name] for node in graph.nodes}
    fused = PassManager(float_pipeline(configs), instruments).run(graph)
    slow: Mapping[str, str] = {}
    if qconfig == "auto":
        decision = _decide(fused, configs)
        table, slow = table.kept_float(decision.slow), decision.slow
        fused.notes.append(decision.note())
    observed = PassManager(observe_pipeline(configs, slow), instruments).run(fused)
    return Prepared(observed, table, configs)


def _decide(graph: Graph, configs: Mapping[str, QConfig | None]) -> Decision:
    """Which nodes int8 would slow down."""
    from qcompiler.passes.insert_observers import follows, why_float
    from qcompiler.quantization.cost_profile import ZEN5_AVX512VNNI
    from qcompiler.quantization.precision import decide

    able = {node.name: why_float(node, configs.get(node.name)) is None for node in graph.nodes}
    return decide(graph, able, frozenset(node.name for node in graph.nodes if follows(node)), ZEN5_AVX512VNNI)


def calibrate(
    prepared: Prepared,
    data: Iterable[object],
    *,
    transform: Callable[[Any], object] | None = None,
    progress: Callable[[int], object] | None = None,
    threads: int | None = None,
    executor: Executor | None = None,
) -> Calibration:
    """Run the observed graph on every item of `data`.

    Items with NaN or Inf among the inputs are left out. If another value holds such, the nodes around it stay float.

    It runs as the compiled float program of this machine, whatever target the model is for, and the result is the same
    on every level and with any number of threads. Where no kernels can run the interpreter does it, with other
    roundings, and the report says so.

    Args:
        data: each item is the inputs of one call: an array, a tuple by position, or a dict by name.
        transform: applied to each item first.
        progress: called with the number of items done.
        threads: the most threads to use; by default QC_THREADS, or all CPUs that this process may use. With an executor
            the threads of each worker, by default 1.
        executor: runs the items on its workers, with the same result to the bit: an executor of concurrent.futures, a
            Dask client, or what has their `submit` (docs/calibration.md).

    Raises:
        QuantizationError: no items, or an item that is not the inputs of a call; an executor with observers that
            depend on the order of the data.
    """
    from qcompiler.cpus import thread_count
    from qcompiler.quantization.collect import collector
    from qcompiler.quantization.executors import check_executor, check_mergeable, observe_on
    from qcompiler.quantization.items import iterate_items

    check_prepared(prepared)
    check_data("data", data)
    check_callable("transform", transform, "a calibration item")
    check_callable("progress", progress, "a number of items")
    check_threads(threads)
    check_executor(executor)
    left_out: Counter[str] = Counter()
    items = iterate_items(data, prepared.graph.inputs, left_out, transform)
    if executor is not None:
        check_mergeable(prepared)
        found = observe_on(executor, prepared, items, threads or 1, progress)
    else:
        runner = collector(prepared.graph, prepared.sampled_products())
        found = observe_items(prepared, runner, items, thread_count(threads), progress)
    found.left_out = dict(left_out)
    return found


def observe_items(
    prepared: Prepared,
    runner: Collector,
    items: Iterable[list[np.ndarray]],
    threads: int,
    progress: Callable[[int], object] | None = None,
) -> Calibration:
    """What fresh observers collect of the items, which `runner` runs."""
    from qcompiler.passes.round_weights import rounds_by_data
    from qcompiler.quantization.calibration import Calibration
    from qcompiler.quantization.collect import Taken
    from qcompiler.quantization.kept_items import KeptItems
    from qcompiler.quantization.observers import make_observer
    from qcompiler.quantization.product_inputs import make_inputs, value_of

    kept_items = KeptItems.of_inputs(prepared.graph.inputs, rounds_by_data(prepared.configs))
    specs = prepared.specs()
    taken = Taken(
        {group: make_observer(spec) for group, spec in specs.items()}, make_inputs(prepared.sampled_products())
    )
    for count, item in enumerate(items, start=1):
        runner.observe(item, taken, threads)
        kept_items.take(item)
        if progress is not None:
            progress(count)
    for kept in taken.inputs.values():
        kept.settle()
    values = {key: value_of(layer).name for key, layer in prepared.sampled_products().items()}
    inputs = {key: kept for key, kept in taken.inputs.items() if values[key] not in taken.not_finite}
    return Calibration(
        taken.observers,
        specs,
        prepared.members(),
        runner.interpreted,
        inputs,
        taken.not_finite,
        kept_items=kept_items,
    )


def convert(
    prepared: Prepared | QatModule,
    observers: Mapping[str, Observer] | None = None,
    *,
    io: Literal["float", "quantized"] = "float",
    instruments: Sequence[Instrument] = (),
) -> Graph:
    """The integer graph that the calibrated ranges give, or that a module in training simulates.

    Args:
        prepared: what `prepare` gives, or `prepare_qat`.
        observers: None for a module in training, which has its own. Otherwise a Calibration, which may be one of
            another qconfig (see `Calibration.for_prepared`), Scales, or a mapping: group of values -> its observer.
        io: "quantized" decides for codes at the outputs. The graph's own inputs and outputs are real all the same;
            `compile` and the pass quantized-io strip the conversions there.

    Raises:
        QuantizationError: a value was not observed, or an observer saw no data; a qconfig rounds weights on calibration
            items, and `observers` has none that fit the graph.
    """
    from qcompiler.notes import Interpreted, Unclipped
    from qcompiler.ops.recurrent import Recurrent
    from qcompiler.passes.quantize_states import QuantizeStates
    from qcompiler.passes.real_parts import RealParts, choose_real_parts, judge_parts
    from qcompiler.quantization.calibration import Calibration
    from qcompiler.quantization.hostile_data import kept_float, uncalibrated, warn
    from qcompiler.quantization.scales import Scales

    check_io(io)
    if _is_in_training(prepared):
        check_type("observers", observers, NoneType, "None, since the module observed its own ranges")
        return prepared.convert(io=io, instruments=check_instruments(instruments))
    check_prepared(prepared)
    assert isinstance(prepared, Prepared)
    hint = "qc.calibrate(prepared, batches) makes one of data"
    check_type("observers", observers, Mapping, "a Calibration", hint)
    assert observers is not None
    instruments = check_instruments(instruments)
    specs = prepared.specs()
    if isinstance(observers, Scales):
        observers = observers.for_prepared(prepared)
    if isinstance(observers, Calibration):
        observers = observers.for_prepared(prepared)
        prepared = replace(prepared, graph=kept_float(prepared.graph, observers.not_finite))
    unknown = [group for group in observers if group not in specs]
    if unknown:
        raise QuantizationError(
            "an observer of a group that the graph has not",
            got=str(unknown[0])[:80],
            hint=nearest(str(unknown[0]), specs),
        )
    params, reasons, steep = ranges(prepared, observers)
    if any(Recurrent.of(node) is not None for node in prepared.graph.nodes):
        states = PassManager([QuantizeStates(params, prepared.configs)], instruments)
        prepared = replace(prepared, graph=states.run(prepared.graph))
    options: dict[str, Any] = {"code_outputs": io == "quantized", "steep": steep}
    inputs = observers.inputs if isinstance(observers, Calibration) else {}
    parts = choose_real_parts(prepared.graph, params, inputs, prepared.configs, **options)
    judged: PartsJudged | None = None
    make = partial(_converted, prepared, params, observers, options)
    if isinstance(observers, Calibration):
        parts, judged = judge_parts(
            prepared.graph, parts, observers.kept_items, lambda: make(RealParts(), rounds=False)
        )
    converted = make(parts, instruments)
    notes: list[Note] = [] if judged is None else [judged]
    notes += [Unclipped(value, reason) for value, reason in reasons.items()]
    if isinstance(observers, Calibration):
        notes += uncalibrated(prepared.graph, observers)
        if observers.interpreted:
            notes.append(Interpreted(observers.interpreted))
    converted.notes += notes
    warn(converted.notes)
    return converted


class Ranges(NamedTuple):
    """The parameters of the observed groups, why a group is not clipped, and the functions that are steep there."""

    params: dict[str, QuantParams]
    unclipped: Mapping[str, str]
    steep: Any


def ranges(prepared: Prepared, observers: Mapping[str, Observer]) -> Ranges:
    """The parameters that observers of the prepared graph's own groups choose, but for groups that saw no numbers."""
    from qcompiler.passes.peaks import unclipped
    from qcompiler.passes.read_ranges import ranges_for_functions
    from qcompiler.passes.steep import steep_functions
    from qcompiler.quantization.hostile_data import lacks_data
    from qcompiler.quantization.observers import chosen_params

    params = {
        group: chosen_params(observers[group], spec, f"%{group}")
        for group, spec in prepared.specs().items()
        if group in observers and not lacks_data(observers, group)
    }
    whole, reasons = unclipped(prepared.graph, params, observers, prepared.configs)
    params |= whole
    steep = steep_functions(prepared.graph, params, observers)
    return Ranges(params | ranges_for_functions(prepared.graph, observers, prepared.configs), reasons, steep)


def _converted(
    prepared: Prepared,
    params: Mapping[str, QuantParams],
    observers: Mapping[str, Observer],
    options: Mapping[str, Any],
    parts: RealParts,
    instruments: Sequence[Instrument] = (),
    rounds: bool = True,
) -> Graph:
    """The integer graph in which these parts stay real.

    options: of choose-precision, but for `sensitive`. rounds: whether weights are rounded by data where a
    qconfig says so.
    """
    from qcompiler.passes.pipelines import convert_pipeline, precision_pipeline
    from qcompiler.passes.round_weights import Roundings
    from qcompiler.quantization.calibration import Calibration
    from qcompiler.quantization.tuning import CHOSEN_FIRST, Tuning, choose_tuning, respanned, specs_of

    options = {**options, "sensitive": parts.nodes}
    graph = PassManager(precision_pipeline(prepared.configs, **options)).run(prepared.graph)
    tuning = Tuning(params=respanned(params, prepared.specs(), specs_of(graph)))
    if isinstance(observers, Calibration):
        tuning = choose_tuning(graph, tuning.params, observers.inputs, prepared.configs, parts.values)
    rounding = _roundings(prepared, observers, tuning) if rounds else Roundings()
    pipeline = convert_pipeline(
        tuning.params,
        {**prepared.configs, **tuning.configs},
        tuning.scales,
        shifts=tuning.shifts,
        outliers=tuning.outliers,
        wide=tuning.wide,
        corrections={**tuning.corrections, **rounding.corrections},
        codes=rounding.codes,
        weight_params=prepared.weight_params,
        **options,
    )
    manager, start = PassManager(pipeline, instruments), prepared.graph
    if tuning.graph is not None and not manager.is_watched:
        manager, start = PassManager([each for each in pipeline if each.name not in CHOSEN_FIRST]), tuning.graph
    converted = manager.run(start)
    converted.notes += [note for note in tuning.notes if not _is_replaced(note, rounding)]
    converted.notes += rounding.notes
    return converted


def _roundings(prepared: Prepared, observers: Mapping[str, Observer], tuning: Tuning) -> Roundings:
    """The codes of weights that are chosen on whole calibration items, if a qconfig asks for it."""
    from qcompiler.cpus import thread_count
    from qcompiler.passes.real_parts import fits
    from qcompiler.passes.round_weights import Roundings, choose_roundings, rounds_by_data
    from qcompiler.quantization.calibration import Calibration

    configs = {**prepared.configs, **tuning.configs}
    if not rounds_by_data(configs):
        return Roundings()
    kept = observers.kept_items if isinstance(observers, Calibration) else None
    items = [] if kept is None else [item for item in kept.items if fits(prepared.graph, item)]
    if not items or tuning.graph is None:
        raise QuantizationError(
            "no calibration items to round weights on",
            expected="a Calibration with items that fit the graph",
            got="other observers" if kept is None else "none that fit",
            hint="qc.calibrate(prepared, batches) with this qconfig keeps items of up to 64 MB",
        )
    return choose_roundings(tuning.graph, tuning.params, configs, items, thread_count(None))


def _is_replaced(note: Note, rounding: Roundings) -> bool:
    from qcompiler.notes import BiasCorrected

    return isinstance(note, BiasCorrected) and note.product in rounding.corrections


def _is_in_training(prepared: object) -> TypeGuard[QatModule]:
    """Whether it is what `prepare_qat` gives, without an import of torch."""
    module = sys.modules.get("qcompiler.qat")
    return module is not None and isinstance(prepared, module.QatModule)


def check_prepared(prepared: object) -> None:
    """Raise ArgumentError unless `prepared` is what `prepare` gives."""
    check_type("prepared", prepared, Prepared, "what qc.prepare gives", "qc.prepare(model, qconfig, example_inputs)")
