"""What is learned from real counted passages foretells real counted passages, operator by operator."""

import random
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors.interpolation import Family
from flopmeter.sensors.passage import TorchSensor
from flopmeter.sensors.situation import count_nodes
from flopmeter.tally import Tally

WIDTH = 8


class Sink:
    """Stands where the meter stands; keeps what each passage was counted as."""

    def __init__(self):
        self.tally = Tally()

    def passages_ran(self, booking):
        assert booking.basis == "counted"
        self.tally += booking.table.tally

    def passage_lost(self, *, reason, ns):
        raise AssertionError(reason)

    def sensor_failed(self, error, *, ns=None):
        raise error

    def optimizer_steps(self, optimizer_id):
        pass


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x, padding):
        batch, length, _ = x.shape
        q, k, v = (part.view(batch, length, 2, -1).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        mask = None if padding is None else padding[:, None, None, :]
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=padding is None)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, -1))
        return x + self.mlp(x)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(64, WIDTH)
        self.positions = nn.Embedding(512, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, 64)

    def forward(self, tokens, padding=None):
        x = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x, padding)
        return self.head(x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Loop(nn.Module):
    """A cell called once for each place of the sequence: the autograd nodes grow with its length."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(WIDTH, WIDTH)

    def forward(self, x):
        state = x.new_zeros(x.shape[0], WIDTH)
        for place in x.unbind(1):
            state = self.cell(place, state)
        return state


def tokens(batch, length):
    return (torch.randint(64, (batch, length)),)


def padded_tokens(batch, length):
    return (torch.randint(64, (batch, length)), torch.arange(length) < torch.randint(1, length + 1, (batch, 1)))


def vectors(batch, length):
    return (torch.randn(batch, length, WIDTH),)


class Case(NamedTuple):
    model: type
    inputs: object
    longest: int
    most: int
    least_foretold: float


CASES = {
    "causal": Case(Transformer, tokens, 512, 8, 0.3),
    "causal, one batch size": Case(Transformer, tokens, 512, 1, 0.5),
    "padding mask": Case(Transformer, padded_tokens, 512, 8, 0.3),
    "lstm": Case(Recurrent, vectors, 512, 8, 0.3),
    "a loop over the length": Case(Loop, vectors, 48, 4, 0.3),
}


@pytest.fixture
def sensor_and_sink():
    sink = Sink()
    sensor = TorchSensor(sink, book=FormulaBook.standard(), exact=True)
    sensor.start()
    yield sensor, sink
    sensor.stop()


@pytest.mark.parametrize("name", CASES)
def test_what_is_foretold_is_what_is_counted(sensor_and_sink, name):
    """Else a run with dynamic padding gets a figure that nobody counted, and that is not what ran."""
    sensor, sink = sensor_and_sink
    case, chance = CASES[name], random.Random(name)
    torch.manual_seed(0)
    model = case.model()
    sensor.watch(model)
    family, foretold, passages = Family(), 0, 40
    for number in range(passages + 1):
        inputs = case.inputs(chance.randint(1, case.most), chance.randint(16, case.longest))
        sensor.boundary()
        sink.tally, nodes = Tally(), count_nodes()
        model(*inputs).square().mean().backward()
        nodes = count_nodes() - nodes
        sensor.boundary()
        if not number:
            model.zero_grad(set_to_none=False)  # gradients are there from now on: another situation
            continue
        sizes = tuple(size for tensor in inputs for size in tensor.shape)
        said = family.predict(sizes)
        if said is not None:
            assert said.tally == sink.tally
            assert said.witness == (nodes,)
            assert said.flop == sink.tally.flop
            foretold += 1
        assert family.learn(sizes, sink.tally, (nodes,))
    assert foretold >= case.least_foretold * passages
