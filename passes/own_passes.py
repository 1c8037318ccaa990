"""`register_pass`: passes of a user in the pipelines that compile runs."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence

from qcompiler.arguments import check_text, described
from qcompiler.errors import ArgumentError, PassError, nearest
from qcompiler.passmanager import Pass
from qcompiler.quantization.qconfig import QConfig

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclasses.dataclass(frozen=True)
class _Place:
    """A pass, and the pass before or after which it runs; None if it is known by its name alone."""

    item: Pass
    anchor: str | None
    is_after: bool


_own: dict[str, _Place] = {}


def register_pass(item: Pass, *, before: str | None = None, after: str | None = None) -> None:
    """Add a pass of your own, to the pipelines and to the text form of passes.

    With `before` or `after` it runs in every pipeline of compile, prepare, convert and fuse that has the pass of this
    name, at the first place where it stands. Passes at one place run in the order of their registration. Lowering takes
    no passes of a user: what a graph computes is decided before, and is what a saved model holds.

    Args:
        item: an instance of a frozen dataclass with a `name` in kebab-case and a method `run(graph)`, whose fields
            are options with defaults. A field `configs` gets the qconfigs of nodes by name, or None where nothing is
            quantized (`qcompiler.passes.agreement.agree` compares two nodes by it).
        before, after: the name of a pass, at most one of them. Without either the pass is known by its name alone,
            as in `PassManager(parse_pipeline("my-pass"))`.

    Raises:
        ArgumentError: an argument of another type. PassError: a class that is no pass, a name that is taken, or no pass
            of a pipeline to stand beside.
    """
    for name, given in (("before", before), ("after", after)):
        if given is not None:
            check_text(name, given, "the name of a pass, or None")
    name = _checked(item)
    if before is not None and after is not None:
        raise PassError(f"{name} cannot stand before and after a pass", got=f"{before} and {after}")
    anchor = before if before is not None else after
    if anchor is not None and anchor not in _anchors():
        raise PassError(f"no pipeline has a pass {anchor!r}", hint=nearest(anchor, _anchors()))
    _own[name] = _Place(item, anchor, after is not None)


def unregister_pass(name: str) -> None:
    """Forget a pass that `register_pass` was given. PassError if there is none of this name."""
    check_text("name", name, "the name of a pass")
    if name not in _own:
        raise PassError(f"no pass {name!r} was registered", hint=nearest(name, _own) if _own else None)
    del _own[name]


def _checked(item: object) -> str:
    """The name of a pass; an error says why it is none."""
    run = getattr(item, "run", None)
    if isinstance(item, type) or not callable(run):
        raise ArgumentError("argument 'item'", expected="an instance of a pass: MyPass()", got=described(item))
    kind, name = type(item), getattr(item, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PassError(
            f"the name of the pass {kind.__name__}", expected='a text in kebab-case: name: ClassVar[str] = "my-pass"',
            got=described(name),
        )  # fmt: skip
    if not dataclasses.is_dataclass(item) or not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise PassError(f"the pass {name} is no frozen dataclass", hint=f"@dataclass(frozen=True) on {kind.__name__}")
    required = [
        each.name
        for each in dataclasses.fields(item)
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    ]
    if required:
        raise PassError(f"an option of the pass {name} has no default", got=", ".join(required))
    try:
        inspect.signature(run).bind(None)
    except (TypeError, ValueError):
        raise PassError(f"run of the pass {name} takes other arguments", expected="run(self, graph)") from None
    from qcompiler.passes.registry import passes_by_name

    if name in passes_by_name():
        hint = f"qc.unregister_pass({name!r})" if name in _own else None
        raise PassError(f"there is a pass {name!r} already", hint=hint)
    return name


def _anchors() -> list[str]:
    """The names of the passes beside which one may stand."""
    from qcompiler.passes import pipelines

    one = {"": (1.0,)}
    lists = [
        pipelines.float_pipeline(equalize=True),
        pipelines.observe_pipeline({}),
        pipelines.convert_pipeline({}, {}, one, outliers=one, corrections=one),
        pipelines.integer_pipeline(),
        pipelines.dynamic_pipeline({}),
    ]
    return list(dict.fromkeys(each.name for passes in lists for each in passes))


def own_passes() -> dict[str, type]:
    """The classes of the passes that were registered, by name."""
    return {name: type(place.item) for name, place in _own.items()}


def with_own(passes: Sequence[Pass], configs: Mapping[str, QConfig | None] | None = None) -> list[Pass]:
    """A pipeline with the passes that were registered for it."""
    made: list[tuple[Pass, tuple[str, bool] | None]] = [(each, None) for each in passes]
    for place in _own.values():
        names = [each.name for each, _ in made]
        if place.anchor is None or place.anchor not in names:
            continue
        key = (place.anchor, place.is_after)
        at = names.index(place.anchor) + place.is_after
        while place.is_after and at < len(made) and made[at][1] == key:
            at += 1
        item = place.item
        if any(each.name == "configs" for each in dataclasses.fields(item)):  # type: ignore[arg-type]
            item = dataclasses.replace(item, configs=configs)  # type: ignore[type-var]
        made.insert(at, (item, key))
    return [each for each, _ in made]
