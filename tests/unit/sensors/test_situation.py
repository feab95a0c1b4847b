"""Situations and witnesses: what tells passages apart without running an operator."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flopmeter.sensors import situation as situations
from flopmeter.sensors.situation import WatchedModel, WatchedOptimizer, Witness, ambient


class Depth(nn.Module):
    """A model whose cost hangs on plain attributes of its own and of a part's."""

    def __init__(self):
        super().__init__()
        self.depth = 2
        self.inner = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Linear(2, 2))
        self.inner.rounds = 1

    def forward(self, x):
        for _ in range(self.depth):
            x = self.inner(x)
        return x


@pytest.fixture
def watched():
    found = WatchedModel(Depth())
    yield found
    found.release()


def seen(watched, *args, **kwargs):
    """Look at all of a model, and return what its forward can be told by now."""
    watched.look(0, looks=0, is_whole=True)
    return watched.situation(args, kwargs)


def train(module, x=None):
    module(torch.ones(1, 2) if x is None else x).sum().backward()


def switch_depth(model):
    model.depth = 3


def switch_inner(model):
    model.inner.rounds = 2


def evaluate(model):
    model.eval()


def evaluate_a_part(model):
    model.inner[1].eval()


def freeze(model):
    model.inner[0].bias.requires_grad_(False)


def hook(model):
    model.inner[0].register_forward_hook(lambda *_: None)


def hook_before(model):
    model.inner.register_forward_pre_hook(lambda *_: None)


def add_attribute(model):
    model.new = 1


def delete_attribute(model):
    del model.depth


def remove_layer(model):
    del model.inner[1]


def add_layer(model):
    model.inner.append(nn.Linear(2, 2))


def take_probability(model):
    model.inner[1].p = 0.0


