"""The size of a model."""

import pytest

from flopmeter.errors import MalformedError
from flopmeter.model import Model, pick_sizes

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


def test_the_sizes_of_a_configuration_travel_along():
    """Else an auditor would need the model's own files for what other tools make of its sizes."""
    model = Model(parameters=1, trainable=1, embedding=0, config={"n_layer": "2", "swiglu": "true"})
    assert model.to_wire()["config"] == {"n_layer": "2", "swiglu": "true"}
    assert Model.from_wire(model.to_wire()) == model
    with pytest.raises(MalformedError):
        Model.from_wire({**SIZE.to_wire(), "config": {"n_layer": None}})


def test_of_a_configuration_only_sizes_are_taken():
    """Else paths and names of people, which configurations hold too, would stand in a ledger."""
    config = {"n_layer": 2, "_name_or_path": "secret", "n_inner": None, "vocab_size": -1, "hidden_act": "x" * 65}
    assert pick_sizes({**config, "swiglu": True, "hidden_size": 1.5, "num_experts": [1]}) == {
        "n_layer": "2",
        "swiglu": "true",
    }
