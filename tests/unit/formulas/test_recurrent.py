"""Recurrent layers, walked through step by step and sequence by sequence."""

from collections import Counter

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.recurrent import FORMULAS, MODES

GATES = {"rnn_relu": 1, "rnn_tanh": 1, "lstm": 4, "gru": 3}


def parts_of(op, *args, **options):
    call = OpCall.of(f"aten::{op}", *args, **options)
    cost = FORMULAS[call.op][1](call)
    if not isinstance(cost, Cost):
        return {"pointwise": cost}
    return {part.kind if part.phase is None else part.phase: part.flop for part in cost.parts if part.flop}


def used(counted):
    return {kind: flop for kind, flop in counted.items() if flop}


def product(counted, rows, columns):
    """One matrix times one vector."""
    for _ in range(rows):
        counted["recurrent"] += 2 * columns


def walk(cell, lengths, *, width, hidden, projected=0, layers=1, directions=1, bias=True, dropout=False):
    """Count the forward pass of one sequence after another, one hidden unit after another."""
    counted, gates, out = Counter(), GATES[cell], projected or hidden
    for layer in range(layers):
        takes = width if layer == 0 else directions * out
        for length in lengths:
            for _ in range(directions * length):
                product(counted, gates * hidden, takes)
                product(counted, gates * hidden, out)
                for _ in range(gates * hidden):
                    counted["pointwise"] += 2 * bias
                for _ in range(hidden):
                    counted["pointwise"] += {
                        "rnn_relu": 1,  # add both
                        "rnn_tanh": 1 + 1,  # add both, tanh
                        "lstm": 4 + 3 + 1 + (2 + 1) + (1 + 1),  # add both, three σ, tanh, the memory, o·tanh(c)
                        "gru": 2 + 2 + (1 + 1 + 1) + (1 + 1 + 1),  # r and z, tanh(a + r·b), (h − n)·z + n
                    }[cell]
                if projected:
                    product(counted, projected, hidden)
            if dropout and layer < layers - 1:
                counted["pointwise"] += 2 * length * directions * out
    return used(counted)


def step_back(cell, *, last, first, given, asked):
    """Count what the gates of one hidden unit cost in one step on the way back."""
    lstm = 1 + 4 + 3 + 3 * 3 + 3  # o; tanh(c) and its derivative; i, f, g; the derivatives of three σ and a tanh
    lstm += given[2] or not last  # the memory's gradient of this step and that of the next
    lstm += asked[2] or not first  # what goes to the memory before
    gru = 1 + 1 + 2 + 3 + 2 + 2 * 3  # of (h − n)·z + n: z, h, twice n; tanh; both factors of r·b; two σ
    gru += asked[1] or not first  # both ways to the state before
    return {"rnn_relu": 0, "rnn_tanh": 3, "lstm": lstm, "gru": gru}[cell]


def walk_back(cell, lengths, *, given=(True, True, True), asked=(True, True, True, True), **net):
    """Count the backward pass in the same way."""
    counted, hidden, layers, directions = Counter(), net["hidden"], net.get("layers", 1), net.get("directions", 1)
    gates, projected = GATES[cell] * hidden, net.get("projected", 0)
    out = projected or hidden
    for layer in range(layers):
        takes = net["width"] if layer == 0 else directions * out
        has_output, wants_input = given[0] or layer < layers - 1, asked[0] or layer > 0
        steps = [(step == 0, step == each - 1) for each in lengths for step in range(each)]
        for first, last in steps * directions:
            counted["pointwise"] += out * (has_output and (given[1] or not last))
            counted["pointwise"] += hidden * step_back(cell, last=last, first=first, given=given, asked=asked)
            product(counted, hidden * (1 + asked[3]), projected)
            product(counted, out * (asked[1] or not first), gates)
            product(counted, takes * wants_input, gates)
            product(counted, gates * asked[3], takes + out)
        counted["pointwise"] += sum(lengths) * takes * wants_input * (directions - 1)
        counted["pointwise"] += 2 * sum(lengths) * directions * out * (net.get("dropout", False) and layer < layers - 1)
        counted["reduction"] += directions * 2 * gates * (sum(lengths) - 1) * (net.get("bias", True) and asked[3])
    return used(counted)


def weights_of(cell, *, width, hidden, projected=0, layers=1, directions=1, bias=True, **_):
    out, rows = projected or hidden, GATES[cell] * hidden
    weights = []
    for layer in range(layers):
        takes = width if layer == 0 else directions * out
        one = [(rows, takes), (rows, out)] + [(rows,), (rows,)] * bias + [(projected, hidden)] * bool(projected)
        weights += one * directions
    return weights, len(weights) // (layers * directions)


