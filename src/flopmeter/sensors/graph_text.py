"""Graphs as torch writes them down beside compiled code: read, and run again call by call.

Inductor keeps the text of each graph that it compiled, forward and backward apart, with the code and in its cache. So
what a compiled region runs can be read wherever the code itself is found, whoever compiled it, and nothing is traced,
kept or cached for it by us. Two texts are there: a program to run the graph again (`runnable`), from before Inductor's
last passes, and a listing for people from after them (`listing`), which alone has the graphs inside of the graph.
Not here: what is done with the calls (`region_calls.py`), which code is running (`regions.py`).
"""

import ast
import math
import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import torch

_STEP = "step_"
"""Each named value `x = f(y)` becomes `x = self.step_("x", f, y)`."""
_NAME = re.compile(r"^\s+(\w+)(?:\s*:\s*\S.*?)? = (?!None\b)", re.MULTILINE)
_MADE = re.compile(r"^\s+(\w+) = ((?!None\b)[^;\n]+)", re.MULTILINE)
_INPUTS = re.compile(r"^\s+def forward\(self,?([^)]*)\)", re.MULTILINE)
_RETURN = re.compile(r"^\s+return (.*)$", re.MULTILINE)
_TYPE = re.compile(r'\s*:\s*"[^"\n]*"')
_SIZES = re.compile(r'(\w+)\s*:\s*"(\w+\[[^\]\n]*\])')
"""Of a listing: the kind and the sizes of a value; not how it lies in memory, which may yet change."""
_KERNEL = re.compile(r"kernel_side_table\.add_kernel\((\w+?)(?:_\d+)?\)")

RESTORED = "run_with_rng_state"
"""What runs an operator again with the random state that it had."""

Step = Callable[..., Any]
"""Called with the name of a value, the function that makes it, and what that is given."""


class GraphNames:
    """What a text calls the values of its graph; read without running anything.

    The two graphs of one function call the same value the same, which tells what a backward computes again.
    """

    def __init__(self, runnable: str, listing: str = "") -> None:
        """Look through the text; torch 2.14 writes the listing alone."""
        text = _program(runnable) or _TYPE.sub("", listing)
        body = text[begin.end() :] if (begin := _INPUTS.search(text)) is not None else ""
        returned = _RETURN.findall(body)
        self.inputs = frozenset(re.findall(r"\w+", begin.group(1))) if begin is not None else frozenset()
        self.made = frozenset(_NAME.findall(body))
        self.returned = tuple(re.findall(r"[A-Za-z_]\w*", returned[-1])) if returned else ()
        is_listed = not _program(runnable)
        self._lines: dict[str, str] = dict(_MADE.findall(body)) if is_listed else {}
        self.sizes: dict[str, str] = dict(_SIZES.findall(listing)) if is_listed else {}

    def is_forward_of(self, backward: "GraphNames") -> bool:
        """Say whether what this graph hands out beside its results is what the other is given beside gradients.

        States of random numbers are called otherwise here and there. Graphs of one function for several sizes call all
        values the same; listings tell them apart by these sizes.
        """
        asked = {name for name in backward.inputs if not name.startswith(("tangents", "bwd_"))}
        states = {name for name in asked if name.startswith("rng_state")}
        handed = set(self.returned[max(0, len(self.returned) - len(asked)) :])
        are_alike = all(self.sizes.get(name) == backward.sizes.get(name) for name in asked - states)
        return are_alike and asked - states <= handed and len(handed - asked) <= len(states)

    def again(self, forward: "GraphNames") -> frozenset[str]:
        """Return the values of this graph that the other one computed, too.

        In a listing values may be named anew: there it is told by what they are computed from.
        """
        restored = {name for name in self.made if RESTORED in name}
        if not self._lines:
            return (self.made & forward.made) | restored
        known = set(forward.meanings(self.inputs).values())
        return frozenset(name for name, meaning in self.meanings(self.inputs).items() if meaning in known) | restored

    def meanings(self, given: frozenset[str]) -> dict[str, str]:
        """Return each value as it is computed from those that are `given`, by their names."""
        found: dict[str, str] = {}
        digests: dict[str, str] = {}
        for name, line in self._lines.items():
            meaning = re.sub(r"(?<![\w.])[A-Za-z_]\w*", lambda word: digests.get(word[0], word[0]), line)
            found[name] = blake2b(meaning.encode(), digest_size=16).hexdigest()
            digests[name] = name if name in given else found[name]
        return found


class Graph:
    """A graph that can be run; `inputs` are the names of what it is given, in order."""

    def __init__(self, function: ast.FunctionDef, parts: dict[str, "Graph"], constants: dict[str, Any]) -> None:
        """Take a function of a text."""
        self.parts = parts
        self.constants = constants
        self.inputs = tuple([argument.arg for argument in function.args.args[1:]])
        tree = ast.Module([_Rewriter().visit(function)], type_ignores=[])
        space: dict[str, Any] = dict(_SPACE)
        exec(compile(tree, "<graph>", "exec"), space)  # noqa: S102 # torch's own text
        self.forward: Callable[..., Any] = space["forward"]

    def run(self, step: Step, inputs: tuple[Any, ...]) -> Any:
        """Run the graph, each of its calls by way of `step`."""
        return self.forward(_Self(self, step), *inputs)


