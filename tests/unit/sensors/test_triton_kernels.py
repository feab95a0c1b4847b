"""Triton kernels that Python launches: noted by name, at what they declare, and in the witness of their passage.

Triton launches nothing without a device. A stand-in has its classes, as they are in 3.9 and as they were in 3.3; where
Triton is installed, the real one compiles a kernel and launches it on a driver that does nothing.
"""

import gc
import importlib.util
import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils import flop_counter  # noqa: E402

from flopmeter.sensors.launches import covered, launched  # noqa: E402


class LazyDict:
    """Triton's: what a kernel declares is computed when somebody asks."""

    def __init__(self, known):
        self.known, self.later = known, []

    def add(self, function, args):
        self.later.append((function, args))

    def get(self):
        for function, args in self.later:
            self.known = {**self.known, **function(*args)}
        self.later.clear()
        return self.known


class HookChain:
    def __init__(self):
        self.calls = []

    def add(self, hook):
        if hook not in self.calls:
            self.calls.append(hook)

    def remove(self, hook):
        self.calls.remove(hook)

    def __call__(self, metadata):
        for call in self.calls:
            call(metadata)


class Hooks:
    """Where a stand-in keeps its hook at present."""

    owner = None


class KernelInterface:
    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.run(*args, grid=grid, warmup=False, **kwargs)


class JITFunction(KernelInterface):
    def __init__(self, fn, launch_metadata=None):
        self.fn, self.launch_metadata, self.__name__ = fn, launch_metadata, fn.__name__
        self.arg_names = list(fn.__code__.co_varnames[: fn.__code__.co_argcount])

    def run(self, *args, grid, warmup, **kwargs):
        if warmup:
            return
        metadata = LazyDict({"name": self.__name__, "stream": 0})
        if self.launch_metadata is not None:
            metadata.add(self.launch_metadata, (grid, None, dict(zip(self.arg_names, args, strict=False))))
        if Hooks.owner.launch_enter_hook is not None:
            Hooks.owner.launch_enter_hook(metadata)
        self.fn(*args, **kwargs)


class Autotuner(KernelInterface):
    def __init__(self, fn, configs):
        self.fn, self.configs = fn, configs

    def run(self, *args, **kwargs):
        for _ in range(self.configs):
            self.fn.run(*args, **kwargs)


class CompiledKernel:
    launch_enter_hook = None
    name = "compiled_kernel"

    def __getitem__(self, grid):
        return lambda *args: Hooks.owner.launch_enter_hook(LazyDict({"name": self.name}))


def load(monkeypatch, name, **contents):
    module = ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(params=["3.9", "3.3"])
def jit(request, monkeypatch):
    """Load a stand-in for Triton; return what makes a kernel of a function."""
    chain = HookChain() if request.param == "3.9" else None
    Hooks.owner = CompiledKernel if chain is None else SimpleNamespace(launch_enter_hook=chain)
    load(monkeypatch, "triton.runtime.jit", KernelInterface=KernelInterface)
    for name in ("triton.compiler", "triton.compiler.compiler"):
        load(monkeypatch, name, CompiledKernel=CompiledKernel)
    load(monkeypatch, "triton.knobs", runtime=None if chain is None else Hooks.owner)
    before = KernelInterface.__getitem__, CompiledKernel.__getitem__
    yield JITFunction
    assert (KernelInterface.__getitem__, CompiledKernel.__getitem__) == before
    assert Hooks.owner.launch_enter_hook is chain
    assert not (chain and chain.calls)
    assert not launched.hears_triton


def add_kernel(x, y, out):
    pass


x = torch.ones(4, 8)


def test_launches_that_declare_nothing_are_listed_by_name(jit, metered):
    """A kernel of Triton's is work: without a cost it is uncounted, with the number of its launches, never zero."""

    def program(meter):
        kernel = jit(add_kernel)
        for _ in range(3):
            kernel[4,](x, x, x)
        kernel.run(x, x, x, grid=(1,), warmup=True)

    account = metered(program, exact=True)
    assert [(seen.op, seen.calls) for seen in account.tally.uncounted] == [("triton::add_kernel", 3)]


def test_a_launch_that_is_noted_is_marked_for_a_census(jit, metered, monkeypatch):
    """If this failed, a census would list each of Triton's launches a second time."""
    marks = []

    @contextmanager
    def span():
        marks.append("begin")
        yield
        marks.append("end")

    def marking_kernel(x):
        marks.append("launch")

    monkeypatch.setattr(launched, "span", span)
    metered(lambda _: jit(marking_kernel)[4,](x), exact=True)
    assert marks == ["begin", "launch", "end"]


