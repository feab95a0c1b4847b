"""A forward that begins as another one did is told at a glance, however its arguments lie in one another."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from flopmeter.sensors.fingerprint import take_fingerprint  # noqa: E402
from flopmeter.sensors.kinship import split_sizes  # noqa: E402
from flopmeter.sensors.situation import WatchedModel  # noqa: E402


def cache(length, *, layers=2, dtype=torch.float32):
    return [[torch.ones(1, length, 4, dtype=dtype), torch.ones(1, length, 4, dtype=dtype)] for _ in range(layers)]


def told(args, kwargs):
    return (take_fingerprint(args), take_fingerprint(kwargs))


def glance_at(args, kwargs, *, has_free_sizes):
    """Return a glance that has seen these arguments twice: from then on a guard tells, where there can be one."""
    model = WatchedModel(nn.Linear(4, 4))
    situation, given = model.situation(args, kwargs)
    glance = model.glance(situation, given, has_free_sizes=has_free_sizes)
    assert glance.holds(args, kwargs, True)
    return glance


PAIRS = [
    (((torch.ones(1, 1), cache(3)), {}), ((torch.ones(1, 1), cache(4)), {})),
    (
        ((torch.ones(1, 1),), {"caches": cache(3), "start": 3, "mask": None}),
        ((torch.ones(1, 1),), {"caches": cache(4), "start": 4, "mask": None}),
    ),
    (
        ((torch.ones(1, 1), 3), {"caches": tuple(map(tuple, cache(3))), "is_causal": True}),
        ((torch.ones(1, 1), 4), {"caches": tuple(map(tuple, cache(4))), "is_causal": True}),
    ),
]


@pytest.mark.parametrize(("usual", "grown"), PAIRS)
def test_a_cache_that_grows_is_the_same_but_for_its_sizes(usual, grown, monkeypatch):
    """Else each token of a generation has dozens of tensors looked at one by one, for longer than a layer takes."""
    glance = glance_at(*usual, has_free_sizes=True)
    monkeypatch.setattr("flopmeter.sensors.glance.take_fingerprint", None)  # a guard tells, nothing else is asked
    assert glance.holds(*grown, True)
    assert glance.given == told(*grown)
    assert glance.sizes == split_sizes(told(*grown))[1]


@pytest.mark.parametrize(("usual", "grown"), PAIRS)
def test_where_sizes_are_not_free_a_cache_that_grew_is_another(usual, grown):
    glance = glance_at(*usual, has_free_sizes=False)
    assert glance.holds(*usual, True)
    assert not glance.holds(*grown, True)
    assert glance.holds(*usual, True)


@pytest.mark.parametrize("has_free_sizes", [True, False])
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((torch.ones(1, 1), cache(3, layers=3)), {}),
        ((torch.ones(1, 1), cache(3, dtype=torch.float64)), {}),
        ((torch.ones(1, 1), cache(3), None), {}),
        ((torch.ones(1, 1),), {"caches": cache(3)}),
        ((torch.ones(1, 1), [cache(3)[0], cache(3)[1][:1]]), {}),
        ((torch.ones(1, 1), [cache(3)[0], [torch.ones(3, 4), torch.ones(3, 4)]]), {}),
        ((torch.ones(1, 1), [cache(3)[0], [torch.ones(1, 3, 4).to_sparse()] * 2]), {}),
    ],
)
def test_what_lies_otherwise_or_is_of_another_type_is_another(args, kwargs, has_free_sizes):
    """If this failed, work on another cache would be booked as work on this one."""
    glance = glance_at((torch.ones(1, 1), cache(3)), {}, has_free_sizes=has_free_sizes)
    assert not glance.holds(args, kwargs, True)


def test_arguments_that_cannot_be_guarded_are_looked_at_each_time():
    class Cache:
        def __init__(self, length):
            self.keys = torch.ones(1, length, 4)

    glance = glance_at((torch.ones(1, 1), Cache(3)), {}, has_free_sizes=True)
    for length in (4, 5):
        assert glance.holds((torch.ones(1, 1), Cache(length)), {}, True)
        assert glance.given == told((torch.ones(1, 1), Cache(length)), {})
