"""Kernels that Python calls in C++ extensions: noted by name, priced where they are known, uncounted where not.

None of the libraries is here: stand-ins have the same names and signatures, and do the work with torch's operators.
"""

import gc
import sys
import warnings
from contextlib import contextmanager
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from versions import since_2_10  # noqa: E402

from flopmeter.account import Account  # noqa: E402
from flopmeter.formulas.book import FormulaBook  # noqa: E402
from flopmeter.formulas.extension import FORMULAS  # noqa: E402
from flopmeter.meter import Meter  # noqa: E402
from flopmeter.sensors.extensions import READERS  # noqa: E402
from flopmeter.sensors.launches import launched  # noqa: E402

T, K, N = 6, 8, 5


@pytest.fixture
def library(monkeypatch):
    """Load a stand-in for a library; afterwards its functions must be its own."""
    loaded = []

    def load(name, *, is_package=False, **functions):
        module = ModuleType(name)
        if is_package:
            module.__path__ = []
        for attribute, function in functions.items():
            setattr(module, attribute, function)
        monkeypatch.setitem(sys.modules, name, module)
        loaded.append((module, functions))
        return module

    yield load
    for module, functions in loaded:
        assert {name: getattr(module, name) for name in functions} == functions


def wgrad_gemm_accum_fp32(input, d_output, d_weight):  # noqa: A002  # as Apex has it
    rows = input.reshape(-1, input.shape[-1])
    d_weight.add_((d_output.reshape(-1, d_output.shape[-1]).t() @ rows).to(d_weight.dtype))


class MegatronLinear(torch.autograd.Function):
    """A linear layer whose weight gradient goes straight into the main gradient, as in Megatron."""

    @staticmethod
    def forward(ctx, x, weight, main_grad):
        ctx.save_for_backward(x, weight)
        ctx.main_grad = main_grad
        return x @ weight.t()

    @staticmethod
    def backward(ctx, grad):
        import fused_weight_gradient_mlp_cuda

        x, weight = ctx.saved_tensors
        fused_weight_gradient_mlp_cuda.wgrad_gemm_accum_fp32(x, grad, ctx.main_grad)
        return grad @ weight, None, None


