"""Flex attention as torch runs and traces it: one call, whatever compiles it, with the blocks that its mask names."""

import pytest
import torch
from torch._higher_order_ops.flex_attention import flex_attention as flex_op
from torch._higher_order_ops.flex_attention import flex_attention_backward as flex_backward_op
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils.flop_counter import flop_registry
from versions import since_2_10

from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec
from flopmeter.sensors.precision import name_dtype
from flopmeter.tally import Tally
from flopmeter.testing.calls import record_calls

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
BOOK = FormulaBook.standard()
FORWARD, BACKWARD = "higher_order::flex_attention", "higher_order::flex_attention_backward"
B, H, J, S, D, E = 2, 4, 2, 200, 16, 8
BLOCK = 32
DOCUMENTS = torch.arange(S) // 70


def causal(batch, head, query, key):
    return query >= key


def sliding(batch, head, query, key):
    return (query >= key) & (query - key < 50)


def document(batch, head, query, key):
    return DOCUMENTS[query] == DOCUMENTS[key]


def soften(score, batch, head, query, key):
    return torch.tanh(score / 20) * 20


MASKS = {"causal": causal, "sliding": sliding, "document": document}


def mask_of(name):
    mask = create_block_mask(MASKS[name], 1, 1, S, S, device="cpu", BLOCK_SIZE=BLOCK)
    # What torch itself makes of it, block by block, drawn out over the pairs and cut to the lengths.
    dense = mask.to_dense()[0, 0].bool()
    drawn = dense.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:S, :S]
    return mask, int(drawn.sum())


def operands(*, grad=False):
    shapes = (B, H, S, D), (B, J, S, D), (B, J, S, E)
    return [torch.rand(shape, requires_grad=grad) for shape in shapes]


def record(work):
    return record_calls(work, book=BOOK)


def count(work):
    tally = Tally()
    for row in record(work):
        tally += BOOK.count(row.call, calls=row.calls, phase="other")
    return tally


def products_of(cost):
    return sum(part.flop + part.masked_flop for part in cost.parts if part.kind == "attention")


@pytest.fixture(autouse=True)
def forget_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", [None, "eager", "aot_eager"])
@pytest.mark.parametrize("name", MASKS)
def test_a_call_is_seen_once_and_costs_the_blocks_that_its_mask_names(name, backend):
    """Else flex attention is uncounted, counted twice, or counted as if it had no mask."""
    mask, drawn = mask_of(name)
    assert drawn < S * S
    query, key, value = operands()

    def attend(query, key, value):
        return flex_attention(query, key, value, score_mod=soften, block_mask=mask, enable_gqa=True)

    run = torch.compile(attend, backend=backend) if backend else attend
    with torch.no_grad():
        rows = record(lambda: run(query, key, value))
    assert [(row.call.op, row.calls) for row in rows if row.call.op.startswith("higher_order")] == [(FORWARD, 1)]
    tally = Tally()
    for row in rows:
        tally += BOOK.count(row.call, calls=row.calls, phase="other")
    assert tally.uncounted == ()
    found = tally.select(kind="attention")
    assert found.flop == 2 * B * H * drawn * (D + E)
    assert found.masked_flop == 2 * B * H * (S * S - drawn) * (D + E)


def test_without_a_mask_it_costs_what_other_attention_costs():
    query, key, _ = operands()
    with torch.no_grad():
        flex = count(lambda: flex_attention(query, key, key, enable_gqa=True))
        plain = count(lambda: torch.nn.functional.scaled_dot_product_attention(query, key, key, enable_gqa=True))
    assert {kind: part.flop for kind, part in flex.by("kind").items() if part.flop} == {
        kind: part.flop for kind, part in plain.by("kind").items() if part.flop
    }


