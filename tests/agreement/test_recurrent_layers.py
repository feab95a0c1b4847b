"""A fused recurrent layer costs what the same recurrence costs written out in torch's operators.

In double precision a CPU has no fused kernel: torch takes the layer apart, and autograd what comes of it. That is the
other side of each comparison here; one side is the operator as cuDNN gets it, or as oneDNN really got it.
"""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall
from flopmeter.testing.calls import record_calls

BOOK = FormulaBook.standard()
T, B, WIDTH, H = 5, 3, 6, 4
LENGTHS = [5, 3, 2]
MODES = {"RNN_RELU": 0, "RNN_TANH": 1, "LSTM": 2, "GRU": 3}

CELLS = {
    "rnn with relu": (nn.RNN, {"nonlinearity": "relu"}),
    "rnn with tanh": (nn.RNN, {}),
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
}
FORMS = {
    "plain": {},
    "without bias": {"bias": False},
    "three layers": {"num_layers": 3},
    "both ways": {"bidirectional": True},
    "two layers both ways": {"num_layers": 2, "bidirectional": True},
    "with dropout": {"num_layers": 2, "dropout": 0.3},
    "projected": {"proj_size": 2},
    "projected both ways": {"num_layers": 2, "bidirectional": True, "proj_size": 2},
}
NETS = [(cell, form) for cell in CELLS for form in FORMS if cell == "lstm" or "projected" not in form]


def make(cell, form, dtype=torch.float64):
    kind, options = CELLS[cell]
    return kind(WIDTH, H, **options, **FORMS[form]).to(dtype)


def kinds_of(costs):
    """Flop by kind, all products under one name."""
    found = Counter()
    for cost, times in costs:
        assert cost is not None
        for part in cost.parts:
            found["products" if part.kind in ("matmul", "recurrent") else part.kind] += part.flop * times
    return {kind: flop for kind, flop in found.items() if flop}


def record(work):
    """What the book makes of everything that the work asked torch for, and the names of what it asked for."""
    rows = record_calls(work)
    return kinds_of((BOOK.cost(row.call), row.calls) for row in rows), {row.call.op for row in rows}


def as_library(net, data, sizes=None, *, given=None, asked=()):
    """The call that cuDNN would get: forward, or backward where it is said which gradients come in."""
    both, out = 1 + net.bidirectional, net.proj_size or H
    weights = [tuple(weight.shape) for weight in net._flat_weights]
    stride = len(weights) // (net.num_layers * both)
    state = (net.num_layers * both, B, out)
    memory = (net.num_layers * both, B, H) if net.mode == "LSTM" else None
    settings = [MODES[net.mode], H, net.proj_size, net.num_layers, False, net.dropout, net.training, net.bidirectional]
    head, tail = [tuple(data.shape), weights, stride, (9,), state, memory], [*settings, list(sizes or []), None]
    if given is None:
        return kinds_of([(BOOK.cost(OpCall.of("aten::_cudnn_rnn", *head, *tail)), 1)])
    y = (*data.shape[:-1], both * out)
    came = [shape if here else None for shape, here in zip((y, state, memory), given, strict=True)]
    call = OpCall.of("aten::_cudnn_rnn_backward", *head, y, *came, *tail, (9,), list(asked))
    return kinds_of([(BOOK.cost(call), 1)])


def state_of(net, batch, dtype=torch.float64):
    copies = net.num_layers * (1 + net.bidirectional)
    hidden = torch.rand(copies, batch, net.proj_size or H, dtype=dtype, requires_grad=True)
    return (hidden, torch.rand(copies, batch, H, dtype=dtype, requires_grad=True)) if net.mode == "LSTM" else hidden


def gathered(net, *, steps, runs):
    """Count the adds by which autograd puts a weight's gradient together from products of its own for each step.

    A fused layer makes one product over all steps; the sum inside a product is part of it.
    """
    adds = 0
    for name, weight in net.named_parameters():
        if "weight" in name:
            adds += weight.numel() * ((runs if "weight_ih" in name else steps) - 1)
    return adds


def kept_mask(net, steps):
    """Count what dropout's gradient costs less on a CPU, which keeps the mask already scaled."""
    return steps * (1 + net.bidirectional) * (net.proj_size or H) * (net.num_layers - 1) * (net.dropout > 0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("cell", "form"), NETS)
