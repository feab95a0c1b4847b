"""Where a rank stands, as a value."""

import pytest

from flopmeter.coordinates import Axis, Coordinates, role_of
from flopmeter.errors import MalformedError

TP = Axis(name="tp", size=4, index=3, role="model")
DP = Axis(name="dp", size=2, index=0, role="data")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("tp", "model"),
        ("TENSOR_MODEL_PARALLEL_GROUP", "model"),
        ("EXPERT_TENSOR_PARALLEL_GROUP", "model"),
        ("PIPELINE_MODEL_PARALLEL_GROUP", "pipeline"),
        ("pp", "pipeline"),
        ("dp_shard", "data"),
        ("DATA_PARALLEL_GROUP", "data"),
        ("dp_shard_mod_ep", "data"),
        ("dp_shard_cp", "sequence"),
        ("cp", "sequence"),
        ("ep", "expert"),
        ("dim_0", "model"),
        ("somebody's own word", "model"),
    ],
)
def test_a_name_tells_what_ranks_share_or_claims_least(name, role):
    """If this failed, work of an axis that nobody knows would be taken for each rank's own."""
    assert role_of(name) == role


def test_sizes_multiply_and_what_is_not_there_is_one():
    """If this failed, repeated work would be divided by the wrong number of ranks."""
    place = Coordinates((TP, DP))
    assert [place.size(names) for names in (("tp",), ("tp", "dp"), ("pp",), ())] == [4, 8, 1, 1]
    assert place.names("model") == {"tp"}
    assert place.place("data", "model") == (("dp", 2, 0), ("tp", 4, 3))


def test_coordinates_travel():
    """If this failed, a ledger would not say where its rank stood."""
    place = Coordinates((TP, DP))
    assert Coordinates.from_wire(place.to_wire()) == place


@pytest.mark.parametrize(
    "axis",
    [
        {"name": "tp", "size": "2", "index": "2", "role": "model"},
        {"name": "tp", "size": "2", "index": "0", "role": "boss"},
        {"name": "tp", "size": "2", "index": "0"},
    ],
)
def test_a_place_outside_of_the_grid_is_refused(axis):
    """If this failed, a mistaken ledger would be added up."""
    with pytest.raises(MalformedError):
        Coordinates.from_wire({"axes": [axis]})


def test_two_axes_of_one_name_are_refused():
    """If this failed, a rank could stand at two places of one axis, and its work be divided twice."""
    with pytest.raises(MalformedError, match="one name"):
        Coordinates.from_wire({"axes": [TP.to_wire(), TP.to_wire()]})