def library(cell, lengths, *, backward=False, packed=False, training=True, **net):
    """Arguments of `_cudnn_rnn`, and those of `miopen_rnn` where nothing is projected."""
    weights, stride = weights_of(cell, **net)
    out, copies = net.get("projected") or net["hidden"], net.get("layers", 1) * net.get("directions", 1)
    data = (sum(lengths), net["width"]) if packed else (lengths[0], len(lengths), net["width"])
    state = (copies, len(lengths), out)
    memory = (copies, len(lengths), net["hidden"]) if cell == "lstm" else None
    sizes = [sum(length > step for length in lengths) for step in range(max(lengths))] if packed else []
    dropout, both_ways = 0.3 if net.get("dropout") else 0.0, net.get("directions", 1) == 2
    head, tail = [data, weights, stride], [net.get("layers", 1), False, dropout, training, both_ways, sizes, None]
    cudnn, miopen = [MODES.index(cell), net["hidden"], net.get("projected", 0)], [MODES.index(cell), net["hidden"]]
    if not backward:
        return [*head, (9,), state, memory, *cudnn, *tail], [*head, state, memory, *miopen, *tail]
    y = (*data[:-1], net.get("directions", 1) * out)
    came = [
        shape if given else None for shape, given in zip((y, state, memory), net.get("given", [True] * 3), strict=True)
    ]
    before, after = [*head, (9,), state, memory, y, *came], [*tail, (9,), list(net.get("asked", [True] * 4))]
    return [*before, *cudnn, *after], [*before, *miopen, *after]


NETS = {
    "plain": ((4, 4), {"width": 6, "hidden": 5}),
    "one step": ((1, 1, 1), {"width": 6, "hidden": 5}),
    "no bias": ((4, 4), {"width": 6, "hidden": 5, "bias": False}),
    "layers": ((3, 3), {"width": 6, "hidden": 5, "layers": 3, "dropout": True}),
    "both ways": ((3, 3), {"width": 6, "hidden": 4, "layers": 2, "directions": 2}),
    "packed": ((4, 2, 1), {"width": 6, "hidden": 5, "packed": True}),
    "packed both ways": ((4, 2, 1), {"width": 6, "hidden": 5, "packed": True, "directions": 2, "layers": 2}),
}


@pytest.mark.parametrize("cell", MODES)
@pytest.mark.parametrize("name", NETS)
def test_a_forward_pass_is_the_sum_of_its_steps(name, cell):
    """Else a recurrent model costs other in one call than step by step."""
    lengths, net = NETS[name]
    cudnn, miopen = library(cell, lengths, **net)
    expected = walk(cell, lengths, **{key: value for key, value in net.items() if key != "packed"})
    assert parts_of("_cudnn_rnn", *cudnn) == parts_of("miopen_rnn", *miopen) == expected


GRADIENTS = {
    "all": {},
    "of the output, for the weights": {"given": (True, False, False), "asked": (False, False, False, True)},
    "of the last state, for the input": {"given": (False, True, False), "asked": (True, False, False, False)},
    "of the last states, for the first": {"given": (False, True, True), "asked": (False, True, True, True)},
}


@pytest.mark.parametrize("cell", MODES)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("which", GRADIENTS)
def test_a_backward_pass_is_the_sum_of_its_steps(name, which, cell):
    """Else a frozen layer, or a state that is not trained, costs what a trained one costs."""
    lengths, net = NETS[name]
    cudnn, miopen = library(cell, lengths, backward=True, **net, **GRADIENTS[which])
    expected = walk_back(
        cell, lengths, **{key: value for key, value in net.items() if key != "packed"}, **GRADIENTS[which]
    )
    assert parts_of("_cudnn_rnn_backward", *cudnn) == parts_of("miopen_rnn_backward", *miopen) == expected


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("directions", [1, 2])
def test_a_projection_narrows_what_comes_out(layers, directions):
    lengths = (4, 3)
    net = {"width": 6, "hidden": 5, "projected": 2, "layers": layers, "directions": directions}
    cudnn, _ = library("lstm", lengths, packed=True, **net)
    assert parts_of("_cudnn_rnn", *cudnn) == walk("lstm", lengths, **net)
    for asked in ((True, True, True, True), (True, False, False, False)):
        cudnn, _ = library("lstm", lengths, packed=True, backward=True, asked=asked, **net)
        assert parts_of("_cudnn_rnn_backward", *cudnn) == walk_back("lstm", lengths, asked=asked, **net)


