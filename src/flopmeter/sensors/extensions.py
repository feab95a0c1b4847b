"""Kernels of C++ extensions that Python calls by themselves: noted by the name of module and function.

Stood in for as soon as their module is there: the functions that a module offers, not names that others took from it
before. Each is an operator `MODULE::FUNCTION`; those that have a price are read by what they were given, and of the
others it is noted that they ran: they are uncounted. A function that is given no tensor runs no kernel.
None of these libraries was run: their signatures were read (`docs/reference/libraries.md` names the versions), and the
tests have stand-ins with the same ones.
Not here: prices (`formulas/extension.py`), operators that the dispatcher is asked for, Triton (`triton_kernels.py`).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import torch

from flopmeter.sensors.captured import without_hooks
from flopmeter.sensors.current_recorder import Silence, recorder_here
from flopmeter.sensors.launches import launched, number_launch
from flopmeter.sensors.patches import Patches
from flopmeter.sensors.shadows import ANY_NUMBER, Key, flatten, shadow
from flopmeter.sensors.torch_ops import OpRecorder

EXTENSIONS = (
    *("amp_C", "deep_gemm", "fused_dense_cuda", "fused_layer_norm_cuda", "fused_rotary_positional_embedding"),
    *("fused_weight_gradient_mlp_cuda", "generic_scaled_masked_softmax_cuda", "grouped_gemm_backend", "mlp_cuda"),
    *("scaled_masked_softmax_cuda", "scaled_softmax_cuda", "scaled_upper_triang_masked_softmax_cuda"),
    *("selective_scan_cuda", "transformer_engine_torch", "xentropy_cuda"),
)
"""Modules of pybind11 (or nanobind) functions, and packages that hand such functions on."""
GRAPH_MAKERS = ("transformer_engine.pytorch", "transformer_engine.pytorch.graph")
"""Modules that make CUDA graphs of modules, and refuse those with hooks on them as torch does."""
PACKAGES = {"torch.export.pt2_archive._package": ("AOTICompiledModel", "torch.compile::package")}
"""Modules, the class in them of models that were compiled ahead and run without the dispatcher, and what those are
listed as: nothing tells what they run."""

_BUILT = ("builtin_function_or_method", "nb_func", "instancemethod")
_depth = torch._C._len_torch_dispatch_stack  # noqa: SLF001


class Reading(NamedTuple):
    """What is kept of a call: arguments and options in the order of its formula, and what came out; no tensor."""

    args: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...] = ()
    outs: tuple[Any, ...] = ()


Given = Sequence[Any]
Named = Mapping[str, Any]


def _read_any(given: Given, named: Named) -> Reading:
    """Keep the shapes of tensors alone: a number may be another one at each call, and nothing is priced by it."""
    return Reading(tuple(map(shadow, flatten([*given, *named.values()]))))


def _read_product(given: Given, named: Named) -> Reading:
    """Read `a, b, result, accumulator`, each perhaps a pair with its scales, as DeepGEMM and Apex have them."""
    values = [*given, *(named[name] for name in ("a", "b", "d") if name in named)]
    one, two, result = (_without_scales(value) for value in values[:3])
    return Reading((shadow(one), shadow(two), shadow(result), named.get("c") is not None))


def _read_grouped(given: Given, named: Named) -> Reading:
    """Read `a, b, c, batch_sizes, trans_a, trans_b` of grouped_gemm."""
    a, b, c = given[:3]
    sizes, *transposed = (*given[3:], named.get("trans_a", False), named.get("trans_b", False))[:3]
    return Reading((shadow(a), shadow(b), shadow(c), shadow(sizes), *map(bool, transposed)))


def _read_te_product(given: Given, _named: Named) -> Reading:
    """Read `A, transA, B, transB, D, quantizer, out_dtype, bias, bias_type, gelu, gelu_in, grad` and `accumulate`."""
    a, transposes_a, b, transposes_b, *_ = given
    ways = _ways(bias=given[7] is not None, gelu=given[9], grad=given[11], accumulate=given[14])
    return Reading((_look(a), bool(transposes_a), _look(b), bool(transposes_b), *_formats(a, b)), ways)


def _read_te_grouped(given: Given, _named: Named) -> Reading:
    """Read `A, transA, B, transB, D, D_type, m_splits, bias, bias_type, single_output, gelu_in, grad` and so on."""
    a, transposes_a, b, transposes_b, *_ = given
    has_bias, has_gelu = (any(_is_filled(item) for item in given[place] or ()) for place in (7, 10))
    ways = _ways(bias=has_bias, gelu=has_gelu, grad=given[11], accumulate=given[14])
    lists = (tuple(map(_look, a)), bool(transposes_a), tuple(map(_look, b)), bool(transposes_b))
    return Reading((*lists, *_formats(a[0], b[0])), ways)


def _read_adam(given: Given, named: Named) -> Reading:
    """Read `chunk_size, noop, lists, lr, beta1, beta2, eps, step, mode, bias_correction, weight_decay`."""
    decay = given[10] if len(given) > 10 else named.get("weight_decay")
    return Reading((tuple(map(shadow, given[2][0])), int(given[8]), 0 if decay == 0 else ANY_NUMBER))


DEEP_GEMM = (
    *(
        f"{kind}_gemm_{layout}"
        for kind in ("fp8", "bf16", "fp8_fp4", "cublaslt")
        for layout in ("nt", "nn", "tn", "tt")
    ),
    *(f"m_grouped_{kind}_gemm_{layout}_contiguous" for kind in ("fp8", "bf16", "fp8_fp4") for layout in ("nt", "nn")),
    *("k_grouped_fp8_gemm_nt_contiguous", "k_grouped_fp8_gemm_tn_contiguous", "k_grouped_bf16_gemm_tn_contiguous"),
)
READERS: dict[str, Callable[[Given, Named], Reading]] = {
    "fused_weight_gradient_mlp_cuda::wgrad_gemm_accum_fp32": _read_product,
    "fused_weight_gradient_mlp_cuda::wgrad_gemm_accum_fp16": _read_product,
    "grouped_gemm_backend::gmm": _read_grouped,
    "transformer_engine_torch::generic_gemm": _read_te_product,
    "transformer_engine_torch::te_general_grouped_gemm": _read_te_grouped,
    **{f"{module}::multi_tensor_adam": _read_adam for module in ("amp_C", "transformer_engine_torch")},
    **{f"deep_gemm::{name}": _read_product for name in DEEP_GEMM},
}
"""How to read the functions that have a price."""


def stand_in(patches: Patches, module_name: str, module: Any) -> None:
    """Stand in for the functions of a module that may run kernels."""
    if module_name in GRAPH_MAKERS:
        patches.put(module, "make_graphed_callables", without_hooks)
        return
    if module_name in PACKAGES:
        kind, op = PACKAGES[module_name]
        if hasattr(module, kind):
            patches.put(getattr(module, kind), "__call__", _maker(op))
        return
    is_package = hasattr(module, "__path__")
    for name, value in tuple(vars(module).items()):
        op = f"{module_name}::{name}"
        is_function = inspect.isroutine(value) or type(value).__name__ in _BUILT
        is_helper = is_package and isinstance(value, FunctionType) and op not in READERS
        if is_function and not is_helper and not name.startswith("_"):
            patches.put(module, name, _maker(op))


def _maker(op: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    number = number_launch(op)

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            launched.total += number
            if not _depth() or (recorder := recorder_here()) is None:
                return original(*args, **kwargs)
            return _run_noted(recorder, op, original, args, kwargs)

        return call

    return make


def _run_noted(recorder: OpRecorder, op: str, original: Callable[..., Any], args: Given, kwargs: Named) -> Any:
    """Run a function, and note it: with what it calls where it has no price, else that is part of it."""
    is_priced = recorder.book is not None and recorder.book.find(op) is not None
    with launched.span(), Silence(recorder) if is_priced else recorder.within(op):
        out = original(*args, **kwargs)
    recorder.note_bypass(
        lambda phase, inside: _keys_of(op, (args, kwargs), out, phase=phase, inside=inside),
        touched=(*args, *kwargs.values(), out),
    )
    return out


def _keys_of(
    op: str, given: tuple[Given, Named], out: Any, *, phase: str, inside: tuple[str, ...]
) -> Mapping[Key, int]:
    """Return the call as it is noted; nothing where it was given no tensor. Where it cannot be read it has no price."""
    outs = tuple(map(shadow, flatten(out)))
    try:
        reading = READERS.get(op, _read_any)(*given)
    except (TypeError, ValueError, IndexError, KeyError, AttributeError):  # a version with another signature
        reading = _read_any(*given)
    if not _has_tensor(reading.args):
        return {}
    return {(op, phase, reading.args, reading.options, outs, "", inside): 1}


def _has_tensor(value: Any) -> bool:
    if isinstance(value, torch.dtype):
        return True
    return isinstance(value, tuple) and any(map(_has_tensor, value))


def _without_scales(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) else value


def _ways(**ways: Any) -> tuple[tuple[str, bool], ...]:
    return tuple((name, bool(way)) for name, way in ways.items())


def _is_filled(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() > 0


def _look(tensor: Any) -> Any:
    """Return shape and type of a tensor, be it one of Transformer Engine's, which say their size alone."""
    if isinstance(tensor, torch.Tensor):
        return (tuple(tensor.shape), tensor.dtype)
    return (tuple(tensor.size()), torch.uint8)


def _formats(*tensors: Any) -> tuple[str, ...]:
    return tuple(map(_name_format, tensors))


def _name_format(tensor: Any) -> str:
    """Return the precision of a quantized tensor of Transformer Engine, which its class and its type tell; else ''."""
    kind, code = type(tensor).__name__, str(getattr(tensor, "_fp8_dtype", ""))
    if kind.startswith("MXFP8"):
        return "mxfp8"
    if kind.startswith("NVFP4"):
        return "nvfp4"
    if kind.startswith("Float8"):
        return "fp8_e4m3" if "E4M3" in code else "fp8_e5m2" if "E5M2" in code else "unknown"
    return ""
