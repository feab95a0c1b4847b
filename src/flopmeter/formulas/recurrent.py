"""Fused recurrent layers: LSTM, GRU and RNN, forward and backward.

A layer costs what torch's own decomposition of it costs, step by step: the products with input and state, two biases,
the gates; backward what autograd makes of that, with each weight's gradient one product over all steps. Products are
kind `recurrent`; biases, gates and dropout `pointwise`, the gradients of biases `reduction`.
Not here: layers that torch takes apart itself, which are seen as `mm`, `addmm` and the arithmetic of their gates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from flopmeter.formulas.call import OpCall, TensorSpec, is_exactly, parse_sizes
from flopmeter.formulas.cost import Cost, Part

# S steps of all sequences together, B sequences, L layers, D directions, G gates
# I width of a layer's input, H hidden width, R width of what comes out (H, or that of a projection)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """One step: its gates, and what a hidden unit costs forward and backward, without biases and meeting gradients."""

    gates: int
    forward: int
    backward: int


CELLS = {
    "rnn_relu": _Cell(gates=1, forward=1, backward=0),
    "rnn_tanh": _Cell(gates=1, forward=2, backward=3),
    "lstm": _Cell(gates=4, forward=13, backward=20),
    "gru": _Cell(gates=3, forward=10, backward=15),
}
MODES = tuple(CELLS)
"""Cells in the order of the `mode` argument, the same for cuDNN, MIOpen and oneDNN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Net:
    """One call, reduced to the numbers that decide its cost."""

    cell: str
    steps: int
    sequences: int
    width: int
    hidden: int
    out: int
    layers: int = 1
    directions: int = 1
    biases: int = 0
    has_dropout: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gradients:
    """Which gradients came in (of y, h and c), and which are asked for (of x, h, c and the weights)."""

    given: Sequence[bool]
    asked: Sequence[bool] = (True, True, True, True)


def count_layers(call: OpCall) -> Cost:
    """Cost of recurrent layers in one call: all of cuDNN, MIOpen or Apple, one direction of oneDNN, or one cell.

    Shapes: x (T, B, I), or packed (S, I) with B sequences; per layer and direction w_ih (G·H, I), w_hh (G·H, R), two
        biases of G·H or none, a projection (R, H) or none; the layers above the first take I = D·R.
    Counts: for each layer and direction recurrent 2·S·G·H·(I + R), and 2·S·H·R for a projection; pointwise 2·S·G·H
        for biases, and S·H times 13 in an LSTM, 10 in a GRU, 2 in an RNN with tanh, 1 in one with relu; 2·S·D·R for
        dropout between two layers in training.
    Ignores: random numbers, what is kept for backward, and that a library may add the two biases together once.
    Source: docs/spec/fm-1.md#recurrent; the decompositions of `lstm`, `gru`, `rnn_tanh` and `rnn_relu` in torch.

    Raises:
        FormulaError: weights, state and batch sizes do not fit.

    Example:
        >>> weights = [(20, 6), (20, 5), (20,), (20,)]
        >>> call = OpCall.of("aten::_cudnn_rnn", (4, 2, 6), weights, 4, (260,), (1, 2, 5), (1, 2, 5), 2, 5, 0, 1, False,
        ...                  0.0, True, False, [], None)
        >>> [(part.kind, part.flop) for part in count_layers(call).parts]
        [('recurrent', 3520), ('pointwise', 840)]
    """
    net = FORWARD[call.op](call)
    products = pointwise = 0
    for width in _widths(net):
        products += 2 * net.steps * (_gates(net) * (width + net.out) + _projection(net))
        pointwise += net.steps * (net.hidden * CELLS[net.cell].forward + net.biases * _gates(net))
    return Cost.of(
        Part(kind="recurrent", flop=net.directions * products),
        Part(kind="pointwise", flop=net.directions * pointwise + 2 * _dropped(net)),
    )