class _Self:
    """Stands for the module that the text belongs to."""

    def __init__(self, graph: Graph, step: Step) -> None:
        self._graph = graph
        self.step_ = step

    def __getattr__(self, name: str) -> Any:
        if name in self._graph.parts:
            return _Self(self._graph.parts[name], self.step_)
        code = self._graph.constants[name]
        kept = eval(code, dict(_SPACE))  # noqa: S307 # as above
        return kept.to("meta") if isinstance(kept, torch.Tensor) else kept

    def __call__(self, *inputs: Any) -> Any:
        return self._graph.run(self.step_, inputs)


class _Rewriter(ast.NodeTransformer):
    """Lets each call that makes a named value go by way of `step_`; types are left out."""

    def visit_FunctionDef(self, function: ast.FunctionDef) -> ast.AST:  # the name that `ast` calls
        for argument in function.args.args:
            argument.annotation = None
        function.returns = None
        return self.generic_visit(function)

    def visit_AnnAssign(self, assign: ast.AnnAssign) -> ast.AST:
        value = assign.value or ast.Constant(None, **_place(assign))
        return self.visit_Assign(ast.Assign([assign.target], value, **_place(assign)))

    def visit_Assign(self, assign: ast.Assign) -> ast.AST:
        target, value = assign.targets[0], assign.value
        if isinstance(target, ast.Name) and isinstance(value, ast.Call):
            place = _place(value)
            step = ast.Attribute(ast.Name("self", ast.Load(), **place), _STEP, ast.Load(), **place)
            name = ast.Constant(target.id, **place)
            assign.value = ast.Call(step, [name, value.func, *value.args], value.keywords, **place)
        return assign


def _place(node: ast.stmt | ast.expr) -> dict[str, Any]:
    """Return where a node stands, for those that take its place; to find out for a whole text takes as long again."""
    return {"lineno": node.lineno, "col_offset": node.col_offset}


_SPACE = {
    "torch": torch,
    "device": torch.device,
    "tensor": torch.tensor,
    "inf": math.inf,
    "nan": math.nan,
    "math": math,
    "NoneType": type(None),
}


def read_graph(runnable: str, listing: str) -> Graph:
    """Return the graph of a text, from before Inductor's last passes where that text is whole.

    Raises:
        SyntaxError: neither is one that can be read.
    """
    text = _program(runnable)
    constants: dict[str, Any] = {}
    if text:
        try:
            whole = _read_class(ast.parse(text).body[0])
        except SyntaxError:  # a graph inside of the graph, of which this text has no more than that it is there
            pass
        else:
            if whole is not None and _is_whole(text, whole):
                return whole
            constants = whole.constants if whole is not None else {}
    begin = listing.find("class ")
    tree = ast.parse(re.sub(r"^(\s*)class <\w+>\(", r"\1class Main(", listing[max(0, begin) :], flags=re.MULTILINE))
    graph = _read_class(tree.body[0])
    if graph is None:
        msg = "no graph in this text"
        raise SyntaxError(msg)
    graph.constants.update(constants)
    return graph


def _program(runnable: str) -> str:
    """Cut out of a text what is the graph; empty where torch wrote none."""
    begin = runnable.find("class Repro(")
    end = runnable.find("\ndef load_args(", begin)
    return "" if begin < 0 else runnable[begin : end if end >= 0 else None]


def _read_class(node: ast.stmt) -> Graph | None:
    body = node.body if isinstance(node, ast.ClassDef) else []
    functions = {each.name: each for each in body if isinstance(each, ast.FunctionDef)}
    parts = {each.name: part for each in body if isinstance(each, ast.ClassDef) and (part := _read_class(each))}
    if "forward" not in functions:
        return None
    begin = functions.get("__init__")
    return Graph(functions["forward"], parts, _read_constants(begin.body if begin is not None else []))


def _read_constants(body: list[ast.stmt]) -> dict[str, Any]:
    """Find the tensors that a graph keeps: `self.register_buffer(NAME, VALUE)` and `self.NAME = VALUE`."""
    found: dict[str, Any] = {}
    for each in body:
        key, value = None, None
        if isinstance(each, ast.Expr) and isinstance(each.value, ast.Call) and len(each.value.args) == 2:
            key, value = getattr(each.value.args[0], "value", None), each.value.args[1]
        elif isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Attribute):
            key, value = each.targets[0].attr, each.value
        if value is not None and isinstance(key, str) and ast.unparse(value).startswith(("torch.", "tensor(")):
            found[key] = compile(ast.Expression(value), "<constant>", "eval")
    return found


def _is_whole(text: str, graph: Graph) -> bool:
    """Say whether a graph has all that its text takes from `self`."""
    asked = set(re.findall(r" = self\.(\w+)", text))
    return asked <= graph.constants.keys() | graph.parts.keys()


def kernels_of(runnable: str) -> list[str]:
    """Return the names of the Triton kernels that a graph starts, by their number."""
    return _KERNEL.findall(runnable)