def test_forward(cell, form, packed, training):
    """Else a model costs more or less depending on the device and the precision that it runs in."""
    net = make(cell, form).train(training)
    data = torch.rand(T, B, WIDTH, dtype=torch.float64)
    sizes = None
    if packed:
        data = pack_padded_sequence(data, torch.tensor(LENGTHS))
        sizes = data.batch_sizes.tolist()
    apart, _ = record(lambda: net(data))
    assert as_library(net, data.data, sizes) == apart


@pytest.mark.parametrize("wanted", [True, False], ids=["inputs too", "weights only"])
@pytest.mark.parametrize(("cell", "form"), NETS)
def test_backward(cell, form, wanted):
    net = make(cell, form)
    data = torch.rand(T, B, WIDTH, dtype=torch.float64, requires_grad=wanted)
    out, _ = net(data, state_of(net, B) if wanted else None)
    apart, _ = record(lambda: out.backward(torch.ones_like(out)))
    asked = (wanted, wanted, wanted and net.mode == "LSTM", True)
    fused = as_library(net, data, given=(True, False, False), asked=asked)
    assert fused["products"] == apart["products"]
    difference = gathered(net, steps=T, runs=1) - kept_mask(net, T * B)
    assert sum(fused.values()) + difference == sum(apart.values())


@pytest.mark.parametrize(("cell", "form"), NETS)
def test_backward_of_last_states(cell, form):
    net = make(cell, form)
    data = torch.rand(T, B, WIDTH, dtype=torch.float64)
    out, last = net(data, state_of(net, B))
    ends = [out, *(last if isinstance(last, tuple) else [last])]
    apart, _ = record(lambda: torch.autograd.backward(ends, [torch.ones_like(end) for end in ends]))
    memory = net.mode == "LSTM"
    fused = as_library(net, data, given=(True, True, memory), asked=(False, True, memory, True))
    assert fused["products"] == apart["products"]
    difference = gathered(net, steps=T, runs=1) - kept_mask(net, T * B)
    assert sum(fused.values()) + difference == sum(apart.values())


