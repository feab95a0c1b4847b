"""Situations and witnesses: what tells passages apart without running an operator."""

import enum
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flopmeter.sensors import situation as situations
from flopmeter.sensors.situation import OTHER, WatchedModel, optimizer_situation


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Cargo:
    x: object


@pytest.fixture
def watched():
    return WatchedModel(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)))


def seen(watched, *args, **kwargs):
    return watched.situation(args, kwargs)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (torch.ones(2, 2), torch.ones(3, 2)),
        (torch.ones(2, 2), torch.ones(2, 2).double()),
        (torch.ones(2, 2), torch.ones(2, 2, requires_grad=True)),
        (True, False),
        (3, 4),
        ("a", "b"),
        (None, 0.5),
        (0.0, 0.5),
        ([torch.ones(2)], [torch.ones(2), torch.ones(2)]),
        ({"a": torch.ones(2)}, {"b": torch.ones(2)}),
        (Cargo(torch.ones(2)), Cargo(torch.ones(3))),
        (Cargo([torch.ones(2)]), Cargo([torch.ones(3)])),
        (Colour.RED, Colour.BLUE),
        (nn.ReLU(), nn.GELU()),
        (len, sum),
        (torch.ones(2).numpy(), torch.ones(3).numpy()),
    ],
)
def test_arguments_that_change_the_work_are_told_apart(watched, one, two):
    assert seen(watched, one) == seen(watched, one)
    assert seen(watched, one) != seen(watched, two)
    assert seen(watched, given=one) != seen(watched, given=two)
    hash(seen(watched, one))


def test_values_inside_tensors_and_rates_are_not_part_of_it(watched):
    assert seen(watched, torch.zeros(2), 0.3) == seen(watched, torch.ones(2), 0.4)


@pytest.mark.parametrize(
    "hidden",
    [
        torch.ones(2, 2).to_sparse(),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        [[[[[[[torch.ones(2)]]]]]]],
        Cargo(Cargo(Cargo(torch.ones(2)))),
    ],
)
def test_what_hides_its_size_is_never_replayed(watched, hidden):
    assert seen(watched, hidden) == OTHER


def test_an_object_of_very_many_fields_is_told_by_its_type(watched):
    tokenizer = Cargo(1)
    vars(tokenizer).update({f"word{index}": index for index in range(1000)})
    assert "Cargo" in str(seen(watched, tokenizer))


def test_settings_of_the_model_and_of_torch_are_part_of_it(watched):
    plain = seen(watched)
    found = {plain}
    watched.module[1].eval()
    found.add(seen(watched))
    watched.module.train()
    watched.module[0].bias.requires_grad_(False)
    found.add(seen(watched))
    watched.module[0].bias.requires_grad_(True)
    with torch.no_grad():
        found.add(seen(watched))
    with torch.inference_mode():
        found.add(seen(watched))
    with torch.autocast("cpu", torch.bfloat16):
        found.add(seen(watched))
    with sdpa_kernel(SDPBackend.MATH):
        found.add(seen(watched))
    assert len(found) == 7
    assert seen(watched) == plain


def test_gradients_that_are_there_already_are_part_of_it(watched):
    """The first micro-batch makes gradients, the others add to them: one addition per parameter more."""
    empty = seen(watched)
    watched.module(torch.ones(1, 2)).sum().backward()
    assert seen(watched) != empty


def test_marks_show_whether_gradients_reached_the_first_and_the_last_parameter():
    watched = WatchedModel(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    before = watched.gradient_marks()
    hidden = watched.module[0](torch.ones(1, 2)).detach()
    watched.module[1](hidden).sum().backward()
    after = watched.gradient_marks()
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_nothing_of_it_runs_an_operator(watched):
    class Refuse(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, _types, _args=(), _kwargs=None):
            raise AssertionError(func)

    optimizer = torch.optim.AdamW(watched.module.parameters())
    x = torch.ones(2, 2)
    with Refuse():
        seen(watched, x, Cargo([x]))
        watched.gradient_marks()
        optimizer_situation(optimizer)
        situations.count_nodes()


def test_an_optimizer_is_told_by_flags_gradients_and_state_and_not_by_its_rate():
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    first = optimizer_situation(optimizer)
    optimizer.step()
    warm = optimizer_situation(optimizer)
    assert first != warm, "momentum was made in the first step"
    optimizer.param_groups[0]["lr"] = 0.05
    assert optimizer_situation(optimizer) == warm
    optimizer.param_groups[0]["weight_decay"] = 0.1
    assert optimizer_situation(optimizer) != warm
    optimizer.param_groups[0]["weight_decay"] = 0
    layer.bias.grad = None
    assert optimizer_situation(optimizer) != warm


def test_nodes_are_counted_by_torch_on_this_build():
    """Without this witness a layer dropped at random would be replayed as if it had run."""
    x = torch.ones(2, requires_grad=True)
    before = situations.count_nodes()
    x.sin().cos()
    assert situations.count_nodes() - before == 2


def test_a_model_looks_again_only_when_told_or_when_a_part_is_missing():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    watched = WatchedModel(model)
    assert not watched.refresh()
    before = watched.situation((), {})
    del model[1]
    assert watched.refresh()
    assert watched.situation((), {}) != before
    watched.is_stale = True
    assert not watched.refresh(), "a module made elsewhere is no change of this one"
