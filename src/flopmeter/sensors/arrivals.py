"""Which libraries with kernels of their own are loaded, and when others are: none is loaded for it.

A library that is loaded in the middle of a training launches kernels at once, so its loading is heard of as it ends.
Not here: what is done with a library (`bypasses.py`).
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from flopmeter.sensors.guard import guarded


class Arrivals(importlib.abc.MetaPathFinder):
    """Tells of these modules: of those that are there at the start, and of others right after they are loaded."""

    def __init__(
        self,
        names: Iterable[str],
        on_arrival: Callable[[str, ModuleType], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        """Prepare."""
        self._names = frozenset(names)
        self._on_arrival = on_arrival
        self.on_failure = on_failure
        self._looked_for: set[str] = set()
        self._found: dict[str, ModuleSpec | None] = {}

    def start(self) -> None:
        """Tell of what is there, and ask to be asked where modules are."""
        sys.meta_path.insert(0, self)
        for name in sorted(self._names & set(sys.modules)):
            self.arrived(name)

    def stop(self) -> None:
        """Ask no more; twice is fine."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, fullname: str, _path: Sequence[str] | None = None, _target: Any = None) -> ModuleSpec | None:
        """Leave it to the others to find a module; put ourselves behind the loader of one that is awaited."""
        if fullname not in self._names or fullname in self._looked_for:
            return None
        self._look_for(fullname)
        return self._found.pop(fullname, None)

    @guarded
    def _look_for(self, name: str) -> None:
        self._looked_for.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looked_for.discard(name)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader, self)
            self._found[name] = spec

    @guarded
    def arrived(self, name: str) -> None:
        """Tell of a module that has been loaded."""
        module = sys.modules.get(name)
        if module is not None:
            self._on_arrival(name, module)


class _Loader(importlib.abc.Loader):
    """Loads as the module's own loader does, which it then leaves alone, and tells when that is done."""

    def __init__(self, inner: Any, arrivals: Arrivals) -> None:
        self._inner = inner
        self._arrivals = arrivals

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        spec.loader = self._inner
        module: ModuleType | None = self._inner.create_module(spec)
        spec.loader = self
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:
            spec.loader = self._inner
        module.__loader__ = self._inner
        self._inner.exec_module(module)
        self._arrivals.arrived(module.__name__)
