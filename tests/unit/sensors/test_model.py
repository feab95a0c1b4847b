"""The size of a model, as 6ND wants it."""

from torch import nn

from flopmeter.sensors.model import measure_model


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


def test_modules_that_share_a_part_count_it_once():
    part = nn.Linear(2, 2)
    size = measure_model([nn.Sequential(part), nn.Sequential(part, nn.Linear(2, 1))])
    assert size.parameters == 6 + 3


def test_no_module_is_an_empty_model():
    assert measure_model([]).parameters == 0
