"""Texts of graphs as Inductor keeps them: read, and run call by call."""

import pytest
import torch

from flopmeter.sensors.graph_text import GraphNames, kernels_of, read_graph

RUNNABLE = """
import torch
torch._higher_order_ops.triton_kernel_wrap.kernel_side_table.add_kernel(add_kernel_0)
ERROR: Repro will not work as intended

from torch.nn import *
class Repro(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('_tensor_constant0', tensor([1., 2.]))



    def forward(self, primals_1, primals_2):
        mm = torch.ops.aten.mm.default(primals_1, primals_2)
        getitem = (mm, mm)[0];  mm = None
        _tensor_constant0 = self._tensor_constant0;  _tensor_constant0 = None
        add = torch.ops.aten.add.Tensor(getitem, inf)
        return (add, primals_1, primals_2, getitem)

def load_args(reader):
    buf0 = reader.storage(None, 16)
mod = Repro()
"""
BACKWARD = """
class Repro(torch.nn.Module):
    def forward(self, primals_1, primals_2, getitem, tangents_1):
        add = torch.ops.aten.add.Tensor(getitem, inf)
        mul = torch.ops.aten.mul.Tensor(tangents_1, add);  tangents_1 = add = None
        return (mul, None)

def load_args(reader):
"""
NESTED = """
class Repro(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = <lambda>()

    def forward(self, arg0_1):
        part = self.part
        invoke_subgraph = torch.ops.higher_order.invoke_subgraph(part, 'part', arg0_1);  part = arg0_1 = None
        return (invoke_subgraph,)

def load_args(reader):
"""
LISTING = """
class <lambda>(torch.nn.Module):
    def forward(self, arg0_1: "f32[2][1]cpu"):
        # File: somewhere.py:1 in f, code: x.sin()
        part = self.part
        invoke_subgraph = torch.ops.higher_order.invoke_subgraph(part, 'part', arg0_1);  part = arg0_1 = None
        getitem: "f32[2][1]cpu" = invoke_subgraph[0];  invoke_subgraph = None
        return (getitem,)

    class part(torch.nn.Module):
        def forward(self, arg0_1: "f32[2][1]cpu"):
            sin: "f32[2][1]cpu" = torch.ops.aten.sin.default(arg0_1);  arg0_1 = None
            return (sin,)
"""


def run(graph, *inputs):
    made = []

    def step(name, func, *args, **kwargs):
        made.append(name)
        return args[0](*args[2:]) if name == "invoke_subgraph" else func(*args, **kwargs)

    return graph.run(step, inputs), made


def test_a_graph_is_run_by_its_text():
    """Every figure of a compiled model rests on this."""
    x = torch.eye(2)
    graph = read_graph(RUNNABLE, "")
    (out, *_), made = run(graph, x, x)
    assert made == ["mm", "add"]
    assert out.isinf().all()
    assert graph.inputs == ("primals_1", "primals_2")


def test_a_graph_inside_of_a_graph_is_found_in_the_listing():
    """Else regions of `nested_compile_region` and the like would be uncounted."""
    (out,), made = run(read_graph(NESTED, LISTING), torch.ones(2))
    assert made == ["invoke_subgraph", "sin"]
    assert torch.equal(out, torch.ones(2).sin())


@pytest.mark.parametrize("runnable", ["", "Repro is not generated due to existence of BackwardState in graph input"])
def test_a_text_without_a_graph_is_refused(runnable):
    with pytest.raises((SyntaxError, IndexError)):
        read_graph(runnable, "")


def test_names_tell_which_forward_belongs_to_a_backward():
    """Else what one model's backward computes again would be told by another's forward."""
    forward, backward = GraphNames(RUNNABLE), GraphNames(BACKWARD)
    assert forward.is_forward_of(backward)
    assert not backward.is_forward_of(forward)
    assert not GraphNames(RUNNABLE.replace("getitem", "item")).is_forward_of(backward)
    assert forward.made & backward.made == {"add"}


def test_a_listing_tells_what_is_computed_again_though_it_is_named_anew():
    """Else on torch 2.14, which writes no more than listings, what is computed again would pass for backward."""
    line = '            {}: "f32[2][1]cpu" = torch.ops.aten.{}.default({});  {} = None\n'
    head = "class GraphModule(torch.nn.Module):\n        def forward(self, {}):\n"
    forward = head.format('primals_1: "f32[2][1]cpu"') + line.format("sin", "sin", "primals_1", "x")
    forward += line.format("mul", "mul", "sin, 0.5", "x") + line.format("exp", "exp", "mul", "x")
    forward += "            return (exp, sin)\n"
    backward = head.format('sin: "f32[2][1]cpu", tangents_1: "f32[2][1]cpu"') + line.format(
        "mul_7", "mul", "sin, 0.5", "x"
    )
    backward += line.format("exp_1", "exp", "mul_7", "x") + line.format("mul_8", "mul", "mul, exp_1", "x")
    backward += "            return (mul_8,)\n"
    one, other = GraphNames("", forward), GraphNames("", backward)
    assert one.is_forward_of(other)
    assert other.again(one) == {"mul_7", "exp_1"}


def test_listings_of_one_function_for_several_sizes_are_told_apart():
    """Else on torch 2.14 a backward would find several forwards, and what it computes again would pass for backward."""
    forward = """class GraphModule(torch.nn.Module):
    def forward(self, primals_1: "f32[9, 2][2, 1]cpu"):
        view: "f32[18][1]cpu" = torch.ops.aten.reshape.default(primals_1, [18]);  primals_1 = None
        sin: "f32[18][1]cpu" = torch.ops.aten.sin.default(view)
        return (sin, view)
"""
    backward = """class GraphModule(torch.nn.Module):
    def forward(self, view: "f32[18][2]cpu", tangents_1: "f32[18][1]cpu"):
        cos: "f32[18][1]cpu" = torch.ops.aten.cos.default(view);  view = None
        return (cos,)
"""
    backward = GraphNames("", backward)
    assert GraphNames("", forward).is_forward_of(backward)
    assert not GraphNames("", forward.replace("9", "12").replace("18", "24")).is_forward_of(backward)


def test_kernels_are_called_by_their_names():
    assert kernels_of(RUNNABLE) == ["add_kernel"]
