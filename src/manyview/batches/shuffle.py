"""Orders without lists: which item the n-th draw of a run shows, in a few microseconds whatever the number of items."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Generic, TypeVar

T = TypeVar("T")

ROUNDS = 8
_WORD = (1 << 64) - 1


class Shuffled:
    """The numbers 0 to count-1 in a random order, one for every key; `order[i]` is computed, nothing is stored.

    A Feistel network permutes the next power of two, and numbers past the end walk on until they are back inside.
    """

    def __init__(self, count: int, *key: int) -> None:
        if count < 1:
            raise ValueError(f"{count} items cannot be put in order")
        self.count = count
        bits = max(2, (count - 1).bit_length())
        self._low, self._high = bits // 2, bits - bits // 2
        digest = hashlib.blake2b(repr(key).encode(), digest_size=8 * ROUNDS).digest()
        self._keys = [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(ROUNDS)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self.count:
            raise IndexError(f"place {place} of {self.count}")
        low, high = self._low, self._high
        while True:
            left, right = place >> low, place & ((1 << low) - 1)  # `high` and `low` bits
            for turn, key in enumerate(self._keys):
                if turn % 2:
                    right ^= _mixed(left, key) & ((1 << low) - 1)
                else:
                    left ^= _mixed(right, key) & ((1 << high) - 1)
            place = left << low | right
            if place < self.count:
                return place


def _mixed(number: int, key: int) -> int:
    number = ((number ^ key) * 0x9E3779B97F4A7C15) & _WORD
    number ^= number >> 29
    number = (number * 0xD6E8FEB86659FD93) & _WORD
    return number >> 32


class Passes:
    """Shuffled passes over `count` items: draw n is an item, and the number of the pass that shows it."""

    def __init__(self, count: int, *key: int) -> None:
        self.count, self.key = count, key
        self._pass: tuple[int, Shuffled] | None = None

    def __getitem__(self, draw: int) -> tuple[int, int]:
        number, place = divmod(draw, self.count)
        if self._pass is None or self._pass[0] != number:
            self._pass = number, Shuffled(self.count, *self.key, number)
        return self._pass[1][place], number


class Mixture:
    """Which of several sources draw n is of, and how many draws of that source came before it.

    Of every PERIOD draws each source has its share, rounded but at least one, in an order of its own.
    """

    PERIOD = 1000

    def __init__(self, weights: Sequence[float], *key: int) -> None:
        total = sum(weights)
        if not total > 0 or min(weights) < 0:
            raise ValueError(f"weights {list(weights)} are no mixture")
        shares = [weight / total * self.PERIOD for weight in weights]
        self.counts = [max(1, int(share)) if share else 0 for share in shares]
        remainders = sorted(range(len(shares)), key=lambda i: int(shares[i]) - shares[i])
        for i in remainders[: max(0, self.PERIOD - sum(self.counts))]:
            self.counts[i] += 1
        self._ends = list(accumulate(self.counts))
        self._passes = Passes(sum(self.counts), *key)

    def __getitem__(self, draw: int) -> tuple[int, int]:
        place, period = self._passes[draw]
        source = bisect_right(self._ends, place)
        return source, (period + 1) * self.counts[source] + place - self._ends[source]


class Draws(Generic[T]):
    """Shuffled passes over all items of one unit, or a mixture of such passes over several, by their weights."""

    def __init__(self, units: Sequence[tuple[float, Sequence[T]]], *key: int, together: int = 1) -> None:
        """together: so many draws in turn are of one unit."""
        self._together = together
        self.weights, self._items = [weight for weight, _ in units], [items for _, items in units]
        self._mixture = Mixture(self.weights, *key, -1) if len(units) > 1 else None
        self._passes = [Passes(len(items), *key, unit) for unit, items in enumerate(self._items)]

    def __len__(self) -> int:
        return sum(map(len, self._items))

    def __getitem__(self, draw: int) -> tuple[T, int]:
        """The draw-th item since the beginning, and the number of the pass that shows it."""
        unit = 0
        if self._mixture is not None:
            group, place = divmod(draw, self._together)
            unit, group = self._mixture[group]
            draw = group * self._together + place
        place, number = self._passes[unit][draw]
        return self._items[unit][place], number
