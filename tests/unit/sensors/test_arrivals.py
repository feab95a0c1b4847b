"""A library is told of as soon as it is loaded, by whoever loads it, and it is loaded as without us."""

import importlib
import sys

import pytest

from flopmeter.sensors.arrivals import Arrivals

NAMES = ("flopmeter_test_kernels", "flopmeter_test_package", "flopmeter_test_package.inner")


@pytest.fixture
def libraries(tmp_path, monkeypatch):
    (tmp_path / f"{NAMES[0]}.py").write_text("LOADER = __spec__.loader\nvalue = 1\n")
    (tmp_path / NAMES[1]).mkdir()
    (tmp_path / NAMES[1] / "__init__.py").write_text("")
    (tmp_path / NAMES[1] / "inner.py").write_text("value = 2\n")
    (tmp_path / "flopmeter_test_broken.py").write_text("raise ValueError('own')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    for name in (*NAMES, "flopmeter_test_broken"):
        sys.modules.pop(name, None)


@pytest.fixture
def arrivals(libraries):
    told, failures = [], []
    watch = Arrivals(
        (*NAMES, "flopmeter_test_broken"), lambda name, module: told.append((name, module)), failures.append
    )
    before = list(sys.meta_path)
    yield watch, told, failures
    watch.stop()
    assert sys.meta_path == before, "nothing of ours stays on the path"


def test_what_is_there_is_told_of_at_the_start(arrivals):
    watch, told, _ = arrivals
    module = importlib.import_module(NAMES[0])
    watch.start()
    assert told == [(NAMES[0], module)]


def test_what_is_loaded_later_is_told_of_once_it_is_whole(arrivals):
    """Else the kernels of a library that the first step loads are missing from the figure of that step."""
    watch, told, failures = arrivals
    watch.start()
    assert told == []
    module = importlib.import_module(NAMES[0])
    inner = importlib.import_module(NAMES[2])
    assert told == [(NAMES[0], module), (NAMES[1], sys.modules[NAMES[1]]), (NAMES[2], inner)]
    assert (module.value, inner.value) == (1, 2)
    assert failures == []


def test_the_loader_of_a_module_is_its_own(arrivals):
    """Else `inspect.getsource` and whoever else asks a module's loader meets ours."""
    watch, _, _ = arrivals
    watch.start()
    module = importlib.import_module(NAMES[0])
    assert type(module.__spec__.loader) is type(module.__loader__) is type(module.LOADER)
    assert type(module.__loader__).__module__.startswith(("importlib", "_frozen_importlib"))
    assert importlib.reload(module).value == 1


def test_a_library_that_fails_to_load_fails_as_it_does(arrivals):
    watch, told, failures = arrivals
    watch.start()
    with pytest.raises(ValueError, match="own"):
        importlib.import_module("flopmeter_test_broken")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("flopmeter_test_nowhere")
    assert (told, failures) == ([], [])


def test_a_failure_of_ours_is_told_and_the_library_is_there(libraries):
    failures = []

    def fail(name, module):
        raise ValueError("ours")

    watch = Arrivals(NAMES, fail, failures.append)
    watch.start()
    try:
        assert importlib.import_module(NAMES[0]).value == 1
    finally:
        watch.stop()
    assert [str(error) for error in failures] == ["ours"]


def test_none_is_loaded_for_it(arrivals):
    watch, _, _ = arrivals
    watch.start()
    assert importlib.util.find_spec(NAMES[0]) is not None
    assert not set(NAMES) & set(sys.modules)
