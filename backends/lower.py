"""From an integer or float graph to a program: layouts, then steps, then what can be called.

`lower` gives a program as data. A `Program` is what compile() and load() make of a graph: an image and an executable
for each binding of its symbolic sizes. Each node becomes steps by the first lowering rule that fits it
(backends/rules). A node that no rule fits runs in Python and is named in `python_nodes`.

Who makes what:

    lower(graph)           GraphLowering -> ProgramBuilder -> ProgramImage: data only
    lower_graph(graph)     Program, the graph for a target; with symbolic sizes nothing is lowered before the first call
    Program.image(sizes)   `GraphLowering.lower` (one `Lowering` for each binding of sizes, one `NodeLowering` for each
                           node, both given to rules), then `ProgramBuilder.finish`: a ProgramImage
    Program.bind(sizes)    the image, linked: Executable. `_link` loads the kernels and packs the constants
    Program.run(arrays)    binds the sizes of the arrays, then `Executable.run`

Passes and lowering are imported when they are first needed: a program from the cache needs neither.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.artifact.mapped_file import forget_pages
from qcompiler.backends.cache import programs as program_cache
from qcompiler.backends.codegen import kernel_store
from qcompiler.backends.kernel_ir.kernel_key import KernelKey
from qcompiler.backends.program.constants import Constants
from qcompiler.backends.program.image import ProgramImage
from qcompiler.backends.runtime.executable import Executable, PythonFunction
from qcompiler.backends.runtime.link import link
from qcompiler.backends.runtime.loader import LoadedKernel, Loader
from qcompiler.backends.target import Target
from qcompiler.errors import LoweringError, no_memory
from qcompiler.fork_safety import cached_property, fork_safe_lock
from qcompiler.ir import Graph, Node
from qcompiler.signature import Signature

if TYPE_CHECKING:
    from qcompiler.artifact import SavedModel
    from qcompiler.backends.lowering.graph import GraphLowering
    from qcompiler.passmanager import Instrument

SMALL_PROGRAM_WORK = 4_000_000
"""Use one more thread per this much `ProgramImage.work`; for less, waking a worker costs more than it saves."""

MOST_BINDINGS = 8
"""How many executables a program holds; the least recently used is dropped."""

_Key = tuple[tuple[str, int], ...]


def lower(graph: Graph, target: Target, sizes: Mapping[str, int] | None = None) -> ProgramImage:
    """The program image of a float or integer graph, for a target that need not run here.

    Args:
        sizes: of the symbolic dimensions.
    """
    return Program(_with_layouts(graph), target).image(sizes or {})


def lower_graph(graph: Graph, target: Target, instruments: Sequence[Instrument] = ()) -> Program:
    """A program that runs here. Kernels are loaded now if every size is known, else at the first call.

    The passes, which the instruments see, run now in both cases.

    Raises:
        LoweringError: this machine can't run the target.
    """
    check_runs(target)
    program = Program(_with_layouts(graph, instruments), target)
    if not program.graph.dim_names:
        program.bind({})
    return program


def lower_saved(saved: SavedModel, target: Target) -> tuple[Graph | Callable[[], Graph], Signature, Program]:
    """A saved model's graph, or what reads it; how it is called; its program: the one that an earlier process stored,
    or one as `lower_graph` makes it.

    Raises:
        ArtifactError: damaged data, or no legal graph. LoweringError: as lower_graph.
    """
    check_runs(target)
    stored = program_cache.load(saved.digest, target)
    if stored is None:
        graph = saved.graph()
        signature = Signature.of(graph)
        program = Program(_with_layouts(graph), target, stored_as=StoredAs(saved.digest, signature))
        if not program.graph.dim_names:
            program.bind({})
        return graph, signature, program
    saved.check()
    # Both digests are in the program's key: these very sources verified this very graph, before and after lowering.
    source = partial(saved.graph, is_legal=True)
    program = Program(lambda: _unverified(source()), target, stored.constants)
    program.add(stored.image)
    return source, stored.signature, program


def _with_layouts(graph: Graph, instruments: Sequence[Instrument] = ()) -> Graph:
    from qcompiler.passes.pipelines import lower_pipeline
    from qcompiler.passmanager import PassManager

    return PassManager(lower_pipeline(), instruments).run(graph)


def _unverified(graph: Graph) -> Graph:
    """What the passes make of a graph; nothing is verified."""
    from qcompiler.passes.pipelines import lower_pipeline

    for each in lower_pipeline():
        graph = each.run(graph)
    return graph


def check_runs(target: Target) -> None:
    """LoweringError unless this machine can run the target."""
    if not target.can_run():
        raise LoweringError(
            f"this machine can't run {target.name}",
            hint=target.why_not() or 'target="native", or "reference" for the interpreter',
        )


@dataclass(frozen=True)
class StoredAs:
    """How the cache stores a program: under the digest of the saved model, together with how the model is called."""

    digest: str
    signature: Signature


class Program:
    """A graph for a target: an image and an executable for each binding of the graph's symbolic sizes. Thread-safe.

    Args:
        source: a graph of stage lowered (with physical layouts), or what makes it when it is first needed.
        constants: that images share; packed already if the program comes from the cache.
        stored_as: under which name the cache gets the first image that is bound, or None.
        checks_indices: whether a call whose indices are outside of their axis is refused. Otherwise they are clamped.
    """

    def __init__(
        self,
        source: Graph | Callable[[], Graph],
        target: Target,
        constants: Constants | None = None,
        stored_as: StoredAs | None = None,
        checks_indices: bool = True,
    ) -> None:
        self.target, self._checks_indices = target, checks_indices
        self.constants = Constants() if constants is None else constants
        self._source, self._stored_as = source, stored_as
        self._bound: OrderedDict[_Key, Executable] = OrderedDict()
        self._lock = fork_safe_lock()

    @cached_property
    def graph(self) -> Graph:
        """With physical layouts."""
        return self._source if isinstance(self._source, Graph) else self._source()

    @property
    def has_graph(self) -> bool:
        """Whether the graph is there; a program from the cache reads it when it is first asked for."""
        return isinstance(self._source, Graph) or "graph" in vars(self)

    @cached_property
    def _lowering(self) -> GraphLowering:
        from qcompiler.backends.lowering.graph import GraphLowering

        return GraphLowering(self.graph, self.target, self.constants, self._why_python, self._checks_indices)

    def _why_python(self, node: Node) -> str | None:
        """Why a node shall run in Python although a rule may fit it, or None."""
        return None

    def _python_function(self, node: Node, sizes: Mapping[str, int]) -> PythonFunction:
        """What runs the Python step of a node."""
        from qcompiler.backends.lowering.graph import python_function

        return python_function(node, sizes)

    @property
    def python_nodes(self) -> dict[str, str]:
        """Node name -> why no kernel serves it."""
        return {node.name: rule for node, rule in self._lowering.rules.items() if isinstance(rule, str)}

    def image(self, sizes: Mapping[str, int] | None = None) -> ProgramImage:
        """The program for these sizes as data. Needs no machine that runs it."""
        key = _key(sizes)
        with self._lock:
            if key in self._bound:
                return self._bound[key].image
            return self._lowering.image(dict(key))[0]

    def bind(self, sizes: Mapping[str, int] | None = None) -> Executable:
        """The program for these sizes, lowered and linked when first asked for.

        Raises:
            LoweringError: this machine can't run the target.
        """
        key = _key(sizes)
        with self._lock:
            if key in self._bound:
                self._bound.move_to_end(key)
                return self._bound[key]
            bound = self._link(*self._lowering.image(dict(key)))
            if self._stored_as is not None:
                stored_as, self._stored_as = self._stored_as, None
                if not self._lowering.holds_own:
                    program_cache.store(
                        stored_as.digest, self.target, stored_as.signature, bound.image, bound.constants
                    )
            for const in self.graph.consts.values():  # what was read of a saved model is packed now
                forget_pages(const.data)
            return self._add(key, bound)

    def add(self, image: ProgramImage) -> Executable:
        """Link an image that another process lowered, whose constants are this program's."""
        with self._lock:
            return self._add(image.sizes, self._link(image, Constants()))

    def run(self, arrays: Sequence[np.ndarray], sizes: Mapping[str, int], threads: int = 1) -> list[np.ndarray]:
        """Outputs for inputs in signature order; sizes as the inputs bind them.

        Raises:
            InputError: an index is outside of its axis.
            LoweringError: no memory for the call.
        """
        bound = self.bind(sizes)
        useful = min(threads, 1 + bound.image.work // SMALL_PROGRAM_WORK)
        try:
            outputs = bound.run([np.asarray(array, order="C") for array in arrays], threads=useful)
        except MemoryError as error:  # for an output, or a copy of an input
            raise no_memory(f"a call of {bound.image.name}", error) from None
        if bound.image.has_index_checks:
            found = outputs.pop()
            if found[: len(bound.image.index_checks), 0].any():
                from qcompiler.backends.lowering.index_checks import refuse_outside

                refuse_outside(found, bound.image.index_checks, self.graph)
        return outputs

    def _link(self, image: ProgramImage, own: Constants) -> Executable:
        nodes = {step.node for step in image.python_steps}
        functions = {
            node.name: self._python_function(node, dict(image.sizes))
            for node in (self.graph.node_list if nodes else ())
            if node.name in nodes
        }
        kernels, loader = self._load(image)
        own_block = own.block() if image.own_constant_bytes else None
        return link(image, kernels, loader, self.constants.block(), own_block, functions)

    def _load(self, image: ProgramImage) -> tuple[Mapping[KernelKey[Any], LoadedKernel], Loader]:
        """The kernels of an image, and what runs them."""
        return kernel_store.load(image.kernels, self.target), self.target.loader()

    def _add(self, key: _Key, bound: Executable) -> Executable:
        self._bound[key] = bound
        while len(self._bound) > MOST_BINDINGS:
            self._bound.popitem(last=False)
        return bound


def _key(sizes: Mapping[str, int] | None) -> _Key:
    return tuple(sorted((sizes or {}).items()))
