"""Every operator of torch that can reach the recorder is priced, or stands in a short list with a reason.

A new torch that adds operators fails here, by name.
"""

import itertools

import pytest
import torch

from flopmeter.formulas.book import FormulaBook

BOOK = FormulaBook.standard()
STATES = ("complex", "sparse", "sparse_complex", "nested")
COMPOSITE = "CompositeImplicitAutograd"

NOT_PRICED = {
    "aten::_foobar": "torch's own tests call it",
    "aten::_test_autograd_multiple_dispatch": "torch's own tests call it",
    "aten::_test_autograd_multiple_dispatch_view": "torch's own tests call it",
    "aten::_test_autograd_multiple_dispatch_view_copy": "torch's own tests call it",
    "aten::_test_functorch_fallback": "torch's own tests call it",
    "aten::_test_optional_filled_intlist": "torch's own tests call it",
    "aten::_test_optional_floatlist": "torch's own tests call it",
    "aten::_test_optional_intlist": "torch's own tests call it",
    "aten::_test_parallel_materialize": "torch's own tests call it",
    "aten::_test_warn_in_autograd": "torch's own tests call it",
    "aten::_triton_multi_head_attention": "a name without a kernel: its body raises",
    "aten::_triton_scaled_dot_attention": "a name without a kernel: its body raises",
    "aten::_cslt_sparse_mm_search": "times several kernels to choose one: how often it runs each is its own affair",
    "aten::_nested_select_backward": "nested tensors outside of transformer layers, listed as nested::…",
    "aten::_nested_sum_backward": "nested tensors outside of transformer layers, listed as nested::…",
    "aten::_nested_tensor_softmax_with_shape": "nested tensors outside of transformer layers, listed as nested::…",
    "aten::quantized_gru": "evaluation of quantized models: packed weights show no sizes",
    "aten::quantized_lstm": "evaluation of quantized models: packed weights show no sizes",
    "aten::_spsolve": "a sparse factorization: how much it fills in follows from where the values are",
}
"""Operators that are left uncounted, and why. None does work in a training run that anything else would show."""

OTHER_VERSIONS = {
    "aten::_cudnn_attention_forward_no_dropout_inplace",
    "aten::linalg_matrix_sqrth",
    "aten::linalg_polar",
    "aten::shallow_copy_data",
}
"""Rows of the book for operators that newer versions of torch have."""


def is_registered(name):
    """Say whether the dispatcher knows an operator; TorchScript has schemas of its own that it does not."""
    try:
        torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")
    except RuntimeError:
        return False
    return True


def arrives_whole(name):
    """Say whether an operator reaches a dispatch mode, or is taken apart before that.

    One that torch builds of others is taken apart, unless its gradient is a kernel of its own.
    """
    if not torch._C._dispatch_has_kernel_for_dispatch_key(name, COMPOSITE):
        return True
    table = torch._C._dispatch_dump_table(name).splitlines()
    return not any(line.startswith("AutogradCPU:") and "math kernel" in line for line in table)


def walk():
    """Return the names of all operators of torch that can arrive, without overloads."""
    found = set()
    for schema in torch._C._jit_get_all_schemas():
        full = f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name
        if schema.name.startswith("aten::") and is_registered(full) and arrives_whole(full):
            found.add(schema.name)
    return sorted(found)


OPERATORS = walk()


def is_priced(name):
    """Say whether the book has a row for an operator, in whatever state its tensors are."""
    plain = name.removesuffix("_") if not name.endswith("__") else name
    spelled = {name, plain}
    states = itertools.product(STATES, spelled)
    return bool(BOOK.find(name)) or any(f"{state}::{one.replace('::', '.')}" in BOOK.entries for state, one in states)


def test_the_walk_finds_what_models_call():
    """Else an empty walk finds nothing missing."""
    assert {"aten::mm", "aten::convolution", "aten::native_layer_norm", "aten::add_", "aten::silu_backward"} <= set(
        OPERATORS
    )
    assert not {"aten::conv2d", "aten::einsum", "aten::cross_entropy_loss", "aten::layer_norm"} & set(OPERATORS)
    assert len(OPERATORS) > 1000


def test_every_operator_is_priced_or_has_a_reason():
    """Else a model that uses it has work nobody counted, and nobody was told before the run."""
    assert [name for name in OPERATORS if not is_priced(name) and name not in NOT_PRICED] == []


@pytest.mark.parametrize("name", NOT_PRICED)
def test_what_has_a_reason_has_no_price(name):
    """Else the list goes on after its reason is gone."""
    assert not is_priced(name)


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="other releases have other names")
def test_names_in_the_book_are_names_of_torch():
    """Else a misspelled row is never found, and the operator that it meant is uncounted."""
    known = {schema.name for schema in torch._C._jit_get_all_schemas()}
    known |= {name.removesuffix("_") for name in known}
    named = set()
    for name in BOOK.entries:
        state, _, rest = name.partition("::")
        named.add(rest.replace(".", "::", 1) if state in STATES else name)
    unknown = {name for name in named if name.startswith("aten::")} - known
    assert unknown <= OTHER_VERSIONS
