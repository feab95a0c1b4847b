"""The size of a model."""

import pytest

from flopmeter.errors import MalformedError
from flopmeter.model import Model

SIZE = Model(parameters=10**12, trainable=7, embedding=0)


def test_a_size_travels_as_strings_and_comes_back():
    assert SIZE.to_wire() == {"parameters": "1000000000000", "trainable": "7", "embedding": "0"}
    assert Model.from_wire(SIZE.to_wire()) == SIZE


@pytest.mark.parametrize(
    "bad", [None, {}, {"parameters": "1", "trainable": "1"}, {**SIZE.to_wire(), "trainable": "-1"}]
)
def test_what_is_no_size_is_refused(bad):
    """If this failed, 6ND would be computed from nonsense."""
    with pytest.raises(MalformedError):
        Model.from_wire(bad)