def test_dropout_is_for_training():
    net = {"width": 6, "hidden": 5, "layers": 2, "dropout": True}
    evaluated, _ = library("gru", (3, 3), training=False, **net)
    assert parts_of("_cudnn_rnn", *evaluated) == walk("gru", (3, 3), **{**net, "dropout": False})


@pytest.mark.parametrize("bias", [True, False])
def test_one_layer_of_onednn(bias):
    net = {"width": 6, "hidden": 5, "bias": bias}
    w, h, y = ((20, 6), (20, 5), (20,), (20,)), (2, 5), (4, 2, 5)
    if not bias:
        w = (*w[:2], *w[:2])  # zeros of the weights' shapes stand in for them
    call = ("mkldnn_rnn_layer", (4, 2, 6), *w, h, h, True, [], 2, 5, 3, bias, True, False, True)
    assert parts_of(*call) == walk("lstm", (4, 4), **net)
    for given in ((True, False, False), (True, True, True), (False, True, False)):
        came = [shape if here else None for shape, here in zip((y, h, h), given, strict=True)]
        after = [True, 2, 5, 3, bias, True, True, [], False, (9,)]
        call = ("mkldnn_rnn_layer_backward", (4, 2, 6), *w, h, h, y, h, h, *came, *after)
        assert parts_of(*call) == walk_back("lstm", (4, 4), given=given, **net)


def test_one_layer_of_onednn_is_an_lstm():
    """Torch's kernel computes an LSTM whatever the mode says; another mode is a call that we do not know."""
    h = (2, 5)
    with pytest.raises(FormulaError, match="no LSTM"):
        parts_of("mkldnn_rnn_layer", (4, 2, 6), (15, 6), (15, 5), (15,), (15,), h, h, False, [], 3, 5, 1, True)


@pytest.mark.parametrize("cell", MODES)
@pytest.mark.parametrize("packed", [True, False])
def test_a_network_that_arrives_whole(cell, packed):
    net = {"width": 6, "hidden": 5, "layers": 2, "directions": 2, "dropout": True}
    lengths = (4, 2) if packed else (4, 4)
    weights, _ = weights_of(cell, **net)
    state = (4, 2, 5)
    states = [state, state] if cell == "lstm" else state
    head = [(6, 6), (4,)] if packed else [(4, 2, 6)]
    call = [*head, states, weights, True, 2, 0.3, True, True, *([] if packed else [False])]
    assert parts_of(cell, *call) == walk(cell, lengths, **net)


def test_an_lstm_of_apple():
    net = {"width": 6, "hidden": 5, "layers": 2}
    weights, _ = weights_of("lstm", **net)
    state, y = (2, 3, 5), (4, 3, 5)
    tail = [[state, state], weights, True, 2, 0.0, True, False, False]
    assert parts_of("_lstm_mps", (4, 3, 6), *tail) == walk("lstm", (4, 4, 4), **net)
    call = ["lstm_mps_backward", y, None, None, (9,), (9,), (4, 3, 6), (9,), *tail]
    assert parts_of(*call) == walk_back("lstm", (4, 4, 4), given=(True, False, False), **net)


@pytest.mark.parametrize("cell", MODES)
def test_one_step_that_arrives_whole(cell):
    w = GATES[cell] * 5
    states = [(3, 5), (3, 5)] if cell == "lstm" else (3, 5)
    sequences = (1, 1, 1)
    one = parts_of(f"{cell}_cell", (3, 6), states, (w, 6), (w, 5), (w,), (w,))
    assert one == walk(cell, sequences, width=6, hidden=5)
    bare = parts_of(f"{cell}_cell", (3, 6), states, (w, 6), (w, 5))
    assert bare == walk(cell, sequences, width=6, hidden=5, bias=False)
    half = parts_of(f"{cell}_cell", (3, 6), states, (w, 6), (w, 5), None, (w,))
    assert half["pointwise"] == (one["pointwise"] + bare["pointwise"]) // 2


def test_the_gates_alone():
    """The products of a cell are seen as matrix products; counted here again, they would be there twice."""
    b, h = 3, 5
    n = b * h
    lstm = ("_thnn_fused_lstm_cell", (b, 4 * h), (b, 4 * h), (b, h))
    assert parts_of(*lstm) == {"pointwise": 4 * n + 4 * n + 3 * n + 2 * n}
    assert parts_of(*lstm, (20,), (20,)) == {"pointwise": 4 * n + 4 * n + 3 * n + 2 * n + 8 * n}
    gru = ("_thnn_fused_gru_cell", (b, 3 * h), (b, 3 * h), (b, h))
    assert parts_of(*gru) == {"pointwise": 2 * 2 * n + 3 * n + 3 * n}
    assert parts_of(*gru, (15,), (15,)) == {"pointwise": 2 * 2 * n + 3 * n + 3 * n + 6 * n}