def count_layers_backward(call: OpCall) -> Cost:
    """Cost of the gradients of recurrent layers in one call.

    Shapes: as the forward; the gradients of y, h and c, each may be missing → dx, dh, dc and those of the weights.
    Counts: for each layer and direction recurrent 2·S·G·H·R for the states (without the first step of each of B
        sequences unless dh is asked for), 2·S·G·H·I for the input (of the first layer if asked for), 2·S·G·H·(I + R)
        for the weights if asked for, and as much again of 2·S·H·R for a projection; pointwise S·H times 20 in an
        LSTM, 15 in a GRU, 3 in an RNN with tanh; S·H for dc in an LSTM (without first steps unless asked for); one
        add where two gradients meet; 2·S·D·R for dropout between two layers; reduction 2·(S − 1)·G·H for biases.
    Ignores: that a library computes dx and dh unasked; a missing gradient saves its adds and nothing else.
    Source: docs/spec/fm-1.md#recurrent.

    Raises:
        FormulaError: weights, state and batch sizes do not fit.

    Example:
        >>> weights = [(20, 6), (20, 5), (20,), (20,)]
        >>> state, y = (1, 2, 5), (4, 2, 5)
        >>> call = OpCall.of("aten::_cudnn_rnn_backward", (4, 2, 6), weights, 4, (260,), state, state, y, y, None, None,
        ...                  2, 5, 0, 1, False, 0.0, True, False, [], None, (9,), [False, False, False, True])
        >>> [(part.kind, part.flop) for part in count_layers_backward(call).parts]
        [('recurrent', 4720), ('pointwise', 890), ('reduction', 280)]
    """
    net, gradients = BACKWARD[call.op](call)
    (output, last_state, last_cell), (data, state, memory, weights) = gradients.given, gradients.asked
    if not (output or last_state or last_cell):
        return Cost()
    # Steps that hand a gradient back to the step before, or to the first state if that wants one; likewise meetings.
    back, memory_back = (net.steps - net.sequences * (not asked) for asked in (state, memory))
    meet, memory_meet = (net.steps - net.sequences * (not given) for given in (last_state, last_cell))
    extra = {"lstm": memory_back + memory_meet, "gru": back}.get(net.cell, 0)
    products = pointwise = 0
    for layer, width in enumerate(_widths(net)):
        wants_input, is_last = data or layer > 0, layer == net.layers - 1
        through = _gates(net) * width * wants_input + _projection(net)
        kept = (_gates(net) * (width + net.out) + _projection(net)) * weights
        products += net.directions * 2 * (back * _gates(net) * net.out + net.steps * (through + kept))
        gates = net.hidden * (CELLS[net.cell].backward * net.steps + extra)
        pointwise += net.directions * (gates + net.out * meet * (output or not is_last))
        pointwise += (net.directions - 1) * net.steps * width * wants_input
    sums = net.biases * _gates(net) * max(net.steps - 1, 0) * weights
    return Cost.of(
        Part(kind="recurrent", flop=products),
        Part(kind="pointwise", flop=pointwise + 2 * _dropped(net)),
        Part(kind="reduction", flop=net.layers * net.directions * sums),
    )


def count_gates(call: OpCall) -> int:
    """Cost of the gates of one step, whose products were made before.

    Shapes: input and hidden products (B, G·H), state (B, H) with n elements, two biases of G·H or none.
    Counts: LSTM 13·n, and 8·n with biases; GRU 10·n, and 6·n with biases.
    Ignores: what is kept for backward.
    Source: docs/spec/fm-1.md#recurrent.

    Raises:
        FormulaError: the shapes do not fit.

    Example:
        >>> count_gates(OpCall.of("aten::_thnn_fused_lstm_cell", (2, 20), (2, 20), (2, 5), (20,), (20,)))
        210
    """
    cell = CELLS["lstm" if "lstm" in call.op else "gru"]
    one, two, state = (call.tensor(place) for place in range(3))
    if one.shape != two.shape or one.size != cell.gates * state.size:
        call.refuse(f"gates {one.shape} and {two.shape} do not fit state {state.shape}")
    return state.size * (cell.forward + cell.gates * call.count_given(3, 4))


def count_lstm_gates_backward(call: OpCall) -> Cost:
    """Cost of the gradients of an LSTM's gates.

    Shapes: dh and dc, one of which may be missing, c before and after (B, H) with n elements, gates (B, 4·H) → those of
        the gates, of c, and one for both biases.
    Counts: pointwise 22·n, n less where a gradient is missing; n in phase `recompute` for the hyperbolic tangent of c;
        reduction (B − 1)·4·H with biases.
    Ignores: that a missing gradient saves more than its add.
    Source: docs/spec/fm-1.md#recurrent.

    Raises:
        FormulaError: the shapes do not fit.

    Example:
        >>> n = (2, 5)
        >>> call = OpCall.of("aten::_thnn_fused_lstm_cell_backward_impl", n, None, n, n, (2, 20), True)
        >>> [(part.kind, part.phase, part.flop) for part in count_lstm_gates_backward(call).parts]
        [('pointwise', None, 210), ('pointwise', 'recompute', 10), ('reduction', None, 20)]
    """
    state, gates, given = call.tensor(3), call.tensor(4), call.count_given(0, 1)
    if gates.size != CELLS["lstm"].gates * state.size:
        call.refuse(f"gates {gates.shape} do not fit state {state.shape}")
    if not given:
        return Cost()
    return Cost.of(
        Part(kind="pointwise", flop=(20 + given) * state.size),
        Part(kind="pointwise", flop=state.size, phase="recompute"),
        Part(kind="reduction", flop=_add_up(gates) * (call.arg(5) is True)),
    )


