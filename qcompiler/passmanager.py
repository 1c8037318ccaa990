"""The pass manager runs lists of passes and gives every tool one hook: verify, dump, diff, time, numerics and bisect.

A pass is a frozen dataclass whose fields are its options, with a `name` in kebab-case; `run` may change the graph it is
given, which the manager owns, and returns the result. The tools are in instruments.py, numerics.py and bisection.py,
the text form of passes in passes/registry.py.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import ClassVar, Protocol

from qcompiler import knobs
from qcompiler.errors import PassError, QCompilerError, VerifyError, nearest
from qcompiler.ir import Graph
from qcompiler.regular_file import create_regular


class Pass(Protocol):
    """A rewrite of whole graphs."""

    name: ClassVar[str]

    def run(self, graph: Graph) -> Graph:
        """The graph after the pass."""
        ...


class Instrument(Protocol):
    """Sees the graph before and after each pass."""

    def after(self, index: int, done: Pass, before: Graph, graph: Graph, seconds: float, /) -> None:
        """Called when the pass `done`, the number `index` of its pipeline, has made `graph` of `before`."""
        ...


def describe(item: Pass) -> str:
    """A pass as `name{field=value}`, with the plain options that differ from their defaults."""
    fields: tuple[dataclasses.Field[object], ...] = dataclasses.fields(item) if dataclasses.is_dataclass(item) else ()
    options = [
        f"{field.name.replace('_', '-')}={_plain(getattr(item, field.name))}"
        for field in fields
        if isinstance(field.default, (bool, int, float, str)) and getattr(item, field.name) != field.default
    ]
    return item.name + (f"{{{','.join(options)}}}" if options else "")


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _checked(result: object, index: int, done: Pass) -> Graph:
    """What a pass returned; PassError unless it is a graph."""
    if not isinstance(result, Graph):
        raise PassError(
            f"pass {index} {describe(done)} returned no graph",
            expected="a Graph",
            got=type(result).__name__,
            hint="end run(self, graph) with `return graph`",
        )
    return result


class PassManager:
    """Runs passes in order on a copy of the graph.

    Knobs: QC_VERIFY, QC_DUMP, QC_DEBUG, QC_STOP_AFTER, QC_PASS_LIMIT (see knobs.py), read at each run.
    """

    def __init__(self, passes: Sequence[Pass], instruments: Sequence[Instrument] = ()) -> None:
        self.passes = list(passes)
        self.instruments = list(instruments)

    @property
    def is_watched(self) -> bool:
        """Whether instruments or knobs see single passes, so that each has to run here."""
        from qcompiler.instruments import instruments_from_knobs

        knobs_set = knobs.STOP_AFTER.get() is not None or knobs.PASS_LIMIT.get() is not None
        return knobs_set or bool(self.instruments or instruments_from_knobs())

    def run(self, graph: Graph) -> Graph:
        """The graph after all passes.

        Raises:
            PassError: a pass failed within, or left a graph that does not verify. The error names the pass; its
                `reproducer` is the graph before it and the passes from it on, as text. Also if QC_STOP_AFTER names no
                pass.
            QCompilerError: whatever a pass says about the user's model.
        """
        from qcompiler.instruments import Verify, instruments_from_knobs

        stop, limit = self._checked_stop(), knobs.PASS_LIMIT.get()
        watching = [*self.instruments, *instruments_from_knobs()]
        if not self.is_watched:
            done = self._run_at_once(graph)
            if done is not None:
                return done
        instruments = [*([Verify()] if knobs.VERIFY.get() else []), *watching]
        graph = graph.clone()
        for index, current in enumerate(self.passes[:limit]):
            before = graph.clone()
            start = time.perf_counter()
            try:
                graph = _checked(current.run(graph), index, current)
            except QCompilerError:
                raise
            except Exception as error:
                problem = f"pass {index} {describe(current)} failed: {type(error).__name__}: {error}"
                raise self._failure(problem, index, before) from error
            seconds = time.perf_counter() - start
            for instrument in instruments:
                try:
                    instrument.after(index, current, before, graph, seconds)
                except VerifyError as error:
                    problem = f"the graph is broken after pass {index} {describe(current)}: {error}"
                    raise self._failure(problem, index, before) from error
            if current.name == stop:
                break
        return graph

    def _checked_stop(self) -> str | None:
        """The value of QC_STOP_AFTER: a pass of this list, or of any pipeline."""
        stop = knobs.STOP_AFTER.get()
        if stop is None or any(each.name == stop for each in self.passes):
            return stop
        from qcompiler.passes.registry import passes_by_name

        if stop not in passes_by_name():
            raise PassError(
                f"{knobs.STOP_AFTER.name} names no pass", got=stop[:80], hint=nearest(stop, passes_by_name())
            )
        return stop

    def _run_at_once(self, graph: Graph) -> Graph | None:
        """The graph after all passes, verified once at the end.

        None if something is wrong: then the caller goes pass by pass, to find which one is to blame.
        """
        from qcompiler.verify import verify

        graph = graph.clone()
        try:
            for index, current in enumerate(self.passes):
                graph = _checked(current.run(graph), index, current)
            if knobs.VERIFY.get():
                verify(graph)
        except VerifyError:
            return None
        except QCompilerError:
            raise
        except Exception:  # noqa: BLE001  it will be raised again, with the pass's name
            return None
        return graph

    def _failure(self, message: str, index: int, before: Graph) -> PassError:
        from qcompiler.bisection import reproducer

        error = PassError(message)
        error.reproducer = reproducer(before, self.passes[index:])
        folder = knobs.DUMP.get()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            with create_regular(folder / "reproducer.qir") as file:
                file.write(error.reproducer.encode())
            error.add_note(f"reproducer: {folder / 'reproducer.qir'}")
        return error
