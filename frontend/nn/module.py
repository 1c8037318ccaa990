"""Module: the base of layers, with torch's names for parameters, buffers, children and state dicts.

Modules start in eval mode, since there is no training yet. `train()` exists for code written for torch; tracing a
module that would behave differently in training mode is then an error. Outside of a trace, a call runs the interpreter
on arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np

from qcompiler.arguments import described
from qcompiler.errors import ArgumentError, TraceError, nearest
from qcompiler.frontend.argument_kinds import check_arguments
from qcompiler.frontend.recorder import Traced, current_trace
from qcompiler.frontend.source import user_place

CONTAINERS = ("Module", "Sequential", "ModuleList", "ModuleDict")


_LAYERS = "qcompiler.frontend.nn."


def _checked(init: Callable[..., None]) -> Callable[..., None]:
    """A layer's `__init__` that checks its arguments by their annotations."""

    @functools.wraps(init)
    def checked(*args: Any, **kwargs: Any) -> None:
        check_arguments(init, args, kwargs)
        init(*args, **kwargs)

    return checked


class Parameter(np.ndarray):
    """A float32 array that a Module registers as a parameter when it is assigned."""

    def __new__(cls, data: Any) -> Parameter:
        try:
            array = np.asarray(data)
            if array.dtype.kind not in "fiub":
                raise TypeError
            return np.array(array, np.float32).view(cls)
        except (TypeError, ValueError):  # text, ragged lists and other objects
            raise ArgumentError("a parameter", expected="an array of numbers", got=described(data)) from None


class Module:
    """A layer or a model: assign Parameters and Modules in `__init__`, compute in `forward`."""

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, np.ndarray | None]
    _modules: dict[str, Module | None]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith(_LAYERS) and "__init__" in vars(cls):
            setattr(cls, "__init__", _checked(cls.__init__))  # noqa: B010

    def __init__(self) -> None:
        object.__setattr__(self, "_parameters", {})
        object.__setattr__(self, "_buffers", {})
        object.__setattr__(self, "_modules", {})
        object.__setattr__(self, "training", False)

    # -- registration

    def __setattr__(self, name: str, value: Any) -> None:
        if "_modules" not in self.__dict__:
            raise TraceError(
                f"{type(self).__name__}: attributes before super().__init__()",
                where=user_place(),
                hint="call super().__init__() first",
            )
        registries = (self._parameters, self._buffers, self._modules)
        for registry in registries:
            if name in registry and not isinstance(value, (Parameter, Module)):
                if registry is self._buffers and value is not None:
                    value = np.asarray(value)
                registry[name] = value
                return
        for registry in registries:
            registry.pop(name, None)
        if isinstance(value, Parameter):
            self.__dict__.pop(name, None)
            self._parameters[name] = value
        elif isinstance(value, Module):
            self.__dict__.pop(name, None)
            self._modules[name] = value
        else:
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        for registry in ("_parameters", "_buffers", "_modules"):
            found = self.__dict__.get(registry, {})
            if name in found:
                return found[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        for registry in (self._parameters, self._buffers, self._modules):
            if name in registry:
                del registry[name]
                return
        object.__delattr__(self, name)

    def register_parameter(self, name: str, value: Parameter | None) -> None:
        self._parameters[name] = value

    def register_buffer(self, name: str, value: Any, persistent: bool = True) -> None:
        """A non-parameter array. Non-persistent ones stay out of the state dict."""
        self._buffers[name] = None if value is None else np.asarray(value)
        if not persistent:
            self.__dict__.setdefault("_transient", set()).add(name)

    def add_module(self, name: str, module: Module | None) -> None:
        self._modules[name] = module

    # -- reading

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from ((name, module) for name, module in self._modules.items() if module is not None)

    def children(self) -> Iterator[Module]:
        yield from (module for _, module in self.named_children())

    def named_modules(self, prefix: str = "", *, memo: set[int] | None = None) -> Iterator[tuple[str, Module]]:
        """Pairs (path, module): itself first, and each module once."""
        memo = set() if memo is None else memo
        if id(self) not in memo:
            memo.add(id(self))
            yield prefix, self
            for name, child in self.named_children():
                yield from child.named_modules(f"{prefix}.{name}" if prefix else name, memo=memo)

    def modules(self) -> Iterator[Module]:
        yield from (module for _, module in self.named_modules())

    def get_submodule(self, path: str) -> Module:
        found = dict(self.named_modules())
        if path not in found:
            raise TraceError(f"no module {path!r}", hint=nearest(path, found))
        return found[path]

    def named_parameters(self) -> Iterator[tuple[str, np.ndarray]]:
        """Pairs (path, parameter), each array once."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, value in module._parameters.items():
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def parameters(self) -> Iterator[np.ndarray]:
        yield from (value for _, value in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, np.ndarray]]:
        for path, module in self.named_modules():
            for name, value in module._buffers.items():
                if value is not None:
                    yield (f"{path}.{name}" if path else name), value

    def named_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Parameters, buffers, and arrays that are plain attributes: everything that becomes a named constant."""
        yield from self.named_parameters()
        yield from self.named_buffers()
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, np.ndarray):
                    yield (f"{path}.{name}" if path else name), value

    # -- state

    def _slots(self) -> Iterator[tuple[str, Module, dict[str, Any], str]]:
        """(state-dict name, module, registry, name in it) of everything that is saved.

        A shared module appears under each of its names.
        """

        def visit(module: Module, prefix: str) -> Iterator[tuple[str, Module, dict[str, Any], str]]:
            transient = module.__dict__.get("_transient", set())
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    yield prefix + name, module, module._parameters, name
            for name, buffer in module._buffers.items():
                if buffer is not None and name not in transient:
                    yield prefix + name, module, module._buffers, name
            for name, child in module.named_children():
                yield from visit(child, f"{prefix}{name}.")

        yield from visit(self, "")

    def state_dict(self) -> dict[str, np.ndarray]:
        """The arrays themselves, not copies, by the names that torch gives them."""
        return {path: np.asarray(registry[name]) for path, _, registry, name in self._slots()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy arrays (numpy or torch) into the parameters and buffers of the same names.

        Raises:
            TraceError: names are missing or unexpected (with `strict`), or shapes differ. The message lists all of
                them, and nothing has been copied.
        """
        slots = {path: (registry, name) for path, _, registry, name in self._slots()}
        arrays = {path: _array(value) for path, value in state.items()}
        problems: list[str] = []
        if strict:
            optional = {path for path in slots if path.endswith("num_batches_tracked")}
            problems += [f"missing: {path}" for path in slots if path not in arrays and path not in optional]
            problems += [f"unexpected: {path}" for path in arrays if path not in slots]
        for path, array in arrays.items():
            if path in slots:
                registry, name = slots[path]
                if registry[name].shape != array.shape:
                    problems.append(f"{path}: expected shape {list(registry[name].shape)}, got {list(array.shape)}")
        if problems:
            shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
            unexpected = [path for path in arrays if path not in slots]
            hint = nearest(unexpected[0], slots) if unexpected and slots else None
            raise TraceError(
                f"the state dict does not fit {type(self).__name__}", got=shown, hint=hint[:400] if hint else None
            )
        for path, array in arrays.items():
            if path in slots:
                registry, name = slots[path]
                if not registry[name].flags.writeable:
                    registry[name] = registry[name].copy()
                registry[name][...] = array

    # -- modes and calls

    def train(self, mode: bool = True) -> Module:
        for module in self.modules():
            object.__setattr__(module, "training", bool(mode))
        return self

    def eval(self) -> Module:
        return self.train(False)

    def apply(self, function: Any) -> Module:
        """Call `function` on every child, then on this module."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise TraceError(f"{type(self).__name__} has no forward()", where=user_place())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        trace = current_trace()
        if trace is None:
            from qcompiler.frontend.tracer import run_eagerly

            return run_eagerly(self, args, kwargs)
        path = trace.module_path(self)
        with trace.scope(path, self.kind()):
            result = self.forward(*args, **kwargs)
        if self._is_layer() and isinstance(result, Traced):
            trace.adopt_name(result, path)
        return result

    @classmethod
    def kind(cls) -> str:
        """The class as origins name it: module and qualified name."""
        return f"{cls.__module__}.{cls.__qualname__}"

    def _is_layer(self) -> bool:
        """Whether this is a layer of the package and no container: its result is named after the module's path."""
        return type(self).__module__ == Module.__module__ and type(self).__name__ not in CONTAINERS

    # -- text

    def extra_repr(self) -> str:
        return ""

    def __repr__(self) -> str:
        lines = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.named_children()]
        inner = self.extra_repr()
        if not lines:
            return f"{type(self).__name__}({inner})"
        return "\n".join([f"{type(self).__name__}({inner}", *lines, ")"])

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._parameters, *self._buffers, *self._modules})


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        value = value.detach().cpu().float().numpy() if value.is_floating_point() else value.detach().cpu().numpy()
    return np.asarray(value)


