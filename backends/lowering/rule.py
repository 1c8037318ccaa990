"""The registry of lowering rules: which rule turns a node into steps, and why none does.

A rule is a function of `NodeLowering`, declared with the ops that it lowers and a refusal (`unless`): a function that
says why the rule does not apply to a node, or gives None:

    @lowers("global_avg_pool", unless=why_not_u8)
    def global_average(s: NodeLowering) -> None:
        pool = GlobalAvgPool(s.node)
        x, y = s.view(pool.x), s.result()
        s.call(average(lanes=16), Average(x=x, y=y, pixels=...))

Rules are tried in the order of their declaration. A node that no rule fits runs as a Python step, by the numpy
reference of its op, and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from qcompiler.arguments import described
from qcompiler.backends.target import Target
from qcompiler.errors import LoweringError, VerifyError
from qcompiler.ir import Node
from qcompiler.opdef import is_of_package, opdef

if TYPE_CHECKING:
    from qcompiler.backends.lowering.node import NodeLowering

RuleFunction: TypeAlias = "Callable[[NodeLowering], None]"
Refusal: TypeAlias = Callable[[Node, Target], "str | None"]


@dataclass(frozen=True)
class LoweringRule:
    """One way to lower some ops.

    Attributes:
        name: the function's name.
        function: appends the calls of a node.
        unless: gives the reason why the rule does not fit a node, or None.
        strided: whether the rule can write the node's result at any strides without touching the bytes between its
            elements, so that the result may lie within a larger buffer.
    """

    name: str
    function: RuleFunction
    unless: Refusal
    strided: Callable[[Node], bool]

    @property
    def is_own(self) -> bool:
        """Whether it is declared outside of qcompiler."""
        return not is_of_package(self.function.__module__)


_RULES: dict[str, list[LoweringRule]] = {}


def lowers(
    *ops: str, unless: Refusal = lambda node, target: None, strided: Callable[[Node], bool] = lambda node: False
) -> Callable[[RuleFunction], RuleFunction]:
    """Declare a rule for ops; see `LoweringRule`.

    Args:
        ops: names of ops that are declared.
        unless: unless(node, target) gives the reason why the rule does not fit, or None.
        strided: see `LoweringRule`.

    Raises:
        VerifyError: an op that is not declared.
    """

    if not ops or not all(isinstance(op, str) for op in ops):
        raise VerifyError("@lowers takes the names of ops", expected='@lowers("gated_add")', got=described(ops))

    def declare(function: RuleFunction) -> RuleFunction:
        for op in ops:
            opdef(op)
            _RULES.setdefault(op, []).append(LoweringRule(function.__name__, function, unless, strided))
        return function

    return declare


def find_rule(node: Node, target: Target) -> LoweringRule | str:
    """The first rule that fits a node, or why none does."""
    from qcompiler.backends import rules

    rules.load()
    reasons = []
    for rule in _RULES.get(node.op, ()):
        reason = rule.unless(node, target)
        if reason is None:
            return rule
        if not isinstance(reason, str):
            raise LoweringError(
                f"`unless` of the rule {rule.name} of {node.op} gives no reason",
                expected="a text, or None",
                got=described(reason),
            )
        reasons.append(f"{rule.name}: {reason}")
    return "; ".join(reasons) or f"no kernel for {node.op}"


def forget_rules(op: str) -> None:
    """Drop the rules of an op."""
    _RULES.pop(op, None)


def lowered_ops() -> frozenset[str]:
    """The names of all ops that have a rule."""
    from qcompiler.backends import rules

    rules.load()
    return frozenset(_RULES)
