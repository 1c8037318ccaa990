"""What calibration keeps of its items: a few whole ones, on which conversion compares the outputs of graphs.

Which items are kept depends on the data alone, not on the order of items or who ran them: each has a key, a hash of
some of its elements, and those with the least keys stay. Of two items with one key, that of the lesser bytes stays. So
merging gives the same items in any order.

Does not own what the items are used for (`output_errors.py`).
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from qcompiler.ir import Value
from qcompiler.quantization.cost_profile import elements
from qcompiler.quantization.product_inputs import sample_seeds

MAX_ITEMS = 8
"""At most so many items are kept."""

MAX_TOTAL_BYTES = 1 << 24
"""Bytes of all kept items, unless that is less than ENOUGH_ITEMS items. Larger items than this are never kept."""

ENOUGH_ITEMS = 2

MAX_ITEMS_TO_ROUND, MAX_BYTES_TO_ROUND = 512, 1 << 26
"""The same where weights are rounded on calibration items (`QConfig.rounding`)."""

Item = Sequence[np.ndarray]
"""The inputs of one call, in the order of the graph's inputs."""


class KeptItems:
    """At most `limit` calibration items, in the order of their keys.

    Attributes:
        keys: the key of each item, ascending.
        items: the items.
    """

    def __init__(self, limit: int, most_bytes: int | None = None) -> None:
        self.limit, self.most_bytes = limit, MAX_TOTAL_BYTES if most_bytes is None else most_bytes
        self.keys: list[int] = []
        self.items: list[Item] = []

    @staticmethod
    def of_inputs(inputs: Iterable[Value], to_round: bool = False) -> KeptItems:
        """Nothing yet, for items of a graph with these inputs. to_round: weights will be rounded on them."""
        most, most_bytes = (MAX_ITEMS_TO_ROUND, MAX_BYTES_TO_ROUND) if to_round else (MAX_ITEMS, MAX_TOTAL_BYTES)
        size = sum(elements(value) * value.type.dtype.numpy.itemsize for value in inputs)
        return KeptItems(max(ENOUGH_ITEMS, min(most, most_bytes // max(1, size))), most_bytes)

    def to_judge(self) -> list[Item]:
        """The items on which outputs are judged: those that are kept where no weights are rounded."""
        size = max((sum(array.nbytes for array in item) for item in self.items), default=0)
        return self.items[: max(ENOUGH_ITEMS, min(MAX_ITEMS, MAX_TOTAL_BYTES // max(1, size)))]

    def take(self, item: Item) -> None:
        """Take in the inputs of one call; a copy of them if they stay."""
        if sum(array.nbytes for array in item) > self.most_bytes:
            return
        key = int(np.bitwise_xor.reduce(sample_seeds(item)) >> np.uint64(1))
        if len(self.keys) < self.limit or key <= self.keys[-1]:
            self._add(key, [np.array(array, order="C") for array in item])

    def merge(self, other: KeptItems) -> None:
        """Take over what another run kept."""
        self.limit = min(self.limit, other.limit)
        for key, item in zip(other.keys, other.items):
            self._add(key, item)
        del self.keys[self.limit :], self.items[self.limit :]

    def _add(self, key: int, item: Item) -> None:
        place = bisect.bisect_left(self.keys, key)
        if place < len(self.keys) and self.keys[place] == key:
            self.items[place] = min(self.items[place], item, key=_bytes)
            return
        self.keys.insert(place, key)
        self.items.insert(place, item)
        del self.keys[self.limit :], self.items[self.limit :]

    def state(self) -> dict[str, np.ndarray]:
        """The arrays by name: `keys`, and `0.1` for input 1 of item 0."""
        found = {"limit": np.asarray(self.limit), "keys": np.asarray(self.keys, np.int64)}
        for number, item in enumerate(self.items):
            found |= {f"{number}.{index}": array for index, array in enumerate(item)}
        return found

    @staticmethod
    def restored(state: Mapping[str, np.ndarray]) -> KeptItems:
        """What `state()` was taken of.

        Raises:
            KeyError, ValueError: arrays that no state has.
        """
        limit, keys = np.asarray(state["limit"]), np.asarray(state["keys"])
        if limit.shape != () or not 1 <= limit <= MAX_ITEMS_TO_ROUND or keys.dtype != np.int64 or keys.ndim != 1:
            raise ValueError("fields of other types or shapes")
        found = KeptItems(int(limit))
        inputs = (len(state) - 2) // max(1, len(keys))
        found.keys = [int(key) for key in keys]
        found.items = [[state[f"{number}.{index}"] for index in range(inputs)] for number in range(len(keys))]
        if len(state) != 2 + inputs * len(keys) or len(keys) > found.limit or (keys[1:] <= keys[:-1]).any():
            raise ValueError("keys out of order, or the sizes of the fields do not fit each other")
        if any(array.dtype.kind == "f" and not np.isfinite(array).all() for item in found.items for array in item):
            raise ValueError("elements that are not finite")
        return found


def _bytes(item: Item) -> tuple[bytes, ...]:
    return tuple(array.tobytes() for array in item)