@pytest.mark.parametrize("name", MASKS)
def test_its_backward_is_counted_from_the_same_blocks(name):
    """On a CPU torch's public function refuses gradients, and the operator below it computes them."""
    mask, drawn = mask_of(name)
    query, key, value = operands(grad=True)

    def train():
        out, *_ = flex_op(query, key, value, soften, mask.as_tuple(), 0.3, {})
        out.sum().backward()

    rows = record(train)
    assert sorted(row.call.op for row in rows if row.call.op.startswith("higher_order")) == [FORWARD, BACKWARD]
    tally = Tally()
    for row in rows:
        tally += BOOK.count(row.call, calls=row.calls, phase="other")
    assert tally.uncounted == ()
    attention = tally.select(kind="attention")
    assert attention.flop == B * H * drawn * (2 * (D + E) + 4 * (D + E) + 2 * D)
    assert tally.select(kind="attention", phase="recompute").flop == B * H * drawn * 2 * D


@since_2_10("its counter has no formula for flex attention")
def test_products_and_masked_products_are_those_of_torchs_counter():
    """Else a figure of ours cannot be set beside what others publish."""
    mask, _ = mask_of("sliding")
    query, key, value = operands(grad=True)

    def train():
        out, *_ = flex_op(query, key, value, soften, mask.as_tuple(), 0.3, {})
        out.sum().backward()

    calls = {row.call.op: row.call for row in record(train)}
    theirs = flop_registry[flex_op](query, key, value, out_val=None)
    assert products_of(BOOK.cost(calls[FORWARD])) == theirs
    grad = torch.empty(B, H, S, E)
    theirs = flop_registry[flex_backward_op](query, key, value, None, None, grad, out_val=None)
    assert products_of(BOOK.cost(calls[BACKWARD])) == theirs


def describe(value, known):
    """Describe an argument of a node of a graph as the recorder describes that of a call."""
    if isinstance(value, torch.fx.Node):
        found = value.meta.get("val", value.meta.get("example_value"))
        if not isinstance(found, torch.Tensor):
            return None  # a piece of the graph: `score_mod`, `mask_mod`
        return TensorSpec(tuple(found.shape), name_dtype(found.dtype), values=known.get(value.name))
    if isinstance(value, list | tuple):
        return tuple(describe(item, known) for item in value)
    if isinstance(value, float):
        return AnyNumber()
    return value if isinstance(value, int | str) else None


def call_in(graph, known):
    (node,) = (node for node in graph.nodes if node.target is flex_op)
    return OpCall(op=FORWARD, args=tuple(describe(value, known) for value in node.args))


def values_of(inputs):
    """Return what the integer tensors among the inputs of a graph hold: name → values."""
    return {
        name: tuple(map(int, tensor.flatten().tolist()))
        for name, tensor in inputs.items()
        if isinstance(tensor, torch.Tensor) and not tensor.is_floating_point()
    }


def test_a_node_of_a_traced_graph_is_priced_as_the_call_is():
    mask, drawn = mask_of("sliding")
    query, key, value = operands()
    parts = mask.as_tuple()
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]

    def attend(query, key, value, *tensors):
        rest = iter(tensors)
        whole = tuple(next(rest) if isinstance(part, torch.Tensor) else part for part in parts)
        return flex_op(query, key, value, soften, whole, 0.3, {})[0]

    graph = make_fx(attend, tracing_mode="fake")(query, key, value, *tensors).graph
    names = [node.name for node in graph.nodes if node.op == "placeholder"]
    known = values_of(dict(zip(names, (query, key, value, *tensors), strict=True)))
    cost = BOOK.cost(call_in(graph, known))
    assert cost.parts[0].flop == 2 * B * H * drawn * (D + E)
    # Without the values it is uncounted: nothing is guessed from a graph.
    assert BOOK.count(call_in(graph, {}), calls=1, phase="forward").uncounted[0].op == FORWARD


def test_a_node_of_a_graph_that_dynamo_captured_is_priced_as_the_call_is():
    mask, drawn = mask_of("causal")
    query, key, value = operands()
    captured = []

    def capture(module, _):
        names = [node.name for node in module.graph.nodes if node.op == "placeholder"]

        def run(*inputs):
            captured.append(call_in(module.graph, values_of(dict(zip(names, inputs, strict=True)))))
            return module(*inputs)

        return run

    def attend(query, key, value):
        return flex_attention(query, key, value, block_mask=mask, enable_gqa=True)

    with torch.no_grad():
        torch.compile(attend, backend=capture, fullgraph=True)(query, key, value)
    (call,) = captured
    assert BOOK.cost(call).parts[0].flop == 2 * B * H * drawn * (D + E)
