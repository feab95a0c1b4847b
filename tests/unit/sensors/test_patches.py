"""Functions of others are put back as they were, unless somebody else stands there by now."""

from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from flopmeter.sensors.patches import Patches


def twice(original):
    return lambda *args: 2 * original(*args)


class Library:
    def add(self, one):
        return one + 1


class Child(Library):
    pass


def test_methods_and_functions_are_put_back():
    """Else a library stays changed after the meter has gone."""
    before, patches = Library.__dict__["add"], Patches()
    module = SimpleNamespace(add=before)
    patches.put(Library, "add", twice)
    patches.put(module, "add", twice)
    assert Library().add(2) == module.add(None, 2) == 6
    patches.take_back()
    patches.take_back()
    assert Library.__dict__["add"] is before
    assert module.add is before


def test_an_inherited_method_is_left_to_its_class():
    """Else a subclass keeps a copy of its parent's method for ever."""
    patches = Patches()
    patches.put(Child, "add", twice)
    assert Child().add(2) == 6
    patches.take_back()
    assert "add" not in vars(Child)
    assert Child().add(2) == 3


def test_what_is_not_there_or_is_ours_is_left_alone():
    patches = Patches()
    patches.put(Library, "nothing", twice)
    patches.put(Library, "add", twice)
    patches.put(Library, "add", twice)
    assert Library().add(2) == 6, "once, not twice"
    patches.take_back()
    assert Library().add(2) == 3


def test_what_somebody_else_put_over_ours_stays():
    """Else another profiler loses its hook because we go."""
    patches, before = Patches(), Library.__dict__["add"]
    patches.put(Library, "add", twice)
    theirs = Library.add = twice(Library.add)
    patches.take_back()
    assert Library.__dict__["add"] is theirs
    Library.add = before


def test_a_stand_in_bears_the_name_of_what_it_stands_for():
    patches = Patches()
    patches.put(Library, "add", twice)
    assert Library.add.__name__ == "add"
    patches.take_back()
