"""Precisions: names of types, and TF32 as torch's old and new settings have it."""

import pytest
import torch

from flopmeter.sensors import precision
from flopmeter.sensors.precision import is_tf32_on, name_dtype


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float32, "fp32"),
        (torch.bfloat16, "bf16"),
        (torch.float8_e5m2, "fp8_e5m2"),
        (torch.float8_e8m0fnu, "fp8_e8m0"),
        (torch.float4_e2m1fn_x2, "fp4"),
        (torch.int64, "int64"),
        (torch.complex64, "complex64"),
    ],
)
def test_a_type_is_named_as_the_contract_names_it(dtype, name):
    assert name_dtype(dtype) == name


@pytest.fixture
def ampere(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    generic, matmul = torch.backends.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    cudnn = torch.backends.cudnn.allow_tf32
    yield
    torch.backends.fp32_precision, torch.backends.cuda.matmul.fp32_precision = generic, matmul
    torch.backends.cudnn.allow_tf32 = cudnn


@pytest.mark.usefixtures("ampere")
def test_convolutions_are_in_tf32_unless_somebody_says_no_and_products_are_not():
    """Else every convolution of a run on a GPU is written down in a precision that it did not have."""
    assert (is_tf32_on("matmul"), is_tf32_on("conv"), is_tf32_on("rnn")) == (False, True, True)
    torch.backends.cudnn.allow_tf32 = False
    assert (is_tf32_on("conv"), is_tf32_on("rnn")) == (False, False)


@pytest.mark.usefixtures("ampere")
def test_the_older_and_the_newer_setting_are_both_heard():
    torch.backends.cuda.matmul.allow_tf32 = True
    assert is_tf32_on("matmul")
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    assert not is_tf32_on("matmul")
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert is_tf32_on("matmul")


def test_a_torch_without_the_newer_setting_is_asked_the_older_way(monkeypatch):
    class Old:
        allow_tf32 = True

    monkeypatch.setattr(torch.backends.cuda, "matmul", Old)
    monkeypatch.setattr(precision, "_has_tf32", lambda: True)
    assert is_tf32_on("matmul")


def test_a_gpu_before_ampere_has_no_tf32(monkeypatch):
    """Else a run on an older GPU shows work in a precision that its devices do not know."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert not is_tf32_on("conv")
