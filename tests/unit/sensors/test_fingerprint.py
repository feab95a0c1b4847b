"""What is told of arguments before a forward runs."""

import enum
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from flopmeter.sensors.fingerprint import HiddenShapeError, guard_of, is_as_before, lay_out, take_fingerprint
from flopmeter.sensors.kinship import split_sizes

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


OTHERS = {
    "a shape": lambda: torch.ones(3, 2),
    "a type": lambda: torch.ones(2, 3, dtype=torch.float64),
    "a gradient": lambda: torch.ones(2, 3, requires_grad=True),
    "a layout": lambda: torch.ones(2, 3).to_sparse(),
    "no tensor": lambda: 3,
    "nothing": lambda: None,
    "a subclass": lambda: nn.Parameter(torch.ones(2, 3)),
    "on no device": lambda: torch.ones(2, 3, device="meta"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_guards_let_nothing_pass_that_a_fingerprint_tells_apart(other):
    """If this failed, arguments of another kind would be booked as those before them."""
    one = torch.ones(2, 3)
    guard, before = guard_of((one,)), (take_fingerprint((one,)), ())
    assert guard is not None
    assert guard(torch.zeros(2, 3))
    assert is_as_before(before, (torch.zeros(2, 3),), {})
    assert not guard(OTHERS[other]())
    assert not is_as_before(before, (OTHERS[other](),), {})


def test_guards_notice_transforms_inference_mode_and_autocast():
    """If this failed, what runs under one of them would be booked as what runs without."""
    one = torch.ones(2, 3)
    guard, seen = guard_of((one,)), []
    torch.func.vmap(lambda x: seen.append(guard(x)) or x)(torch.ones(5, 2, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen.append(guard(one))
    with torch.inference_mode():
        seen.append(guard(one))
    assert seen == [False] * 3
    assert guard(one)


@pytest.mark.parametrize("args", [(), (torch.ones(2), 3), (nn.Parameter(torch.ones(2)),)])
def test_other_arguments_than_plain_tensors_have_no_guards(args):
    assert guard_of(args) is None


def test_arguments_are_laid_out_as_they_lie_in_one_another():
    """If this failed, a cache of which one tensor went to the next layer would be booked as the one before."""
    one, two = torch.ones(2), torch.ones(3)
    found = []
    before = lay_out((one, [(two, None), (one,)], "mask", 5), found, has_free_sizes=True)
    assert [*map(id, found[:3])] == [*map(id, (one, two, one))]
    assert found[3] == 5
    for other in (
        (one, [(two,), (None, one)], "mask", 5),
        (one, [(two, None), (one,)], "causal", 5),
        (one, [(two, None), (one,)], "mask", True),
        (one, [(two, None), (one,), one], "mask", 5),
        ([one, (two, None), (one,)], "mask", 5),
    ):
        assert lay_out(other, [], has_free_sizes=True) != before
    assert lay_out((two, [(one, None), (two,)], "mask", 6), [], has_free_sizes=True) == before
    fixed = lay_out((1,), [], has_free_sizes=False)
    assert fixed != lay_out((2,), [], has_free_sizes=False)
    assert fixed != lay_out((True,), [], has_free_sizes=False)
    assert fixed != lay_out((1.0,), [], has_free_sizes=False)


def test_what_is_laid_out_is_found_in_the_order_of_its_sizes():
    """If this failed, sizes that a guard let pass would be told of other arguments than theirs."""
    args = (torch.ones(2, 3), [7, (torch.ones(4), None)], "mask", 5)
    found = []
    lay_out(args, found, has_free_sizes=True)
    _, sizes = split_sizes(take_fingerprint(args))
    assert sizes == tuple(size for one in found for size in (one.shape if isinstance(one, torch.Tensor) else (one,)))


def test_what_has_no_layout_says_so():
    endless = []
    endless.append(endless)
    for odd in ({"a": torch.ones(2)}, nn.Parameter(torch.ones(2)), Pair(1, 2), endless):
        with pytest.raises(HiddenShapeError):
            lay_out((odd,), [], has_free_sizes=True)


def test_as_many_arguments_as_before_and_of_the_same_names_are_asked_for():
    one = torch.ones(2, 3)
    before = (take_fingerprint((one,)), take_fingerprint({"mask": one}))
    assert is_as_before(before, (one,), {"mask": one})
    assert not is_as_before(before, (one, one), {"mask": one})
    assert not is_as_before(before, (one,), {"other": one})
    assert not is_as_before(before, (one,), {})
