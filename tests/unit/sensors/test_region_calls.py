"""What a graph calls for inputs of given sizes, without running anything on data."""

import pytest
import torch
from torch._higher_order_ops import triton_kernel_wrap
from torch.utils import flop_counter

from flopmeter.sensors.graph_text import read_graph
from flopmeter.sensors.region_calls import Sizes, list_calls, name_of

TEXT = """class Repro(torch.nn.Module):
    def forward(self, {inputs}):
{body}

def load_args(reader):
"""


def graph_of(inputs, *lines):
    return read_graph(TEXT.format(inputs=inputs, body="\n".join(f"        {line}" for line in lines)), "")


def sizes_of(tensor, values=None):
    return Sizes(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, values)


def test_calls_have_the_sizes_of_the_inputs():
    graph = graph_of(
        "s0, x, w",
        "t = torch.ops.aten.t.default(w)",
        "mm = torch.ops.aten.mm.default(x, t)",
        "full = torch.ops.aten.full.default([s0, 4], 1, dtype = torch.float32, device = device(type='cpu'))",
        "mm_1 = torch.ops.aten.mm.default(mm, full)",
        "return (mm_1,)",
    )
    made = list_calls(graph, (3, sizes_of(torch.ones(5, 2)), sizes_of(torch.ones(3, 2))), [])
    assert [(one.name, name_of(one.func)) for one in made] == [
        ("mm", "aten::mm"),
        ("full", "aten::full"),
        ("mm_1", "aten::mm"),
    ]
    assert [tuple(spec[0]) for spec in made[-1].given] == [(5, 3), (3, 4)]
    assert tuple(made[-1].outs[0][0]) == (5, 4)
    assert made[-1].device == "cpu"


def test_alike_calls_are_all_there():
    """Torch is asked once for sizes that it told before; the calls are as many all the same."""
    graph = graph_of("x", *[f"sin_{number} = torch.ops.aten.sin.default(x)" for number in range(3)], "return (sin_2,)")
    assert [one.name for one in list_calls(graph, (sizes_of(torch.ones(4)),), [])] == ["sin_0", "sin_1", "sin_2"]


def test_nobody_elses_mode_sees_the_sizes_being_found():
    """A user's own counter would count a step's work twice."""
    from torch.utils.flop_counter import FlopCounterMode

    graph = graph_of("x", "mm = torch.ops.aten.mm.default(x, x)", "return (mm,)")
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", dtype=torch.bfloat16):
        made = list_calls(graph, (sizes_of(torch.ones(4, 4)),), [])
    assert counter.get_total_flops() == 0
    assert made[0].outs[0][1] is torch.float32, "autocast is in the graph already"


def test_a_kernel_of_the_users_is_noted_by_its_name():
    graph = graph_of(
        "x",
        "wrapper = torch.ops.higher_order.triton_kernel_wrapper_functional(kernel_idx = 0, constant_args_idx = 0, "
        "grid = [(1, 1, 1)], tma_descriptor_metadata = {}, kwargs = {'out': x, 'n': 4}, tensors_to_clone = ['out'])",
        "getitem = wrapper['out']",
        "sin = torch.ops.aten.sin.default(getitem)",
        "return (sin,)",
    )
    made = list_calls(graph, (sizes_of(torch.ones(4)),), ["add_kernel"])
    assert [name_of(one.func) for one in made] == ["triton::add_kernel", "aten::sin"]
    assert made[0].outs == ((torch.Size([4]), torch.float32),)


def kernel_graph():
    return graph_of(
        "x",
        "wrapper = torch.ops.higher_order.triton_kernel_wrapper_functional(kernel_idx = 0, constant_args_idx = 0, "
        "grid = [(2, 1, 1)], tma_descriptor_metadata = {}, kwargs = {'out': x, 'n': 4}, tensors_to_clone = ['out'])",
        "getitem = wrapper['out']",
        "return (getitem,)",
    )


class Kernel:
    """A kernel as Triton has it, or what chooses among configurations of one."""

    def __init__(self, name=None, fn=None):
        if name is not None:
            self.__name__ = name
        if fn is not None:
            self.fn = fn


@pytest.mark.parametrize("namesakes", [1, 2])
def test_a_kernel_of_the_users_counts_at_what_its_author_registered_unless_two_have_its_name(monkeypatch, namesakes):
    """If this failed, a figure that torch's counter takes would be missing as soon as its caller is compiled."""
    kernels = [Kernel("add_kernel") for _ in range(namesakes)]
    table = triton_kernel_wrap.kernel_side_table
    monkeypatch.setattr(table, "id_to_kernel", dict(enumerate([Kernel(fn=kernels[0]), *kernels[1:]])))
    formula = lambda *, grid, kwargs, **_: 10 * grid[0][0] * kwargs["out"].numel()  # noqa: E731 # as users write them
    monkeypatch.setitem(flop_counter.flop_registry, kernels[0], formula)
    made = list_calls(kernel_graph(), (sizes_of(torch.ones(4)),), ["add_kernel"])
    if namesakes == 1:
        assert [(one.func, one.given, one.options) for one in made] == [
            ("triton::declared", ("add_kernel",), (("flops", 80),))
        ]
    else:
        assert [one.func for one in made] == ["triton::add_kernel"]


def test_what_depends_on_data_is_refused():
    """Sizes that only data tells must not be guessed."""
    graph = graph_of("x", "nonzero = torch.ops.aten.nonzero.default(x)", "return (nonzero,)")
    with pytest.raises(Exception, match=r"nonzero|meta"):
        list_calls(graph, (sizes_of(torch.ones(4)),), [])
