"""Loops over some thousand numbers, compiled by numba: kernels of the shelves, by day and by night.

    @kernel(f4_array(1), i8(i8_array(1)))
    def _name(...): ...

A kernel is compiled for the one signature that it names: `compile_all` does so when a generation is
warmed, a first call does it else. Afterwards it refuses other types, so that no request compiles.
Machine code is kept in a folder of its own for each state of the shelves' sources and of numba: in
`NUMBA_CACHE_DIR`, else beside the source, else in the user's cache folder. numba itself keeps a
kernel as long as its own file is unchanged, whatever it calls and whatever constants it has from
elsewhere, and its index may name machine code of before. Where no folder can be written, or what
is kept is damaged, a process compiles for itself (40 s of a slow core, a third of it one kernel).

A kernel checks no index: whoever calls it has checked what comes from a file or a request.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numba
from numba import types

R = TypeVar("R")

log = logging.getLogger(__name__)

SHELVES = Path(__file__).parent


def cache_folder(bases: tuple[Path, ...]) -> Path | None:
    """Of the present sources, in the first of `bases` that can be written; None: in none."""
    digest = hashlib.blake2b(numba.__version__.encode(), digest_size=8)
    for source in sorted(SHELVES.glob("*.py")) + sorted(SHELVES.glob("[!.]*/*.py")):
        digest.update(source.read_bytes())
    for base in bases:
        folder = base / f"moonlark-kernels-{digest.hexdigest()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None


def _bases() -> tuple[Path, ...]:
    told = os.environ.get("NUMBA_CACHE_DIR")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return (Path(told),) if told else (SHELVES / "__pycache__", user)


CACHE = cache_folder(_bases())
_config: Any = numba.config  # it makes its attributes when it is imported
_config.CACHE_DIR = str(CACHE or "")

REORDERED = frozenset({"reassoc", "contract", "nsz"})
"""Sums may be added up in another order, so that a dot product is of eight numbers at once. Not
finite stays not finite."""


def array_of(number: Any, dimensions: int = 1) -> types.Array:
    """Of a signature: in C's order, read-only or not, at whatever address."""
    return types.Array(number, dimensions, "C", readonly=True, aligned=False)


INTS, INTS_2D, INTS32 = array_of(types.int64), array_of(types.int64, 2), array_of(types.int32)
FLOATS, FLOATS_2D = array_of(types.float32), array_of(types.float32, 2)
FLOATS_4D = array_of(types.float32, 4)
MASK, BYTES = array_of(types.boolean), array_of(types.uint8)
WRITTEN, WRITTEN_2D = types.Array(types.float32, 1, "C"), types.Array(types.float32, 2, "C")
WRITTEN_INTS, WRITTEN_BYTES = types.Array(types.int64, 1, "C"), types.Array(types.uint8, 1, "C")
"""What a kernel fills or adds to: as numpy makes it."""
INT, FLOAT, FLOAT32, BOOL = types.int64, types.float64, types.float32, types.boolean

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
        """From the cache, or anew: a second to three, `sources._front` fifteen."""
        with self._lock:
            if self._compiled is None:
                try:
                    self._compiled = self._made(cache=CACHE is not None)
                except Exception:  # a full disk, or what a power cut left of a file
                    log.exception("%s is compiled for this process only", self.name)
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


def called(function: Callable[..., R]) -> Callable[..., R]:
    """What kernels of the same file call for long loops: compiled once, not in each of its places.
    A product and the sum it is added to are one instruction; nothing else is reordered."""
    made = numba.njit(error_model="numpy", nogil=True, fastmath={"contract"})
    compiled: Callable[..., R] = made(function)
    return compiled


def compile_all() -> None:
    """All kernels of the modules that are imported."""
    for found in _kernels:
        found.compile()