def count_gru_gates_backward(call: OpCall) -> Cost:
    """Cost of the gradients of a GRU's gates.

    Shapes: dh (B, H) with n elements, what the forward kept (B, 5·H) → those of both products (B, 3·H), of the state,
        and one for each bias.
    Counts: pointwise 15·n; n in phase `recompute` for the difference of state and candidate; reduction 2·(B − 1)·3·H
        with biases.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#recurrent.

    Raises:
        FormulaError: the shapes do not fit.

    Example:
        >>> call = OpCall.of("aten::_thnn_fused_gru_cell_backward", (2, 5), (2, 25), True)
        >>> [(part.kind, part.phase, part.flop) for part in count_gru_gates_backward(call).parts]
        [('pointwise', None, 150), ('pointwise', 'recompute', 10), ('reduction', None, 30)]
    """
    state, kept, cell = call.tensor(0), call.tensor(1), CELLS["gru"]
    if kept.size != 5 * state.size:
        call.refuse(f"what was kept {kept.shape} does not fit state {state.shape}")
    return Cost.of(
        Part(kind="pointwise", flop=cell.backward * state.size),
        Part(kind="pointwise", flop=state.size, phase="recompute"),
        Part(kind="reduction", flop=2 * cell.gates * _add_up(state) * (call.arg(2) is True)),
    )


def _read_library(call: OpCall, *, state: int, mode: int, projects: bool) -> _Net:
    """Read cuDNN's and MIOpen's arguments: after the mode both go on alike, but for the projection."""
    (cell, hidden, *projection, layers) = parse_sizes(tuple(call.args[mode : mode + 3 + projects]))
    dropout, is_training, both_ways, packed = call.args[mode + 4 + projects : mode + 8 + projects]
    (stride,) = parse_sizes(call.arg(2))
    net = _Net(
        cell=MODES[cell],
        steps=_steps(call.tensor(0)),
        sequences=call.tensor(state).shape[1],
        width=call.tensor(0).shape[-1],
        hidden=hidden,
        out=sum(projection) or hidden,
        layers=layers,
        directions=1 + (both_ways is True),
        biases=2 if stride >= 4 else 0,  # w_ih, w_hh, b_ih, b_hh
        has_dropout=is_training is True and not is_exactly(dropout, 0),
    )
    lengths = parse_sizes(packed)
    if lengths and (sum(lengths), lengths[0]) != (net.steps, net.sequences):
        call.refuse(f"batch sizes {lengths} do not fit input {call.tensor(0).shape}")
    return _check(call, net, call.tensor(state), call.tensor_list(1), stride=stride)


def _read_library_backward(call: OpCall, *, projects: bool) -> tuple[_Net, _Gradients]:
    mask = call.arg(20 + projects)
    if not isinstance(mask, tuple) or not mask or set(map(type, mask)) != {bool}:
        call.refuse(f"{mask} is no output mask")
    gradients = _Gradients(given=_given(call, 7), asked=[flag is True for flag in mask])
    return _read_library(call, state=4, mode=10, projects=projects), gradients


def _read_onednn(call: OpCall, *, mode: int, has_biases: int) -> _Net:
    if not is_exactly(call.arg(mode), MODES.index("lstm")):
        call.refuse(f"mode {call.arg(mode)} is no LSTM")
    data, state = call.tensor(0), call.tensor(5)
    (sequences, hidden) = state.shape
    biases = 2 * (call.arg(has_biases) is True)
    width = data.shape[-1]
    net = _Net(
        cell="lstm", steps=_steps(data), sequences=sequences, width=width, hidden=hidden, out=hidden, biases=biases
    )
    return _check(call, net, state, (call.tensor(1), call.tensor(2)), stride=2)


def _read_onednn_backward(call: OpCall) -> tuple[_Net, _Gradients]:
    return _read_onednn(call, mode=14, has_biases=17), _Gradients(given=_given(call, 10))


