"""Loops over some thousand numbers, compiled by numba: kernels of the shelves, by day and by night.

    @kernel(f4_array(1), i8(i8_array(1)))
    def _name(...): ...

A kernel is compiled for the one signature that it names: `compile_all` does so when a generation is
warmed, a first call does it else. Afterwards it refuses other types, so that no request compiles.
Machine code is kept where numba keeps it: `NUMBA_CACHE_DIR`, else beside the source, else in the
user's cache folder; where nothing of that can be written each process compiles anew (a quarter of a
minute).

numba keeps a kernel as long as its own file is unchanged, whatever it calls. So a kernel calls
`helper`s of its own file only. And it checks no index: whoever calls it has checked what comes from
a file or a request.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numba
from numba import types

R = TypeVar("R")

log = logging.getLogger(__name__)

REORDERED = frozenset({"reassoc", "contract", "nsz"})
"""Sums may be added up in another order, so that a dot product is of eight numbers at once. Not
finite stays not finite."""


def array_of(number: Any, dimensions: int = 1) -> types.Array:
    """Of a signature: in C's order, read-only or not, at whatever address."""
    return types.Array(number, dimensions, "C", readonly=True, aligned=False)


INTS, INTS32 = array_of(types.int64), array_of(types.int32)
FLOATS, FLOATS_2D = array_of(types.float32), array_of(types.float32, 2)
MASK = array_of(types.boolean)
INT, FLOAT, BOOL = types.int64, types.float64, types.boolean

_kernels: list[Kernel[Any]] = []


class Kernel(Generic[R]):
    """One compiled function. Thread-safe; runs without the interpreter's lock."""

    def __init__(
        self, function: Callable[..., R], arguments: tuple[Any, ...], reordered: bool
    ) -> None:
        self.name = f"{function.__module__}.{function.__qualname__}"
        self._function = function
        self._arguments = arguments
        self._fastmath = set(REORDERED) if reordered else False
        self._lock = threading.Lock()
        self._compiled: Callable[..., R] | None = None

    def __call__(self, *args: Any) -> R:
        compiled = self._compiled
        if compiled is None:
            compiled = self.compile()
        return compiled(*args)

    def compile(self) -> Callable[..., R]:
        """From the cache, or anew: half a second to three."""
        with self._lock:
            if self._compiled is None:
                try:
                    self._compiled = self._made(cache=True)
                except RuntimeError as error:  # numba found no folder that it can write to
                    log.warning("%s is compiled for this process only: %s", self.name, error)
                    self._compiled = self._made(cache=False)
            return self._compiled

    def _made(self, *, cache: bool) -> Callable[..., R]:
        compiled: Callable[..., R] = numba.njit(
            [self._arguments],
            cache=cache,
            nogil=True,
            error_model="numpy",
            fastmath=self._fastmath,
        )(self._function)
        return compiled


def kernel(*arguments: Any, reordered: bool = False) -> Callable[[Callable[..., R]], Kernel[R]]:
    """Of arguments of these types, in their order. `reordered`: see REORDERED."""

    def made(function: Callable[..., R]) -> Kernel[R]:
        found = Kernel(function, arguments, reordered)
        _kernels.append(found)
        return found

    return made


def helper(function: Callable[..., R]) -> Callable[..., R]:
    """What kernels of the same file call. Inlined: an array is seven words, and a call that hands
    over seven arrays took 80 ns."""
    made = numba.njit(error_model="numpy", nogil=True, forceinline=True)
    compiled: Callable[..., R] = made(function)
    return compiled


def compile_all() -> None:
    """All kernels of the modules that are imported."""
    for found in _kernels:
        found.compile()
