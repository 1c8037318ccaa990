"""Max, average and adaptive pooling over one to three spatial axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.functional.calling import batched, emit, ints, traceable


def _pool_arguments(kernel_size: Any, stride: Any, padding: Any, spatial: int) -> dict[str, Any]:
    kernel = ints(kernel_size, spatial, "kernel_size")
    stride = kernel if stride is None or stride == [] or stride == () else ints(stride, spatial, "stride")
    return {"kernel": kernel, "stride": stride, "padding": tuple((p, p) for p in ints(padding, spatial, "padding"))}


def _max_pool(spatial: int) -> Callable[..., Any]:
    def pool(
        x: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        attrs = _pool_arguments(kernel_size, stride, padding, spatial)
        attrs |= {"dilation": ints(dilation, spatial, "dilation"), "ceil_mode": bool(ceil_mode)}

        def run(op: str) -> Any:
            return batched(x, spatial, f"max_pool{spatial}d", lambda x: emit(op, x, **attrs))

        return (run("max_pool"), run("max_pool_indices")) if return_indices else run("max_pool")

    pool.__name__ = pool.__qualname__ = f"max_pool{spatial}d"
    pool.__doc__ = f"torch.nn.functional.max_pool{spatial}d."
    return traceable(pool)


def _avg_pool(spatial: int) -> Callable[..., Any]:
    def pool(
        x: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        attrs = _pool_arguments(kernel_size, stride, padding, spatial)
        attrs |= {
            "ceil_mode": bool(ceil_mode),
            "count_include_pad": bool(count_include_pad),
            "divisor_override": divisor_override,
        }
        return batched(x, spatial, f"avg_pool{spatial}d", lambda x: emit("avg_pool", x, **attrs))

    pool.__name__ = pool.__qualname__ = f"avg_pool{spatial}d"
    pool.__doc__ = f"torch.nn.functional.avg_pool{spatial}d."
    return traceable(pool)


def _adaptive_pool(op: str, spatial: int) -> Callable[..., Any]:
    name = f"{op.removesuffix('_pool')}_pool{spatial}d"

    def pool(x: Any, output_size: Any) -> Any:
        def apply(x: Any) -> Any:
            sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * spatial
            sizes = tuple(ops.static_size(x, 2 + i, name) if size is None else size for i, size in enumerate(sizes))
            return emit(op, x, output_size=ints(sizes, spatial, "output_size"))

        return batched(x, spatial, name, apply)

    pool.__name__ = pool.__qualname__ = name
    pool.__doc__ = f"torch.nn.functional.{name}."
    return traceable(pool)


max_pool1d, max_pool2d, max_pool3d = (_max_pool(n) for n in (1, 2, 3))
avg_pool1d, avg_pool2d, avg_pool3d = (_avg_pool(n) for n in (1, 2, 3))
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = (
    _adaptive_pool("adaptive_avg_pool", n) for n in (1, 2, 3)
)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = (
    _adaptive_pool("adaptive_max_pool", n) for n in (1, 2, 3)
)