def _read_whole(call: OpCall, *, cell: str, data: int = 0, state: int = 1) -> _Net:
    """Read the arguments of `lstm`, `gru`, `rnn_tanh` and `rnn_relu`, which stand in one order, packed or not."""
    if not data and isinstance(call.arg(3), tuple):
        state += 1  # packed: the batch sizes stand before the state
    states = call.tensor_list(state) if cell == "lstm" else (call.tensor(state),)
    weights, first = call.tensor_list(state + 1), states[0].shape
    has_biases, layers, dropout, is_training, both_ways = call.args[state + 2 : state + 7]
    (layers,) = parse_sizes(layers)
    directions = 1 + (both_ways is True)
    net = _Net(
        cell=cell,
        steps=_steps(call.tensor(data)),
        sequences=first[1],
        width=call.tensor(data).shape[-1],
        hidden=states[-1].shape[2],
        out=first[2],
        layers=layers,
        directions=directions,
        biases=2 * (has_biases is True),
        has_dropout=is_training is True and not is_exactly(dropout, 0),
    )
    return _check(call, net, states[0], weights, stride=len(weights) // (layers * directions))


def _read_apple_backward(call: OpCall) -> tuple[_Net, _Gradients]:
    return _read_whole(call, cell="lstm", data=5, state=7), _Gradients(given=_given(call, 0))


def _read_cell(call: OpCall, *, cell: str) -> _Net:
    data, state = call.tensor(0), (call.tensor_list(1)[0] if cell == "lstm" else call.tensor(1))
    (steps, width), hidden, biases = data.shape, state.shape[-1], call.count_given(4, 5)
    net = _Net(cell=cell, steps=steps, sequences=steps, width=width, hidden=hidden, out=hidden, biases=biases)
    return _check(call, net, state, (call.tensor(2), call.tensor(3)), stride=2)


def _check(call: OpCall, net: _Net, state: TensorSpec, weights: Sequence[TensorSpec], *, stride: int) -> _Net:
    """Refuse a call whose state or weights are not those that the numbers ask for."""
    fits = state.shape[-2:] == (net.sequences, net.out) and net.steps >= net.sequences
    # Compared first: the number of layers may be anything, the weights are there.
    if net.layers * net.directions * stride != len(weights):
        call.refuse(f"{len(weights)} weights for {net.layers} layers")
    each = [width for width in _widths(net) for _ in range(net.directions)]
    wanted = [shape for width in each for shape in ((_gates(net), width), (_gates(net), net.out))]
    found = [weight.shape for first in range(0, len(weights), stride) for weight in weights[first : first + 2]]
    if not fits or found != wanted:
        call.refuse(f"state {state.shape} and weights {found} do not fit {net}")
    return net


def _gates(net: _Net) -> int:
    """Return the width of all gates together."""
    return CELLS[net.cell].gates * net.hidden


def _widths(net: _Net) -> list[int]:
    """Return what each layer takes."""
    return [net.width] + [net.directions * net.out] * (net.layers - 1)


def _projection(net: _Net) -> int:
    """Return the elements of a projection's weight."""
    return net.hidden * net.out if net.out != net.hidden else 0


def _dropped(net: _Net) -> int:
    """Return the elements that dropout between two layers looks at."""
    return net.steps * net.directions * net.out * (net.layers - 1) * net.has_dropout


def _steps(data: TensorSpec) -> int:
    return data.size // data.shape[-1]


def _add_up(tensor: TensorSpec) -> int:
    return tensor.size - tensor.shape[-1] if tensor.size else 0


def _given(call: OpCall, first: int) -> list[bool]:
    return [call.arg(place) is not None for place in range(first, first + 3)]


FORWARD: dict[str, Callable[[OpCall], _Net]] = {
    "aten::_cudnn_rnn": partial(_read_library, state=4, mode=6, projects=True),
    "aten::miopen_rnn": partial(_read_library, state=3, mode=5, projects=False),
    "aten::mkldnn_rnn_layer": partial(_read_onednn, mode=9, has_biases=12),
    "aten::_lstm_mps": partial(_read_whole, cell="lstm"),
    **{f"aten::{cell}": partial(_read_whole, cell=cell) for cell in CELLS},
    **{f"aten::{cell}_cell": partial(_read_cell, cell=cell) for cell in CELLS},
}
BACKWARD: dict[str, Callable[[OpCall], tuple[_Net, _Gradients]]] = {
    "aten::_cudnn_rnn_backward": partial(_read_library_backward, projects=True),
    "aten::miopen_rnn_backward": partial(_read_library_backward, projects=False),
    "aten::mkldnn_rnn_layer_backward": _read_onednn_backward,
    "aten::lstm_mps_backward": _read_apple_backward,
}
FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **dict.fromkeys(FORWARD, ("recurrent", count_layers)),
    **dict.fromkeys(BACKWARD, ("recurrent", count_layers_backward)),
    **dict.fromkeys(("aten::_thnn_fused_lstm_cell", "aten::_thnn_fused_gru_cell"), ("pointwise", count_gates)),
    "aten::_thnn_fused_lstm_cell_backward": ("pointwise", count_lstm_gates_backward),
    "aten::_thnn_fused_lstm_cell_backward_impl": ("pointwise", count_lstm_gates_backward),
    "aten::_thnn_fused_gru_cell_backward": ("pointwise", count_gru_gates_backward),
}