class _Listed(Module):
    """Modules in order, named by their position."""

    def append(self, module: Module) -> Self:
        _require_module(module, type(self).__name__)
        self.add_module(str(len(self._modules)), module)
        return self

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __getitem__(self, index: int | slice) -> Any:
        modules = list(self.children())
        return self._part(modules[index]) if isinstance(index, slice) else modules[index]

    def _part(self, modules: list[Module]) -> Module:
        """The same with some of the modules."""
        raise NotImplementedError


class Sequential(_Listed):
    """Runs modules one after the other. They are given by position, or as one dict of names."""

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            named: Mapping[str, Any] = modules[0]
        else:
            named = {str(i): module for i, module in enumerate(modules)}
        for name, module in named.items():
            _require_module(module, "Sequential")
            self.add_module(name, module)

    def forward(self, x: Any) -> Any:
        for module in self.children():
            x = module(x)
        return x

    def _part(self, modules: list[Module]) -> Sequential:
        return Sequential(*modules)


class ModuleList(_Listed):
    """A list of modules that registers them."""

    def __init__(self, modules: Any = ()) -> None:
        super().__init__()
        for module in modules:
            self.append(module)

    def extend(self, modules: Any) -> ModuleList:
        for module in modules:
            self.append(module)
        return self

    def _part(self, modules: list[Module]) -> ModuleList:
        return ModuleList(modules)


class ModuleDict(Module):
    """A dict of modules that registers them."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        for name, module in (modules or {}).items():
            _require_module(module, "ModuleDict")
            self.add_module(name, module)

    def __setitem__(self, name: str, module: Module) -> None:
        _require_module(module, "ModuleDict")
        self.add_module(name, module)

    def __getitem__(self, name: str) -> Module:
        return dict(self.named_children())[name]

    def __contains__(self, name: str) -> bool:
        return name in self._modules

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def keys(self) -> Any:
        return self._modules.keys()

    def values(self) -> Any:
        return self._modules.values()

    def items(self) -> Any:
        return self._modules.items()


def _require_module(module: Any, where: str) -> None:
    if not isinstance(module, Module):
        raise TraceError(f"{where} holds modules", expected="a qcompiler.nn module", got=type(module).__name__)
