"""The size of a model, as 6ND wants it."""

from types import SimpleNamespace

import pytest
import torch
import worlds
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from flopmeter.model import Model
from flopmeter.sensors.model import devices_in_reach, measure_model


def test_parameters_trainable_ones_and_tables_by_hand():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3))
    model[1].bias.requires_grad_(False)
    size = measure_model([model])
    assert (size.parameters, size.trainable, size.embedding) == (40 + 12 + 3, 40 + 12, 40)


def test_a_tied_weight_counts_once():
    """Else a GPT with tied embeddings is credited with a third more parameters than it has."""
    model = nn.Module()
    model.table, model.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    model.head.weight = model.table.weight
    size = measure_model([model])
    assert (size.parameters, size.embedding) == (40, 40)


def test_a_table_that_an_output_layer_names_first_is_told_apart():
    """Else total_flos of an XLM-RoBERTa would be said to be a third of what its Trainer prints."""
    model = nn.Module()
    model.head, model.table = nn.Linear(4, 10, bias=False), nn.Embedding(10, 4)
    model.head.weight = model.table.weight
    size = measure_model([model])
    assert (size.parameters, size.embedding, size.headed) == (40, 40, 40)
    assert Model.from_wire(size.to_wire()) == size


def test_modules_that_share_a_part_count_it_once():
    part = nn.Linear(2, 2)
    size = measure_model([nn.Sequential(part), nn.Sequential(part, nn.Linear(2, 1))])
    assert size.parameters == 6 + 3


def test_no_module_is_an_empty_model():
    assert measure_model([]).parameters == 0


def test_lazy_parameters_have_no_size_yet():
    """If this failed, a model of lazy layers could not be metered before its first forward."""
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    assert measure_model([model]).parameters == 3 * 2 + 2
    model(torch.ones(1, 5))
    assert measure_model([model]).parameters == 3 * 2 + 2 + 5 * 3 + 3


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # so since torch 2.14
def test_scripted_modules_have_a_size():
    assert measure_model([torch.jit.script(nn.Linear(3, 2))]).parameters == 3 * 2 + 2


def test_another_accelerator_is_a_device_in_reach(monkeypatch):
    """If this failed, the ceiling of a CPU would stand over work that ran on something much faster."""
    assert devices_in_reach() == {"cpu"}
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert devices_in_reach() == {"cpu", "xpu"}


def test_cuda_is_in_reach_once_it_was_initialised(monkeypatch):
    """If this failed, every run on a machine with a GPU would have no upper end, or every run on one a wrong one."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert devices_in_reach() == {"cpu"}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert devices_in_reach() == {"cpu", "cuda"}


class Tabled(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.layer, self.head = nn.Embedding(10, 4), nn.Linear(4, 3), nn.Linear(4, 10, bias=False)
        self.layer.weight.requires_grad_(False)


@pytest.mark.parametrize("is_original", [False, True])
def test_parameters_that_fsdp_cut_up_have_the_size_of_the_whole(is_original):
    """Else 6ND of a run of a thousand ranks would be a thousandth of what it is."""

    def measure():
        model = Tabled().requires_grad_() if not is_original else Tabled()
        before = measure_model([model])
        sharded = FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=is_original)
        return before, measure_model([sharded])

    before, after = worlds.as_rank(measure)
    assert before == after
    assert (after.parameters, after.embedding) == (40 + 15 + 40, 40)


@pytest.mark.parametrize(("flag", "expected"), [(None, 2 * 6), (True, 2 * 4 + 2), (False, 6)])
def test_parts_that_a_library_cuts_by_hand_are_taken_together(flag, expected):
    """Else 6ND of Megatron's models would be divided by the number of ranks that share a layer."""

    def measure():
        for start in (0, 2):
            distributed.new_group([start, start + 1], group_desc="TENSOR_MODEL_PARALLEL_GROUP")
        model = nn.Linear(2, 2)
        if flag is not None:
            model.weight.tensor_model_parallel = flag
        return measure_model([model]).parameters

    assert worlds.as_rank(measure) == expected


class Typed:
    model_type = "gemma2"

    def __init__(self):
        self.hidden_size = 8


def test_a_type_that_stands_in_the_class_of_a_configuration_is_kept():
    """Else a Gemma, whose layers are gated without its saying so, would have a third of them taken off."""
    assert measure_model([Configured(Typed())]).config == {"model_type": "gemma2", "hidden_size": "8"}


class Configured(nn.Linear):
    def __init__(self, config):
        super().__init__(2, 2)
        self.config = config


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


def test_the_sizes_that_a_models_configuration_names_are_kept():
    """Else figures of tools that go by sizes could never be told from the ledger alone."""
    config = SimpleNamespace(n_layer=2, n_embd=8, dropout=0.1, out_dir="a path")
    kept = {"n_layer": "2", "n_embd": "8"}
    assert measure_model([Configured(config)]).config == kept
    assert measure_model([nn.Linear(1, 1), Configured(vars(config))]).config == kept
    assert measure_model([Wrapper(Configured(config))]).config == kept


@pytest.mark.parametrize("config", [None, "a name", 3, SimpleNamespace(path="x"), nn.Linear(1, 1)])
def test_a_configuration_of_another_sort_says_nothing(config):
    assert measure_model([Configured(config)]).config == {}