class Megatron(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(K, K), nn.Linear(K, N)
        self.main_grad = torch.zeros(N, K)
        self.times = [1]

    def forward(self, x):
        x = self.first(x)
        for _ in range(self.times[0]):
            out = MegatronLinear.apply(x, self.second.weight, self.main_grad)
        return out


def of_extensions(account: Account):
    return {op: tally for op, tally in account.tally.by("op").items() if not op.startswith("aten::")}


def test_weight_gradients_that_apex_adds_up_are_counted_in_the_backward(library, replayed_truly):
    """Megatron calls it by default: without, a third of its products is missing and nothing says so."""
    library("fused_weight_gradient_mlp_cuda", wgrad_gemm_accum_fp32=wgrad_gemm_accum_fp32)

    def program(meter):
        model, x = Megatron(), torch.ones(T, K)
        meter.watch(model)
        for _ in range(48):
            model(x).sum().backward()
            meter.step()

    account = replayed_truly(program)
    (found,) = of_extensions(account).values()
    assert {part.op: part.phase for part in found.counts} == {
        "fused_weight_gradient_mlp_cuda::wgrad_gemm_accum_fp32": "backward"
    }
    assert found.contraction_flop == 48 * 2 * T * K * N
    assert found.select(kind="pointwise").flop == 48 * N * K
    first_layer = 2 * T * K * K
    assert account.tally.select(phase="backward").contraction_flop == 48 * (2 * 2 * T * K * N + first_layer), (
        "what the stand-in does with torch's own product is not counted once more"
    )


def test_a_call_that_is_noted_is_marked_for_a_census(library, metered, monkeypatch):
    """If this failed, a census would list each kernel of a known library a second time."""
    marks = []

    @contextmanager
    def span():
        marks.append("begin")
        yield
        marks.append("end")

    monkeypatch.setattr(launched, "span", span)
    apex = library("amp_C", multi_tensor_scale=lambda x: marks.append("call"))
    metered(lambda _: apex.multi_tensor_scale(torch.ones(2)), exact=True)
    assert marks == ["begin", "call", "end"]


def test_another_number_of_calls_is_another_witness(library, replayed_truly):
    """Else a passage with three launches is booked as the one with one that was counted."""
    apex = library("fused_weight_gradient_mlp_cuda", wgrad_gemm_accum_fp32=wgrad_gemm_accum_fp32)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.times = nn.Linear(K, K), [1]

        def forward(self, x):
            for _ in range(self.times[0]):
                apex.wgrad_gemm_accum_fp32(x, x, torch.zeros(K, K))
            return self.inner(x)

    def program(meter):
        model, x = Model(), torch.ones(T, K)
        meter.watch(model)
        for step in range(64):
            model.times[0] = 1 + step % 2
            model(x).sum().backward()
            meter.step()

    account = replayed_truly(program)
    (found,) = of_extensions(account).values()
    assert found.calls == 32 * (1 + 2)


def test_a_library_that_is_loaded_in_the_middle_is_heard_of_at_once(tmp_path, monkeypatch, metered):
    """Most are loaded by the first forward: what they launch in it counts like everything else."""
    name = "fused_weight_gradient_mlp_cuda"
    (tmp_path / f"{name}.py").write_text("def wgrad_gemm_accum_fp32(input, d_output, d_weight): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def program(meter):
        module = __import__(name)
        module.wgrad_gemm_accum_fp32(torch.ones(T, K), torch.ones(T, N), torch.zeros(N, K))

    try:
        account = metered(program, exact=True)
    finally:
        del sys.modules[name]
    assert account.tally.contraction_flop == 2 * T * K * N


def test_functions_that_have_no_price_are_uncounted_with_their_calls(library, metered):
    """A pybind function that nobody knows must be in the record: uncounted, not zero. Numbers it was given are not."""
    tex = library("transformer_engine_torch", rmsnorm_fwd=lambda x, w, eps: (x * w, x.sum(-1)), get_version=lambda: 3)

    def program(meter):
        for number in range(3):
            tex.rmsnorm_fwd(torch.ones(T, K), torch.ones(K), number / 7)
            assert tex.get_version() == 3

    account = metered(program, exact=True)
    assert [(seen.op, seen.calls, seen.elements) for seen in account.tally.uncounted] == [
        ("transformer_engine_torch::rmsnorm_fwd", 3, 3 * (T * K + T))
    ]
    assert account.tally.flop == 3 * (T * K + T * (K - 1)), "what it calls through the dispatcher is counted besides"


def test_a_model_that_was_compiled_ahead_is_uncounted(tmp_path, monkeypatch):
    """Its code asks no dispatcher for anything: without, a run that serves such models has done nothing."""

    class AOTICompiledModel:
        def __call__(self, x):
            return x

    module = ModuleType("torch.export.pt2_archive._package")
    module.AOTICompiledModel = AOTICompiledModel
    monkeypatch.setitem(sys.modules, module.__name__, module)
    plain = AOTICompiledModel.__call__
    with Meter(tmp_path, exact=True) as meter:
        AOTICompiledModel()(torch.ones(T, K))
    assert AOTICompiledModel.__call__ is plain
    assert [(seen.op, seen.calls, seen.elements) for seen in meter.account().tally.uncounted] == [
        ("torch.compile::package", 1, T * K)
    ]


def test_a_formula_of_ones_own_prices_such_a_function_with_all_that_it_calls(library, tmp_path):
    tex = library("transformer_engine_torch", rmsnorm_fwd=lambda x, w, eps: (x * w, x.sum(-1)))
    book = FormulaBook.standard().with_formula(
        "transformer_engine_torch::rmsnorm_fwd", lambda call: 4 * call.tensor(0).size, kind="normalization"
    )
    with Meter(tmp_path, book=book, exact=True) as meter:
        tex.rmsnorm_fwd(torch.ones(T, K), torch.ones(K), 1e-5)
    tally = meter.account().tally
    assert (tally.flop, tally.uncounted) == (4 * T * K, ())


def test_grouped_products_are_counted_all_ways_round(library, metered):
    gemm = library("grouped_gemm_backend", gmm=lambda a, b, c, batch_sizes, trans_a, trans_b: None)
    a, sizes = torch.ones(T, K), torch.tensor([2, 4])

    def program(meter):
        gemm.gmm(a, torch.ones(2, K, N), torch.ones(T, N), sizes, False, False)
        gemm.gmm(a, torch.ones(2, N, K), torch.ones(T, N), sizes, False, True)
        gemm.gmm(a, torch.ones(T, N), torch.ones(2, K, N), sizes, True, False)

    account = metered(program, exact=True)
    assert account.tally.contraction_flop == 3 * 2 * T * K * N
    assert not account.tally.uncounted


def generic_gemm(A, transA, B, transB, D, quantizer, output_dtype, bias, bias_type, gelu, gelu_in, grad, *rest, **comm):
    return [D, None, None, None]


class Float8Tensor:
    """A quantized tensor of Transformer Engine as far as it says its size and its type."""

    def __init__(self, code, *shape):
        self._fp8_dtype, self._shape = f"DType.kFloat8{code}", shape

    def size(self):
        return torch.Size(self._shape)


class MXFP8Tensor(Float8Tensor):
    pass


def call_te(tex, a, transa, b, transb, *, bias=None, grad=False, gelu=False, accumulate=False, out=None):
    work = torch.empty(4)
    return tex.generic_gemm(
        a,
        transa,
        b,
        transb,
        out,
        None,
        None,
        bias,
        None,
        gelu,
        None,
        grad,
        work,
        4,
        accumulate,
        True,
        comm_overlap=None,
    )


def test_products_of_transformer_engine_are_counted_forward_and_backward(library, metered):
    """Its layers call no operator of torch for their products: without, such a model has next to none."""
    tex = library("transformer_engine_torch", generic_gemm=generic_gemm)
    x, w, dy = torch.ones(2, 3, K), torch.ones(N, K), torch.ones(2, 3, N)

    def program(meter):
        call_te(tex, w, True, x, False, bias=torch.ones(N), out=torch.ones(2, 3, N))  # y = x·wᵀ + b
        call_te(tex, w, False, dy, False, grad=True)  # dx = dy·w
        call_te(tex, x, False, dy, True, grad=True, bias=torch.ones(N), accumulate=True)  # dw += dyᵀ·x

    tally = metered(program, exact=True).tally
    assert tally.contraction_flop == 3 * 2 * T * K * N
    assert tally.select(kind="pointwise").flop == T * N + N * K
    assert tally.uncounted == ()


@pytest.mark.parametrize(
    ("a", "b", "precision"),
    [
        (Float8Tensor("E4M3", N, K), Float8Tensor("E4M3", T, K), "fp8_e4m3"),
        (Float8Tensor("E4M3", N, K), Float8Tensor("E5M2", T, K), "fp8_e4m3*fp8_e5m2"),
        (MXFP8Tensor("E4M3", N, K), MXFP8Tensor("E4M3", T, K), "mxfp8"),
        (torch.ones(N, K, dtype=torch.bfloat16), torch.ones(T, K, dtype=torch.bfloat16), "bf16"),
    ],
)
def test_the_precision_is_that_of_the_operands(library, metered, a, b, precision):
    """It decides which peak the figure is held against."""
    tex = library("transformer_engine_torch", generic_gemm=generic_gemm)
    tally = metered(lambda meter: call_te(tex, a, True, b, False), exact=True).tally
    assert {name: part.contraction_flop for name, part in tally.by("precision").items() if part.flop} == {
        precision: 2 * T * K * N
    }


def test_groups_of_transformer_engine_are_counted_one_by_one(library, metered):
    def grouped(A, transa, B, transb, D, D_type, m_splits, bias, bias_type, single_output, pre_gelu_out, grad, *rest):
        return bias

    tex = library("transformer_engine_torch", te_general_grouped_gemm=grouped)
    empty = [torch.empty(0)] * 2

    def program(meter):
        tex.te_general_grouped_gemm(
            [torch.ones(N, K)] * 2, True, [torch.ones(2, K), torch.ones(4, K)], False, [torch.ones(2, N)], None, [2, 4],
            empty, None, False, empty, False, empty, 0, False, False, 0,
        )  # fmt: skip

    tally = metered(program, exact=True).tally
    assert tally.contraction_flop == 2 * T * K * N
    assert tally.uncounted == ()


def test_products_of_deepgemm_are_counted_where_sizes_tell(library, metered):
    """Rows behind a mask on the device are known to it alone: such a product is uncounted, not guessed."""
    calls = {name: lambda a, b, d, *rest, **options: None for name in ("fp8_gemm_nt", "bf16_gemm_tn")}
    masked = "m_grouped_fp8_gemm_nt_masked"
    grouped = "m_grouped_fp8_gemm_nt_contiguous"
    deep = library("deep_gemm", is_package=True, **calls, **{grouped: calls["fp8_gemm_nt"]})
    e4m3 = torch.float8_e4m3fn
    a, b = (torch.ones(T, K).to(e4m3), torch.ones(T, 1)), (torch.ones(N, K).to(e4m3), torch.ones(1, 1))
    d = torch.empty(T, N, dtype=torch.bfloat16)

    def program(meter):
        deep.fp8_gemm_nt(a, b, d)
        deep.bf16_gemm_tn(torch.ones(K, T).bfloat16(), torch.ones(K, N).bfloat16(), d, c=d)
        getattr(deep, grouped)(a, (torch.ones(2, N, K).to(e4m3), None), d, torch.zeros(T, dtype=torch.int32))

    tally = metered(program, exact=True).tally
    assert tally.select(precision="fp8_e4m3").contraction_flop == 2 * 2 * T * K * N
    assert tally.select(precision="bf16").contraction_flop == 2 * T * K * N
    assert f"deep_gemm::{masked}" not in FORMULAS


def test_adam_of_apex_costs_what_torchs_costs_whatever_its_step(library, replayed_truly):
    """The number of the step is another one each time: in the call it would make each step a passage of its own."""
    amp = library("amp_C", multi_tensor_adam=lambda *args: None)
    lists = [[torch.ones(3, 4), torch.ones(5)] for _ in range(4)]

    class Adam(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {})
            self.steps = 0

        def step(self, closure=None):
            self.steps += 1
            amp.multi_tensor_adam(2048, torch.ones(1), lists, 1e-3, 0.9, 0.999, 1e-8, self.steps, 1, 1, 0.01)

    def program(meter):
        optimizer = Adam([nn.Parameter(torch.ones(1))])
        for _ in range(48):
            optimizer.step()
            meter.step()

    account = replayed_truly(program)
    adam = account.tally.select(op="amp_C::multi_tensor_adam")
    assert (adam.calls, adam.flop) == (48, 48 * 14 * 17)
    assert set(adam.by("phase")) == {"optimizer"}


def test_a_version_with_another_signature_is_uncounted_and_runs(library, metered):
    tex = library("transformer_engine_torch", generic_gemm=lambda *args: "out")
    ran = []
    account = metered(lambda meter: ran.append(tex.generic_gemm(torch.ones(2, 2), 7)), exact=True)
    assert ran == ["out"]
    assert [seen.op for seen in account.tally.uncounted] == ["transformer_engine_torch::generic_gemm"]
    assert all("generic_gemm" in gap.detail for gap in account.gaps), "it is said that it was not understood"


def test_a_name_that_somebody_took_while_it_was_ours_still_works(library, metered):
    taken = []
    apex = library("fused_weight_gradient_mlp_cuda", wgrad_gemm_accum_fp32=wgrad_gemm_accum_fp32)
    metered(lambda meter: taken.append(apex.wgrad_gemm_accum_fp32))
    main = torch.zeros(K, K)
    taken[0](torch.ones(T, K), torch.ones(T, K), main)
    assert main.sum() == T * K * K


def test_errors_of_a_kernel_reach_whoever_called_it(library, metered):
    def fail(*_args):
        raise ValueError("own")

    apex = library("fused_weight_gradient_mlp_cuda", wgrad_gemm_accum_fp32=fail, unknown=fail)

    def program(meter):
        for function in (apex.wgrad_gemm_accum_fp32, apex.unknown):
            with pytest.raises(ValueError, match="own"):
                function(torch.ones(T, K), torch.ones(T, K), torch.ones(K, K))
        torch.ones(2, 2) @ torch.ones(2, 2)

    account = metered(program, exact=True)
    assert account.tally.contraction_flop == 16
    assert not account.gaps


@since_2_10("compiled code is not counted")
@pytest.mark.skipif(sys.platform == "win32", reason="torch compiles nothing there")
def test_compiled_code_breaks_off_at_a_kernel_as_before_and_nothing_of_ours_is_compiled(library, tmp_path):
    """Else a program around a kernel of its own compiles dozens of our functions, and compiles them again."""
    from torch._dynamo.utils import counters

    norm = library("fused_layer_norm_cuda", forward=gc.get_referents)  # a function in C that a compiler does not know

    def work(x):
        y = x + 1
        norm.forward(y)
        return y * 2

    def compile_and_run():
        torch.compiler.reset()
        counters.clear()
        compiled = torch.compile(work, backend="eager")
        results = [compiled(torch.ones(3)) for _ in range(3)]
        return dict(counters["frames"]), len(counters["graph_break"]), results

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of the function in C
        *plain, expected = compile_and_run()
        with Meter(tmp_path) as meter:
            *metered, results = compile_and_run()
    assert metered == plain
    assert all(map(torch.equal, results, expected))
    assert {seen.op: seen.calls for seen in meter.account().tally.uncounted}["fused_layer_norm_cuda::forward"] == 3


def test_a_kernel_within_an_operator_is_part_of_it(library, metered):
    """The operator has a price or is listed; the kernel below it has none of its own."""
    apex = library("fused_weight_gradient_mlp_cuda", wgrad_gemm_accum_fp32=wgrad_gemm_accum_fp32)

    def program(meter):
        main = torch.zeros(N, K)
        operator(torch.ones(T, K), torch.ones(T, N), main)

    @torch.library.custom_op("extensions_test::wgrad", mutates_args=("main",))
    def operator(x: torch.Tensor, dy: torch.Tensor, main: torch.Tensor) -> None:
        apex.wgrad_gemm_accum_fp32(x, dy, main)

    account = metered(program, exact=True)
    assert [seen.op for seen in account.tally.uncounted] == ["extensions_test::wgrad"]
    assert account.tally.contraction_flop == 2 * T * K * N, "seen beside what is uncounted, once"


def test_every_function_with_a_price_can_be_read():
    assert {op for op in FORMULAS if op != "triton::declared"} == set(READERS)


def test_modules_with_hooks_of_ours_can_be_given_to_those_who_make_graphs(library, metered):
    def make_graphed_callables(modules, sample_args):
        assert not any(module._forward_pre_hooks for module in modules)
        return modules

    name = "transformer_engine.pytorch"
    library("transformer_engine", is_package=True)
    te = library(name, is_package=True, make_graphed_callables=make_graphed_callables)

    def program(meter):
        model = nn.Linear(2, 2)
        meter.watch(model)
        assert te.make_graphed_callables((model,), ()) == (model,)
        assert model._forward_pre_hooks

    metered(program)