def test_what_a_kernel_declares_is_counted_as_declared(jit, metered):
    """It is its author's word: it is in the figure, under its own basis, and bounds nothing from below."""

    def declare(grid, metadata, args):
        return {"name": "add", "flops16": 2 * args["x"].numel() * grid[0], "flops32": 5, "bytes": 64}

    def program(meter):
        kernel = jit(add_kernel, launch_metadata=declare)
        for _ in range(3):
            kernel[4,](x, x, x)
        x @ x.t()

    account = metered(program, exact=True)
    declared = account.tally.select(basis="declared")
    assert {name: part.flop for name, part in declared.by("precision").items()} == {
        "16-bit": 3 * 2 * 32 * 4,
        "32-bit": 3 * 5,
    }
    assert account.tally.uncounted == ()
    assert account.lower == account.flop - declared.flop
    assert account.upper is None or account.upper > account.flop


def test_declared_stays_declared_in_passages_that_are_replayed(jit, replayed_truly):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 8)
            self.kernel, self.times = [jit(add_kernel, launch_metadata=lambda *_: {"flops": 7})], [1]

        def forward(self, x):
            for _ in range(self.times[0]):
                self.kernel[0][1,](x, x, x)
            return self.inner(x)

    def program(meter):
        model = Model()
        meter.watch(model)
        for step in range(64):
            model.times[0] = 1 + step % 2  # another number of launches is another witness
            model(x).sum().backward()
            meter.step()

    account = replayed_truly(program)
    assert account.tally.select(basis="declared").flop == 7 * (32 + 2 * 32)
    assert {"replayed"} <= set(account.tally.by("basis"))


@pytest.mark.parametrize("declare", [lambda *_: {"flops16": "many"}, lambda *_: 1 / 0, lambda *_: {"bytes": 9}])
def test_a_declaration_that_says_nothing_or_fails_is_none(jit, metered, declare):
    def program(meter):
        jit(add_kernel, launch_metadata=declare)[1,](x, x, x)

    account = metered(program, exact=True)
    assert [seen.op for seen in account.tally.uncounted] == ["triton::add_kernel"]
    assert not account.gaps


def test_a_formula_that_was_registered_with_torch_is_a_declaration(jit, metered, monkeypatch):
    """Torch's counter takes formulas of kernels; it applies them in compiled graphs alone."""
    kernel = jit(add_kernel)
    formula = flop_counter.shape_wrapper(lambda *, kwargs, **_: kwargs["x"].numel())
    monkeypatch.setattr(flop_counter, "flop_registry", {**flop_counter.flop_registry, kernel: formula})
    account = metered(lambda meter: kernel[1,](x, y=x, out=x), exact=True)
    assert account.tally.select(basis="declared").flop == 32


def test_each_configuration_that_triton_tries_is_a_launch(jit, metered):
    """An autotuner runs the kernel many times before it chooses: all of that is work."""
    kernel = Autotuner(jit(add_kernel, launch_metadata=lambda *_: {"flops32": 4}), configs=5)
    account = metered(lambda meter: kernel[1,](x, x, x), exact=True)
    assert account.tally.select(basis="declared").flop == 5 * 4
    assert account.tally.select(basis="declared").calls == 5


def test_kernels_that_were_compiled_beforehand_are_heard_too(jit, metered):
    account = metered(lambda meter: CompiledKernel()[1,](x), exact=True)
    assert [(seen.op, seen.calls) for seen in account.tally.uncounted] == [("triton::compiled_kernel", 1)]


def test_a_launcher_that_is_kept_launches_as_ever_and_puts_nothing_back(jit, metered):
    """Else a recorder of a meter that is gone goes back onto torch's stack of modes."""
    kept, ran = [], []

    def run(given):
        ran.append(given)

    def program(meter):
        kept.append(jit(run)[1,])
        for _ in range(2):
            kept[0](x)

    account = metered(program, exact=True)
    kept[0](x)
    assert len(ran) == 3
    assert [(seen.op, seen.calls) for seen in account.tally.uncounted] == [("triton::run", 2)]
    assert torch._C._len_torch_dispatch_stack() == 0


def test_whoever_else_listens_hears_as_before(jit, metered):
    heard = []
    owner = Hooks.owner
    chain = owner.launch_enter_hook
    if chain is None:
        owner.launch_enter_hook = heard.append
    else:
        chain.add(heard.append)
    metered(lambda meter: jit(add_kernel)[1,](x, x, x), exact=True)
    assert len(heard) == 1
    if chain is None:
        assert owner.launch_enter_hook == heard.append
        owner.launch_enter_hook = None
    else:
        chain.remove(heard.append)


