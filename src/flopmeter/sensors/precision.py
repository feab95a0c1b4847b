"""Precisions: our names of torch's storage types, and what torch may do to fp32 on a GPU.

Not here: the precision of a call, which follows from its operands (`formulas/call.py`).
"""

import torch

DTYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float8_e4m3fn: "fp8_e4m3",
    torch.float8_e5m2: "fp8_e5m2",
    torch.float8_e4m3fnuz: "fp8_e4m3fnuz",
    torch.float8_e5m2fnuz: "fp8_e5m2fnuz",
    torch.float8_e8m0fnu: "fp8_e8m0",
    torch.float4_e2m1fn_x2: "fp4",
}
_MATMULS = (
    *("mm", "addmm", "_addmm_activation", "bmm", "baddbmm", "addbmm", "linear", "_grouped_mm"),
    *("_native_multi_head_attention", "_transformer_encoder_layer_fwd"),
)
_CONVOLUTIONS = (
    *("convolution", "_convolution", "convolution_backward", "cudnn_convolution", "cudnn_convolution_transpose"),
    *("cudnn_convolution_relu", "cudnn_convolution_add_relu"),
)
TF32_OPS = {
    **dict.fromkeys([f"aten::{name}" for name in _MATMULS], "matmul"),
    **dict.fromkeys([f"aten::{name}" for name in _CONVOLUTIONS], "conv"),
    **dict.fromkeys(["aten::_cudnn_rnn", "aten::_cudnn_rnn_backward"], "rnn"),
}
"""Operators whose fp32 products a GPU may do in TF32, and torch's setting that allows it.

Vectors (`mv`, `dot`) are not among them: cuBLAS multiplies those without tensor cores.
"""
_FIRST_WITH_TF32 = (8, 0)
"""Compute capability of Ampere. Source: NVIDIA A100 whitepaper, 2020, section on TF32."""


def name_dtype(dtype: torch.dtype) -> str:
    """Return our name of a storage type; torch's own where ours is the same."""
    return DTYPES.get(dtype) or str(dtype).removeprefix("torch.")


def is_tf32_on(setting: str = "matmul") -> bool:
    """Ask whether torch lets a GPU do fp32 products in TF32, where the GPU can.

    `setting` is one of `matmul`, `conv`, `rnn`. The newer setting is asked first: reading the older one raises once
    the newer one was used.
    """
    backend = torch.backends.cuda.matmul if setting == "matmul" else getattr(torch.backends.cudnn, setting, None)
    chosen = getattr(backend, "fp32_precision", None)
    if not isinstance(chosen, str):
        older = torch.backends.cuda.matmul if setting == "matmul" else torch.backends.cudnn
        chosen = "tf32" if older.allow_tf32 else "ieee"
    return chosen == "tf32" and _has_tf32()


def _has_tf32() -> bool:
    return torch.cuda.is_initialized() and torch.cuda.get_device_capability() >= _FIRST_WITH_TF32