@pytest.mark.parametrize("wanted", [True, False], ids=["inputs too", "weights only"])
@pytest.mark.parametrize(("cell", "form"), NETS)
def test_backward_of_packed_sequences(cell, form, wanted):
    """The same sequences, one after the other: in a batch, autograd also adds the zeros of those that have ended."""
    net, sizes = (
        make(cell, form),
        pack_padded_sequence(torch.rand(T, B, WIDTH), torch.tensor(LENGTHS)).batch_sizes.tolist(),
    )
    alone = [torch.rand(length, 1, WIDTH, dtype=torch.float64, requires_grad=wanted) for length in LENGTHS]
    outs = [net(one, state_of(net, 1) if wanted else None)[0] for one in alone]
    apart, _ = record(lambda: torch.autograd.backward(outs, [torch.ones_like(out) for out in outs]))
    asked = (wanted, wanted, wanted and net.mode == "LSTM", True)
    steps = sum(LENGTHS)
    fused = as_library(net, torch.rand(steps, WIDTH), sizes, given=(True, False, False), asked=asked)
    assert fused["products"] == apart["products"]
    difference = gathered(net, steps=steps, runs=B) - kept_mask(net, steps)
    assert sum(fused.values()) + difference == sum(apart.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", [form for form in FORMS if "projected" not in form])
def test_what_onednn_gets_costs_what_torch_takes_apart(form, dtype):
    """Else `nn.LSTM` costs other in single than in double precision: the fused operator as it really comes."""
    nets = make("lstm", form, dtype), make("lstm", form)
    figures = []
    for net, precision in zip(nets, (dtype, torch.float64), strict=True):
        data, outs = torch.rand(T, B, WIDTH, dtype=precision, requires_grad=True), []
        state = state_of(net, B, precision)
        forward, names = record(lambda net=net, data=data, state=state, outs=outs: outs.append(net(data, state)[0]))
        backward, back = record(lambda outs=outs: outs[0].backward(torch.ones_like(outs[0])))
        figures.append((forward, backward, names, back))
    (fused, fused_back, names, back), (apart, apart_back, *_) = figures
    if "aten::mkldnn_rnn_layer" not in names:
        pytest.skip("this machine has no oneDNN kernel for the precision")
    assert "aten::mkldnn_rnn_layer_backward" in back
    assert fused == apart
    assert fused_back["products"] == apart_back["products"]
    # Dropout stands outside the operator on both sides. With oneDNN, each layer selects its first states from those of
    # all layers, and autograd adds gradients of the size of all.
    layers = nets[0].num_layers * (1 + nets[0].bidirectional)
    selected = 2 * (layers - 1) * layers * B * H
    difference = gathered(nets[0], steps=T, runs=1) - selected
    assert sum(fused_back.values()) + difference == sum(apart_back.values())


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("cell", "form"), NETS)
def test_inference_mode_counts_what_no_grad_counts(cell, form, dtype, packed):
    """Else a recurrent model that only answers does so for nothing."""
    net, data = make(cell, form, dtype).eval(), torch.rand(T, B, WIDTH, dtype=dtype)
    if packed:
        data = pack_padded_sequence(data, torch.tensor(LENGTHS))
    with torch.no_grad():
        plain = record(lambda: net(data))
    with torch.inference_mode():
        assert record(lambda: net(PackedSequence(*data) if packed else data)) == plain


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_cell_costs_the_same_whole_and_apart(kind, bias):
    cell, data = kind(WIDTH, H, bias=bias), torch.rand(B, WIDTH)
    apart, _ = record(lambda: cell(data))
    name = {nn.LSTMCell: "lstm", nn.GRUCell: "gru", nn.RNNCell: "rnn_tanh"}[kind]
    weights = [None if weight is None else tuple(weight.shape) for weight in (cell.bias_ih, cell.bias_hh)]
    state = [(B, H), (B, H)] if kind is nn.LSTMCell else (B, H)
    shapes = [tuple(cell.weight_ih.shape), tuple(cell.weight_hh.shape), *weights]
    assert kinds_of([(BOOK.cost(OpCall.of(f"aten::{name}_cell", (B, WIDTH), state, *shapes)), 1)]) == apart
    if kind is nn.RNNCell:
        return
    # The gates alone, as a GPU has them fused, and the two products beside them.
    products = 2 * B * sum(weight.numel() for name, weight in cell.named_parameters() if "weight" in name)
    gates = cell.weight_ih.shape[0]
    call = OpCall.of(f"aten::_thnn_fused_{name}_cell", (B, gates), (B, gates), (B, H), *weights)
    assert BOOK.cost(call).flop + products == sum(apart.values())


def lstm_gates(ours, theirs, bias, other, memory):
    i, f, g, o = (ours + bias + theirs + other).chunk(4, 1)
    memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
    return o.sigmoid() * memory.tanh(), memory


def gru_gates(ours, theirs, bias, other, state):
    (r, z, n), (s, y, m) = (ours + bias).chunk(3, 1), (theirs + other).chunk(3, 1)
    n = (n + m * (r + s).sigmoid()).tanh()
    return ((state - n) * (z + y).sigmoid() + n,)


@pytest.mark.parametrize("gates", [lstm_gates, gru_gates])
def test_gradients_of_gates_alone_cost_what_autograd_makes_of_them(gates):
    """The fused ones keep less and compute one value again; those of an LSTM give one sum for both biases."""
    is_lstm = gates is lstm_gates
    wide = (4 if is_lstm else 3) * H
    tensors = [torch.rand(*shape, requires_grad=True) for shape in ((B, wide), (B, wide), (wide,), (wide,), (B, H))]
    outs = gates(*tensors)
    apart, _ = record(lambda: torch.autograd.backward(outs, [torch.ones_like(out) for out in outs]))
    state, kept = (B, H), (B, wide if is_lstm else 5 * H)
    if is_lstm:
        call = OpCall.of("aten::_thnn_fused_lstm_cell_backward_impl", state, state, state, state, kept, True)
    else:
        call = OpCall.of("aten::_thnn_fused_gru_cell_backward", state, kept, True)
    again = [part.flop for part in BOOK.cost(call).parts if part.phase == "recompute"]
    assert again == [B * H]
    once = (B - 1) * wide if is_lstm else 0
    assert BOOK.cost(call).flop - B * H + once == sum(apart.values())