def test_a_kernel_within_an_operator_or_a_region_is_part_of_it(jit, metered):
    """Else it is listed as uncounted beside the operator that has its price."""
    kernel = jit(add_kernel)

    @torch.library.custom_op("triton_test::add", mutates_args=())
    def add(x: torch.Tensor) -> torch.Tensor:
        kernel[1,](x, x, x)
        return x.clone()

    def program(meter):
        with covered():
            kernel[1,](x, x, x)
        add(x)

    account = metered(program, exact=True)
    assert {(seen.op, seen.calls) for seen in account.tally.uncounted} == {
        ("triton_test::add", 1),
        ("triton::add_kernel", 1),
    }, "the operator is listed, and the kernel inside of it besides, as part of it"


def test_an_operator_around_a_kernel_is_its_launch(jit, metered):
    """Torch's own wrapper of kernels (`wrap_triton`): one launch, with what the kernel declares."""
    if importlib.util.find_spec("triton") is not None:
        pytest.skip("torch loads the real one for it, and meets the stand-in")
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table, triton_kernel_wrapper_mutation

    kernel = jit(add_kernel, launch_metadata=lambda *_: {"flops32": 11})
    index = kernel_side_table.add_kernel(kernel)
    constants = kernel_side_table.add_constant_args({})

    def program(meter):
        triton_kernel_wrapper_mutation(
            kernel_idx=index,
            constant_args_idx=constants,
            grid=[(1, 1, 1)],
            tma_descriptor_metadata={},
            kwargs={"x": x, "y": x, "out": x},
        )

    try:
        account = metered(program, exact=True)
    finally:
        kernel_side_table.reset_table()
    assert account.tally.select(basis="declared").flop == 11
    assert account.tally.uncounted == ()


def test_errors_of_a_launch_reach_whoever_launched_it(jit, metered):
    def fail(x):
        raise ValueError("own")

    def program(meter):
        with pytest.raises(ValueError, match="own"):
            jit(fail)[1,](x)

    assert not metered(program, exact=True).gaps


@pytest.fixture
def real_jit(monkeypatch):
    """Use Triton itself, as far as it goes without a device: it compiles for one, and its driver launches nothing."""
    triton = pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("tests/gpu has the real driver")
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class Driver:
        utils = SimpleNamespace(
            load_binary=lambda *_: (1, 1, 8, 0, 1024),
            unload_module=lambda *_: None,
            get_device_properties=lambda *_: {"max_shared_mem": 1 << 20},
        )

        @staticmethod
        def launcher_cls(_src, _metadata):
            def launch(_0, _1, _2, _stream, _function, _packed, metadata, enter, leave, *_args):
                for hook in (enter, leave):
                    if hook is not None:
                        hook(metadata)

            return launch

        def get_current_device(self):
            return 0

        def get_current_stream(self, _device):
            return 0

        def get_current_target(self):
            return GPUTarget("cuda", 80, 32)

    monkeypatch.setattr(driver, "_active", Driver(), raising=False)
    return triton


def declare_real(grid, _metadata, args):
    return {"name": "scale", "flops32": grid[0] * 16 + args["n"] * 0}


def test_the_real_triton_tells_of_its_launches_and_of_what_they_declare(real_jit, metered, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    source = tmp_path / "kernels_of_a_test.py"
    source.write_text(
        "import triton\nimport triton.language as tl\n"
        "def scale(x, n, SIZE: tl.constexpr):\n"
        "    at = tl.arange(0, SIZE)\n"
        "    tl.store(x + at, tl.load(x + at, mask=at < n) * 2, mask=at < n)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import kernels_of_a_test

    plain = real_jit.jit(kernels_of_a_test.scale)
    told = real_jit.jit(kernels_of_a_test.scale, launch_metadata=declare_real)
    given = torch.ones(16)

    def program(meter):
        for _ in range(2):
            plain[3,](given, 16, SIZE=16)
            told[3,](given, 16, SIZE=16)

    account = metered(program, exact=True)
    for kernel in (plain, told):
        kernel.device_caches.clear()
    gc.collect()  # compiled kernels ask the driver when they go
    assert [(seen.op, seen.calls) for seen in account.tally.uncounted] == [("triton::scale", 2)]
    assert account.tally.select(basis="declared").flop == 2 * 3 * 16
    assert not account.gaps