CHANGES = [
    *(switch_depth, switch_inner, evaluate, evaluate_a_part, freeze, hook, hook_before),
    *(add_attribute, delete_attribute, remove_layer, add_layer, take_probability),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changes_the_work_of_a_model_changes_its_situation(watched, change):
    """If this failed, a model would be replayed as what it was before somebody switched it."""
    before = seen(watched)
    assert seen(watched) == before
    change(watched.module)
    watched.is_stale = change is add_layer  # torch tells of parts that are registered
    assert seen(watched) != before
    assert seen(watched) == seen(watched)


@pytest.mark.parametrize("change", [switch_depth, switch_inner, evaluate, freeze, hook, remove_layer])
def test_a_look_at_some_parts_finds_each_change_within_a_round(watched, change):
    """If this failed, a switch deep inside of a model would go unseen for as long as it is only glanced at."""
    for now in range(40):
        assert watched.look(now, looks=2) is None
    change(watched.module)
    found = [watched.look(100 + now, looks=2) for now in range(40)]
    assert len([one for one in found if one is not None]) == 1


def test_what_the_model_itself_says_is_seen_at_once_and_what_its_parts_say_since_some_time(watched):
    """If this failed, passages between a change and its discovery would stand as replayed without a doubt."""
    for now in range(40):
        watched.look(now, looks=1)
    watched.module.depth = 3
    assert watched.look(50, looks=1).doubted_since is None
    watched.module.inner[2].eval()
    found = [change for now in range(60, 100) if (change := watched.look(now, looks=1))]
    assert found[0].doubted_since is not None
    assert found[0].doubted_since <= 60


def test_a_model_that_goes_back_is_what_it_was(watched):
    """If this failed, evaluation between epochs would have everything counted anew each time."""
    before = seen(watched)
    watched.module.eval()
    seen(watched)
    assert watched.module.training is False
    watched.module.train()
    assert watched.is_switched
    assert seen(watched) == before
    assert not watched.is_switched


def test_a_deleted_attribute_is_a_change_and_no_failure(watched):
    """If this failed, `del model.cache` in somebody's program would be a gap in ours."""
    del watched.module.depth
    assert watched.look(0, looks=0, is_whole=True) is not None
    assert watched.look(1, looks=0, is_whole=True) is None


def test_a_counter_among_the_attributes_is_left_out_and_vouches_for_nothing(watched):
    """If this failed, a model that counts its own steps would be new at each of them, and counted for ever."""
    for index in range(40):
        watched.module.inner.rounds = index
        watched.look(index, looks=0, is_whole=True)
    assert not watched.is_trusted
    before = seen(watched)
    watched.module.inner.rounds = 1000
    assert seen(watched) == before


def test_a_part_that_was_registered_elsewhere_is_no_change_of_this_one(watched):
    before = seen(watched)
    watched.is_stale = True
    assert watched.look(0, looks=1) is None
    assert seen(watched) == before


def test_a_lazy_layer_is_found_when_its_parameters_are_there():
    """If this failed, a model with lazy layers would never be heard of when gradients reach it."""
    watched = WatchedModel(nn.Sequential(nn.LazyLinear(2)))
    assert watched.ends == ()
    watched.module(torch.ones(1, 3))
    watched.is_stale = True  # torch tells that parameters were registered
    watched.look(0, looks=1)
    train(watched.module, torch.ones(1, 3))
    assert watched.reached == [1, 1]
    watched.release()


def test_settings_of_torch_are_part_of_it(watched):
    """If this failed, a passage under autocast would be booked in the precision of one without."""
    plain = seen(watched)
    found = {plain}
    with torch.no_grad():
        found.add(seen(watched))
    with torch.inference_mode():
        found.add(seen(watched))
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            found.add(seen(watched))
    with sdpa_kernel(SDPBackend.MATH):
        found.add(seen(watched))
    assert len(found) == 6
    assert seen(watched) == plain
    hash(plain)


def test_arguments_are_part_of_it_and_values_inside_tensors_are_not(watched):
    assert seen(watched, torch.zeros(2), flag=True) == seen(watched, torch.ones(2), flag=True)
    assert seen(watched, torch.zeros(2)) != seen(watched, torch.zeros(3))
    assert seen(watched, flag=True) != seen(watched, flag=False)


def test_what_hides_its_size_is_told_from_nothing(watched):
    """If this failed, sparse batches of all sizes would be replayed as the first of them."""
    situation, given = seen(watched, torch.ones(2, 2).to_sparse())
    assert given is None
    assert situation[1] == watched.owner
    inside = []
    torch.func.vmap(lambda x: inside.append(seen(watched, x)) or x)(torch.ones(2, 2))
    assert inside[0][1] is None


def test_gradients_that_are_there_already_are_part_of_it(watched):
    """The first micro-batch makes gradients, the others add to them: one addition per parameter more."""
    empty = seen(watched)
    train(watched.module)
    assert seen(watched) != empty


def test_it_is_heard_how_often_gradients_reached_the_first_and_the_last_parameter(watched):
    """If this failed, a backward that stops half way would be booked as a whole one."""
    inner = watched.module.inner
    inner[2](inner[0](torch.ones(1, 2)).detach()).sum().backward()
    assert watched.reached == [0, 1]
    train(watched.module)
    assert watched.reached == [1, 2]


def test_gradients_that_are_only_asked_for_are_heard_of(watched):
    """If this failed, `torch.autograd.grad` would run unseen: it leaves nothing in `.grad`."""
    loss = watched.module(torch.ones(1, 2)).sum()
    torch.autograd.grad(loss, list(watched.module.parameters()))
    assert watched.reached == [1, 1]


def test_nothing_hangs_on_the_parameters_after_release():
    watched = WatchedModel(nn.Linear(2, 2))
    watched.release()
    train(watched.module)
    assert watched.reached == [0, 0]
    assert not any(parameter._backward_hooks for parameter in watched.module.parameters())


def test_hooks_follow_the_ends_that_are_trained(watched):
    """If this failed, a model whose first layers are frozen would look as if no backward reached it."""
    watched.module.inner[0].requires_grad_(False)
    seen(watched)
    train(watched.module)
    assert watched.reached == [1, 1]


def test_nothing_of_it_runs_an_operator(watched):
    """If this failed, looking would be work of its own, and waited for on a GPU."""

    class Refuse(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, _types, _args=(), _kwargs=None):
            raise AssertionError(func)

    optimizer = WatchedOptimizer(torch.optim.AdamW(watched.module.parameters()))
    x = torch.ones(2, 2)
    with Refuse():
        seen(watched, x, [x])
        optimizer.look(0, looks=0)
        optimizer.situation([watched])
        situations.count_nodes()
        ambient()


def stepped(watched, models=()):
    watched.look(0, looks=0)
    return watched.situation(models)


def make_optimizer(kind=torch.optim.SGD, **options):
    layer = nn.Linear(2, 2)
    train(layer)
    return layer, WatchedOptimizer(kind(layer.parameters(), lr=0.1, **options))


def test_an_optimizer_is_told_by_settings_gradients_and_state_and_not_by_its_rate():
    """If this failed, a warm-up of the rate would be new at each step, or weight decay switched on would go unseen."""
    layer, watched = make_optimizer(momentum=0.9)
    first = stepped(watched)
    watched.optimizer.step()
    warm = stepped(watched)
    assert first != warm, "momentum was made in the first step"
    group = watched.optimizer.param_groups[0]
    group["lr"] = 0.05
    assert stepped(watched) == warm
    group["weight_decay"] = 0.1
    assert stepped(watched) != warm
    group["weight_decay"] = 0
    assert stepped(watched) == warm
    group["nesterov"] = True
    assert stepped(watched) != warm
    group["nesterov"] = False
    layer.bias.grad = None
    assert stepped(watched) != warm


def test_whole_numbers_among_the_settings_are_part_of_it():
    """If this failed, Muon with five Newton-Schulz steps would be replayed with the products of three."""
    optimizer = make_optimizer()[1].optimizer
    optimizer.param_groups[0]["ns_steps"] = 3
    watched = WatchedOptimizer(optimizer)
    three = stepped(watched)
    watched.optimizer.param_groups[0]["ns_steps"] = 5
    assert stepped(watched) != three


@pytest.mark.parametrize("is_group", [True, False])
def test_parameters_that_are_added_later_are_seen(is_group):
    """If this failed, an unfrozen layer would be updated for free."""
    _, watched = make_optimizer()
    before = stepped(watched)
    new = nn.Parameter(torch.ones(2))
    if is_group:
        watched.optimizer.add_param_group({"params": [new]})
    else:
        watched.optimizer.param_groups[0]["params"].append(new)
    assert stepped(watched) != before


def test_a_setting_that_is_deleted_is_a_change_and_no_failure():
    _, watched = make_optimizer()
    del watched.optimizer.param_groups[0]["nesterov"]
    assert watched.look(0, looks=0) is not None
    assert watched.look(0, looks=0) is None


def test_what_the_models_are_is_part_of_an_optimizer_step(watched):
    """If this failed, a layer frozen since would go on being updated in the account."""
    _, optimizer = make_optimizer()
    before = stepped(optimizer, [watched])
    freeze(watched.module)
    seen(watched)
    assert stepped(optimizer, [watched]) != before


def test_only_optimizers_of_torch_are_known_to_do_the_same_each_time():
    """If this failed, somebody's optimizer that works every tenth step would be replayed as if it rested."""

    class Own(torch.optim.SGD):
        pass

    assert make_optimizer()[1].is_trusted
    assert not make_optimizer(Own)[1].is_trusted


def test_nodes_are_counted_by_torch_on_this_build():
    """Without this witness a layer dropped at random would be replayed as if it had run."""
    assert situations.HAS_NODE_COUNT
    x = torch.ones(2, requires_grad=True)
    before = situations.count_nodes()
    x.sin().cos()
    assert situations.count_nodes() - before == 2


def test_of_a_witness_all_but_the_nodes_must_be_equal_whatever_the_sizes():
    """If this failed, a family would hold passages with a backward and without."""
    one, longer, other = Witness(3, (1, 1), "forward"), Witness(5, (1, 1), "forward"), Witness(3, (0, 0), "forward")
    assert one.sort == longer.sort != other.sort
    assert (one.numbers, longer.numbers) == ((3,), (5,))
