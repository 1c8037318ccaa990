"""The builder's structured control flow: counted loops with carried values, and conditionals with results.

Owns the context managers that `KernelBuilder.loop` and `KernelBuilder.if_` return, and how nested lists of carried
values are flattened.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from qcompiler.backends.kernel_ir.ir import Block, Op, Value
from qcompiler.errors import VerifyError

if TYPE_CHECKING:
    from qcompiler.backends.kernel_ir.builder import KernelBuilder


def flatten(tree: Any) -> list[Value]:
    """The values in nested lists and tuples, in order."""
    return [leaf for branch in tree for leaf in flatten(branch)] if isinstance(tree, list | tuple) else [tree]


def unflatten(tree: Any, leaves: Sequence[Value]) -> Any:
    """`leaves` nested as `tree` is; a single value stays single."""
    source = iter(leaves)

    def build(branch: Any) -> Any:
        if isinstance(branch, list | tuple):
            return type(branch)(build(inner) for inner in branch)
        return next(source)

    return build(tree)


class _Body:
    """A block under construction. It makes the builder append to the block, and takes its `yield`."""

    def __init__(self, builder: KernelBuilder, block: Block, what: str) -> None:
        self.builder = builder
        self.block = block
        self.what = what
        self.yielded: Any = None

    def enter(self) -> None:
        self.builder.blocks.append(self.block)

    def leave(self) -> None:
        self.builder.blocks.pop()

    def yield_(self, tree: Any) -> None:
        if self.builder.blocks[-1] is not self.block or self.yielded is not None:
            raise VerifyError(f"yield_ of a {self.what} comes once, in its own block", where=self.builder.name)
        self.yielded = tree
        self.block.ops.append(Op("yield", tuple(flatten(tree)), ()))

    def close(self, needed: bool) -> None:
        if self.yielded is None:
            if needed:
                raise VerifyError(f"this {self.what} has results and needs yield_", where=self.builder.name)
            self.block.ops.append(Op("yield", (), ()))
        elif self.block.ops[-1].name != "yield":
            raise VerifyError(f"nothing may follow yield_ in a {self.what}", where=self.builder.name)


class Loop:
    """A counted loop: `with b.loop(lo, hi, step, carried=...) as loop`.

    The block reads `loop.index` and `loop.carried`, and ends with `loop.yield_(next)`. `loop.results` are available
    after the block; they are nested as `carried` is. A loop without iterations gives the initial values.
    """

    def __init__(self, builder: KernelBuilder, lo: Value, hi: Value, step: Value, carried: Any) -> None:
        self.builder = builder
        self._initial = flatten(carried)
        self._tree = carried
        self.index = Value(lo.type, builder, hint="i")
        args = [Value(value.type, builder) for value in self._initial]
        self.carried = unflatten(carried, args)
        self._body = _Body(builder, Block((self.index, *args)), "loop")
        self._bounds = (lo, hi, step)
        self._results: Any = None

    def yield_(self, next_values: Any) -> None:
        """Give the carried values of the next iteration, nested as `carried` is, in the last statement of the block."""
        found = [value.type for value in flatten(next_values)]
        if found != [value.type for value in self._initial]:
            raise VerifyError(
                "a loop yields other types than it carries",
                where=self.builder.name,
                expected=[value.type for value in self._initial],
                got=found,
            )
        self._body.yield_(next_values)

    @property
    def results(self) -> Any:
        """The carried values after the last iteration."""
        if self._results is None:
            raise VerifyError("a loop has results only after its block", where=self.builder.name)
        return self._results

    def __enter__(self) -> Loop:
        self._body.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._body.leave()
        if error is not None:
            return
        self._body.close(needed=bool(self._initial))
        results = tuple(Value(value.type, self.builder) for value in self._initial)
        self.builder.append(Op("loop", (*self._bounds, *self._initial), results, blocks=(self._body.block,)))
        self._results = unflatten(self._tree, results)


class If:
    """A conditional: `with b.if_(condition) as branch: ... branch.yield_(x)`, then `with branch.else_(): ...
    branch.yield_(y)`, then `branch.results`. Without results the else part may be left out."""

    def __init__(self, builder: KernelBuilder, condition: Value) -> None:
        self.builder = builder
        self._then = _Body(builder, Block(), "if")
        self._else = _Body(builder, Block(), "else")
        self._current = self._then
        self._op = Op("if", (condition,), (), blocks=(self._then.block, self._else.block))

    def yield_(self, values: Any) -> None:
        """Give the results of the branch that is being written. This is its last statement."""
        self._current.yield_(values)

    def else_(self) -> _Else:
        """The block that runs when the condition is false."""
        return _Else(self)

    @property
    def results(self) -> Any:
        """The results of the branch that ran, nested as in the first `yield_`."""
        if self._else.yielded is None:
            raise VerifyError("an if has results only when both of its branches yield", where=self.builder.name)
        return unflatten(self._then.yielded, self._op.results)

    def __enter__(self) -> If:
        self._then.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._then.leave()
        if error is not None:
            return
        self._then.close(needed=False)
        self._else.block.ops.append(Op("yield", (), ()))
        self._op.results = tuple(Value(value.type, self.builder) for value in self._then.block.ops[-1].operands)
        self.builder.append(self._op)


class _Else:
    """The block after `branch.else_()`."""

    def __init__(self, branch: If) -> None:
        self._branch = branch

    def __enter__(self) -> If:
        branch = self._branch
        current = branch.builder.blocks[-1].ops
        if not current or current[-1] is not branch._op:
            raise VerifyError("else_ follows its if at once", where=branch.builder.name)
        branch._else.block.ops.clear()
        branch._current = branch._else
        branch._else.enter()
        return branch

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        branch = self._branch
        branch._else.leave()
        if error is not None:
            return
        branch._else.close(needed=bool(branch._op.results))
        found = [value.type for value in branch._else.block.ops[-1].operands]
        expected = [value.type for value in branch._op.results]
        if found != expected:
            raise VerifyError(
                "the branches of an if yield other types", where=branch.builder.name, expected=expected, got=found
            )
