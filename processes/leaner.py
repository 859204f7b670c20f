"""Imports of drivers without optional parts of other packages, for which every process would pay in memory.

redis-py imports the metrics of OpenTelemetry only for the annotation of one argument, and finds them again if they are
used: 3 MB. pymongo imports cryptography to find out later that PyOpenSSL is missing: 9 MB.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Final

#: The hidden module of a package, and the package without which it is of no use; empty: it is always hidden.
HIDDEN: Final[Mapping[str, tuple[str, str]]] = {
    "redis": ("opentelemetry.sdk.metrics", ""),
    "pymongo": ("pymongo.pyopenssl_context", "OpenSSL"),
}


def import_leaner() -> None:
    """Hide these modules while their package is imported. Packages that are imported already stay as they are."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in HIDDEN:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        hidden, needs = HIDDEN[fullname]
        if spec is not None and spec.loader is not None and not (needs and importlib.util.find_spec(needs)):
            spec.loader = _Loader(spec.loader, hidden)
        return spec


class _Loader(Loader):
    """Executes a module by its own loader while another one cannot be imported."""

    def __init__(self, loader: Loader, hidden: str) -> None:
        self._loader, self._hidden = loader, hidden

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Files of the package (`importlib.resources`, `inspect`) are found by its own loader.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
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
