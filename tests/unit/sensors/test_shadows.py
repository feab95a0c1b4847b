"""What is kept of a call: shapes and scalars that decide a cost, and nothing that a tensor holds."""

import pytest
import torch

from flopmeter.formulas.call import AnyNumber
from flopmeter.sensors import shadows
from flopmeter.sensors.shadows import Looks, flatten, rows_of, shadow, shadow_nested, spell, spell_results


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (torch.rand(2, 3), (torch.Size([2, 3]), torch.float32)),
        (torch.eye(3).to_sparse(), (torch.Size([3, 3]), torch.float32, 3, None)),
        (0.001, AnyNumber()),
        (0.5, 0.5),
        (float("inf"), "inf"),
        ([1, None, "x", True], (1, None, "x", True)),
        (torch.float32, None),
    ],
)
def test_what_decides_a_cost_is_kept_and_nothing_else(value, kept):
    """Else a learning rate that changes makes a new row each step, or a tensor lives as long as the meter."""
    assert shadow(value) == kept
    assert isinstance(hash(shadow(value)), int)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_the_list_of_its_tensors():
    nested = torch.nested.nested_tensor([torch.rand(2, 4), torch.rand(3, 4)])
    assert shadow_nested(nested) == (((2, 4), torch.float32), ((3, 4), torch.float32))


def test_tensors_in_lists_are_found_in_order():
    one, two = torch.rand(1), torch.rand(2)
    assert [tensor.shape for tensor in flatten([one, (two, None)])] == [one.shape, two.shape]


def test_rows_are_the_same_in_whatever_order_the_calls_ran():
    """Else one program has two tables, and two ranks disagree."""
    kept = ((torch.Size([2, 3]), torch.float32), (torch.Size([3, 5]), torch.float32))
    keys = [
        (torch.ops.aten.mm.default, phase, kept, (), ((torch.Size([2, 5]), torch.float32),), "cpu", inside)
        for phase in ("forward", "backward")
        for inside in ((), ("mylib::mix",))
    ]
    rows = rows_of(dict.fromkeys(keys, 2))
    assert rows == rows_of(dict.fromkeys(reversed(keys), 2))
    assert {(row.phase, row.inside) for row in rows} == {(key[1], key[6]) for key in keys}
    assert {row.calls for row in rows} == {2}


X = torch.rand(2, 3)


@pytest.mark.parametrize(
    "value",
    [
        X,
        torch.nn.Parameter(X),
        [X, [X, None, 2]],
        (X, X.int()),
        *(0.001, 0.5, float("inf"), 3, True, "mean", None, torch.float32, torch.strided),
        [1, 2],
    ],
    ids=str,
)
def test_a_quick_look_spells_what_a_long_one_keeps(value):
    """If this failed, one call would be two rows, by the way that it took."""
    looks = Looks()
    seen = looks[type(value)](value)
    assert spell(seen) == shadow(value)
    assert hash(seen) == hash(looks[type(value)](value))


def test_what_came_out_is_its_tensors_and_nothing_else():
    """If this failed, a loss that is read as a number would be another row at each step."""
    looks = Looks().at_results
    kept = (X.shape, X.dtype)
    for out, expected in [(X, (kept,)), ((X, [X, None], 7), (kept, kept)), (0.123, ()), (None, ())]:
        assert spell_results(looks[type(out)](out)) == (expected, "cpu" if expected else "")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_what_is_not_plain_is_not_looked_at_quickly():
    """If this failed, entries that a sparse tensor keeps would be lost, and marks of complex numbers not heeded."""
    nested = torch.nested.nested_tensor([X, X])
    others = [X.to_sparse(), X.to_sparse_csr(), X.to("meta"), torch.complex(X, X), nested]
    for value in [*others, [X, others[0]]]:
        look = Looks()[list if isinstance(value, list) else torch.Tensor]
        with pytest.raises((RuntimeError, shadows._NotPlainError)):
            look(value)


def test_a_class_of_tensors_is_plain_unless_it_sees_its_calls():
    """If this failed, fake tensors would be work, or the parameters of a library looked at slowly for ever."""

    class Weight(torch.nn.Parameter):
        pass

    class Own(torch.Tensor):
        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    assert spell(Looks()[Weight](Weight(X))) == (X.shape, X.dtype)
    with pytest.raises(shadows._NotPlainError):
        Looks()[Own]


def test_the_room_for_kinds_of_tensor_is_bounded(monkeypatch):
    """If this failed, a run of ever-changing lengths would fill the memory."""
    monkeypatch.setattr(shadows, "MAX_SEEN", 4)
    looks = Looks()
    seen = [looks[torch.Tensor](torch.ones(size)) for size in range(20)]
    assert [spell(one) for one in seen] == [(torch.Size([size]), torch.float32) for size in range(20)]
    assert len(looks.at_results[torch.Tensor].__closure__[0].cell_contents) <= 4