@pytest.mark.parametrize("op", ["_thnn_fused_lstm_cell_backward", "_thnn_fused_lstm_cell_backward_impl"])
def test_gradients_of_the_gates_of_an_lstm(op):
    b, h = 3, 5
    n, state, gates = b * h, (b, h), (b, 4 * h)
    # o, tanh(c) and its derivative, the memory's sum, i f g and the memory before, derivatives of σ and tanh
    each = 1 + 1 + 3 + 1 + 4 + 3 * 3 + 3
    both = {"pointwise": each * n, "recompute": n}
    assert parts_of(op, state, state, state, state, gates, False) == both
    assert parts_of(op, state, state, state, state, gates, True) == {**both, "reduction": (b - 1) * 4 * h}
    assert parts_of(op, state, None, state, state, gates, False)["pointwise"] == (each - 1) * n
    assert parts_of(op, None, None, state, state, gates, True) == {}


def test_gradients_of_the_gates_of_a_gru():
    b, h = 3, 5
    n = b * h
    bare = {"pointwise": (1 + 1 + 2 + 3 + 2 + 2 * 3) * n, "recompute": n}
    assert parts_of("_thnn_fused_gru_cell_backward", (b, h), (b, 5 * h), False) == bare
    sums = {"reduction": 2 * (b - 1) * 3 * h}
    assert parts_of("_thnn_fused_gru_cell_backward", (b, h), (b, 5 * h), True) == {**bare, **sums}


def change(args, place, value):
    return [*args[:place], value, *args[place + 1 :]]


def test_a_gradient_of_the_memory_alone():
    net = {"width": 6, "hidden": 5, "given": (False, False, True), "asked": (True, True, False, True)}
    cudnn, _ = library("lstm", (4, 4), backward=True, **net)
    assert parts_of("_cudnn_rnn_backward", *cudnn) == walk_back("lstm", (4, 4), **net)


def test_nothing_comes_of_no_gradient():
    cudnn, _ = library("lstm", (4, 4), backward=True, width=6, hidden=5, given=(False, False, False))
    assert parts_of("_cudnn_rnn_backward", *cudnn) == {}


def test_arguments_that_do_not_fit_are_refused():
    """Else a call that we do not understand gets a figure that means nothing."""
    cudnn, _ = library("lstm", (4, 2), packed=True, width=6, hidden=5)
    for place, value in (
        (0, (7, 6)),  # other steps than the batch sizes say
        (1, [(20, 6), (15, 5), (20,), (20,)]),  # a weight of another cell
        (1, [(20, 6), (20, 5), (20,), (20,)] * 2),  # a layer too many
        (4, (1, 2, 4)),  # another state
        (14, [2, 2, 1, 2]),  # batch sizes of another batch
    ):
        with pytest.raises(FormulaError):
            parts_of("_cudnn_rnn", *change(cudnn, place, value))
    back, _ = library("lstm", (4, 2), packed=True, backward=True, width=6, hidden=5)
    for mask in (None, [], (4,)):
        with pytest.raises(FormulaError, match="output mask"):
            parts_of("_cudnn_rnn_backward", *change(back, 21, mask))
    with pytest.raises(FormulaError):
        parts_of("gru_cell", (3, 6), (2, 5), (15, 6), (15, 5))
    with pytest.raises(FormulaError):
        parts_of("_thnn_fused_gru_cell", (2, 20), (2, 20), (2, 5))
    with pytest.raises(FormulaError):
        parts_of("_thnn_fused_lstm_cell_backward_impl", (2, 5), None, (2, 5), (2, 5), (2, 15), True)
    with pytest.raises(FormulaError):
        parts_of("_thnn_fused_gru_cell_backward", (2, 5), (2, 15), True)


def test_more_layers_than_there_are_weights_for_are_refused():
    """Else one row of a ledger that claims any size takes all time or memory of whoever reads it."""
    weights = [(20, 6), (20, 5), (20,), (20,)]
    for layers in (0, 2, 10**18):
        state, rest = (layers, 2, 5), (False, 0.0, True, False, [], None)
        with pytest.raises(FormulaError, match="4 weights for"):
            parts_of("_cudnn_rnn", (4, 2, 6), weights, 4, (260,), state, state, 2, 5, 0, layers, *rest)
