"""Less memory for every process: imports of libraries without parts that none of our code uses, and malloc's arenas.

redis-py imports the metrics of OpenTelemetry only for the annotation of one argument, and finds them again if they are
used: 3 MB. pymongo imports cryptography to find out later that PyOpenSSL is missing: 9 MB. redis-py imports its half
for ``asyncio``, and Django the parser of SQL scripts: 2 MB. Whatever imports or uses them gets them all the same.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

#: The hidden module of a package, and the package without which it is of no use; empty: it is always hidden.
HIDDEN: Final[Mapping[str, tuple[str, str]]] = {
    "redis": ("opentelemetry.sdk.metrics", ""),
    "pymongo": ("pymongo.pyopenssl_context", "OpenSSL"),
}
#: Modules that are executed at the first use of one of their names.
DEFERRED: Final = frozenset({"redis.asyncio", "sqlparse"})
#: Threads that share an arena of malloc rarely wait for each other: they hold the interpreter.
MAX_ARENAS: Final = 2
_M_ARENA_MAX: Final = -8

_pending: dict[str, Loader] = {}
_lock = threading.RLock()


def import_leaner() -> None:
    """From now on import these packages without these parts. Those that are imported already stay as they are."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def settle() -> None:
    """Bound the number of malloc's arenas, and return what the start has freed. Call it before threads start.

    Without a bound, each of the first threads gets an arena of its own, on a machine with many cores several hundred.
    Only glibc has arenas; elsewhere nothing is bound. ``MALLOC_ARENA_MAX`` in the environment takes precedence.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and "MALLOC_ARENA_MAX" not in os.environ:
        libc.mallopt(_M_ARENA_MAX, MAX_ARENAS)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in HIDDEN and fullname not in DEFERRED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        if fullname in DEFERRED:
            spec.loader = _DeferringLoader(spec.loader)
            return spec
        hidden, needs = HIDDEN[fullname]
        if not (needs and importlib.util.find_spec(needs)):
            spec.loader = _HidingLoader(spec.loader, hidden)
        return spec


class _OtherLoader(Loader):
    """Loads a module by its own loader, in another way."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Files of the package (`importlib.resources`, `inspect`) are found by its own loader.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader


class _HidingLoader(_OtherLoader):
    """Executes the module while another one cannot be imported."""

    def __init__(self, loader: Loader, hidden: str) -> None:
        super().__init__(loader)
        self._hidden = hidden

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        with _hidden(self._hidden):
            self._loader.exec_module(module)


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Let imports of this module fail, unless it is there already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # `import` raises ModuleNotFoundError
    try:
        yield
    finally:
        del sys.modules[name]


class _DeferringLoader(_OtherLoader):
    """Executes the module when it is used. Modules inside it can be imported without that.

    ``importlib.util.LazyLoader`` executes a package at the import of any module inside it.
    """

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _pending[module.__name__] = self._loader


class _Deferred(ModuleType):
    def __getattr__(self, name: str) -> Any:
        """Execute the module, since it has no such name yet. Other threads wait for the end."""
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _lock:
            if loader := _pending.pop(self.__name__, None):
                try:
                    loader.exec_module(self)
                except BaseException:
                    _pending[self.__name__] = loader
                    raise
                self.__class__ = ModuleType  # type: ignore[assignment]
        return ModuleType.__getattribute__(self, name)
