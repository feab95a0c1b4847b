"""What is told of arguments before a forward runs."""

import enum
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from flopmeter.sensors.fingerprint import HiddenShapeError, take_fingerprint

Pair = namedtuple("Pair", "one two")  # noqa: PYI024


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Number(int):
    pass


@dataclass
class Cargo:
    x: object


class Slim:
    __slots__ = ("x",)

    def __init__(self, x) -> None:
        self.x = x


class Slot:
    __slots__ = "x"  # noqa: PLC0205

    def __init__(self, x) -> None:
        self.x = x


def nested(depth: int):
    value = torch.ones(2)
    for _ in range(depth):
        value = (value,)
    return value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.ones(2, 2), torch.ones(3, 2)),
        (torch.ones(2, 2), torch.ones(2, 2).double()),
        (torch.ones(2, 2), torch.ones(2, 2, requires_grad=True)),
        (torch.ones(2), torch.ones(2, device="meta")),
        (True, False),
        (3, 4),
        (Number(3), Number(4)),
        ("a", "b"),
        (None, 0.5),
        (0.0, 0.5),
        (0.5, 1.0),
        ((torch.ones(2),), (torch.ones(3),)),
        ([torch.ones(2)], [torch.ones(2), torch.ones(2)]),
        ({"a": torch.ones(2)}, {"b": torch.ones(2)}),
        (OrderedDict(a=torch.ones(2)), OrderedDict(a=torch.ones(3))),
        ({}, {"a": 1}),
        (Pair(torch.ones(2), 1), Pair(torch.ones(2), 2)),
        (Cargo(torch.ones(2)), Cargo(torch.ones(3))),
        (Slim(torch.ones(2)), Slim(torch.ones(3))),
        (Slot(torch.ones(2)), Slot(torch.ones(3))),
        (SimpleNamespace(x=1), SimpleNamespace(x=2)),
        (Colour.RED, Colour.BLUE),
        (nn.ReLU(), nn.GELU()),
        (len, sum),
        (int, str),
        (torch.ones(2).numpy(), torch.ones(3).numpy()),
        (pack_sequence([torch.ones(3), torch.ones(2)]), pack_sequence([torch.ones(3), torch.ones(1)])),
        (pack_sequence([torch.ones(2)]), pack_sequence([torch.ones(2).double()])),
    ],
)
def test_arguments_that_change_the_work_are_told_apart(one, other):
    """Else one is replayed as the other."""
    assert take_fingerprint((one,)) == take_fingerprint((one,))
    assert take_fingerprint((one,)) != take_fingerprint((other,))
    hash(take_fingerprint((one,)))


def test_values_inside_tensors_and_rates_are_not_part_of_it():
    assert take_fingerprint((torch.zeros(2), 0.3)) == take_fingerprint((torch.ones(2), 0.4))
    assert take_fingerprint(torch.zeros(2).numpy()) == take_fingerprint(torch.ones(2).numpy())


def test_parameters_are_tensors():
    assert take_fingerprint(nn.Parameter(torch.ones(2))) == take_fingerprint(torch.ones(2, requires_grad=True))


@pytest.mark.parametrize(
    "hidden",
    [
        torch.ones(2, 2).to_sparse(),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        nested(7),
        [[[[[[[torch.ones(2)]]]]]]],
        Cargo(Cargo(Cargo(torch.ones(2)))),
    ],
)
def test_what_hides_its_size_is_refused(hidden):
    """Else it is told by nothing, and anything is replayed as it."""
    with pytest.raises(HiddenShapeError):
        take_fingerprint(hidden)


def test_what_holds_itself_is_refused_and_not_followed_for_ever():
    cargo = Cargo(None)
    cargo.x = cargo
    with pytest.raises(HiddenShapeError):
        take_fingerprint(cargo)


def test_a_few_levels_are_looked_into():
    assert take_fingerprint(nested(6)) != take_fingerprint(nested(5))


def test_an_object_of_very_many_fields_is_told_by_its_type():
    """A tokenizer is no carrier of tensors, and reading it takes longer than the forward."""
    many = SimpleNamespace(**{f"word{index}": index for index in range(1000)})
    assert take_fingerprint(many) == "SimpleNamespace"


def test_a_slot_that_was_never_filled_is_no_error():
    assert take_fingerprint(Slim.__new__(Slim)) == take_fingerprint(Slim(None))


def test_no_operator_runs():
    """It would be counted as the user's, or change what is compiled."""

    class Refuse(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, _types, _args=(), _kwargs=None):
            raise AssertionError(func)

    x = torch.ones(2, 2)
    with Refuse():
        take_fingerprint((x, [x], {"a": x}, Cargo(x), 1, 0.5, None))
