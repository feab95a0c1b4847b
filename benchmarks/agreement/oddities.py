"""Specimens of products that are no plain product of matrices, and of ways to run a model."""

import math
from typing import Any

import torch
from specimens import Case, Free, specimen, train
from torch import nn

# ── products that are no matrix product of floating-point numbers ──


@specimen("`torch.mv`, `torch.dot`, `torch.addmv`")
def vectors() -> Case:
    """A matrix of 5 × 7 with a vector, twice; a vector with itself."""

    def work(matrix: torch.Tensor, vector: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        return torch.mv(matrix, vector) + torch.addmv(start, matrix, vector) + torch.dot(vector, vector)

    model = Free(work, torch.rand(5, 7), torch.rand(7), torch.rand(5))
    return Case(train(model), 2 * 5 * 7 + 2 * 5 * 7 + 2 * 7, None)


@specimen("`torch.addbmm`: a batch of products, summed")
def addbmm() -> Case:
    """3 products of (4 × 5) and (5 × 6)."""
    model = Free(torch.addbmm, torch.rand(4, 6), torch.rand(3, 4, 5), torch.rand(3, 5, 6))
    return Case(train(model), 3 * 2 * 4 * 5 * 6, None)


@specimen("a product written in place: `Tensor.addmm_`")
def in_place() -> Case:
    """(4 × 5) and (5 × 6)."""
    model = Free(lambda a, b: torch.zeros(4, 6).addmm_(a, b), torch.rand(4, 5), torch.rand(5, 6))
    return Case(train(model), 2 * 4 * 5 * 6, None)


@specimen("a product of whole numbers (int64): integer operations, no FLOP")
def integers() -> Case:
    """(4 × 5) and (5 × 6)."""
    model = Free(lambda a, b: a @ b, torch.ones(4, 5, dtype=torch.int64), torch.ones(5, 6, dtype=torch.int64))
    return Case(train(model), 2 * 4 * 5 * 6, None)


@specimen("`torch._int_mm`: 8-bit operands")
def int8() -> Case:
    """(32 × 16) and (16 × 8)."""
    operands = torch.ones(32, 16, dtype=torch.int8), torch.ones(16, 8, dtype=torch.int8)
    return Case(train(Free(torch._int_mm, *operands)), 2 * 32 * 16 * 8, None)  # noqa: SLF001 # has no other name


@specimen("a product of complex numbers: 4 real multiplications and 4 additions each")
def complex_numbers() -> Case:
    """(4 × 5) and (5 × 6); both want gradients."""
    operands = torch.rand(4, 5, dtype=torch.complex64), torch.rand(5, 6, dtype=torch.complex64)
    forward = 8 * 4 * 5 * 6
    return Case(train(Free(lambda a, b: a @ b, *operands)), forward, 3 * forward)


@specimen("a sparse matrix (CSR, 8 of 24 entries) times a dense one")
def sparse() -> Case:
    """Each kept entry meets a row of 5."""
    dense = torch.zeros(4, 6)
    dense.view(-1)[::3] = 1.0
    kept = int(torch.count_nonzero(dense))
    matrix = dense.to_sparse_csr()
    return Case(train(Free(lambda data: matrix @ data, torch.rand(6, 5))), 2 * kept * 5, None)


@specimen("a sparse matrix (COO, 8 of 24 entries) times a dense one that wants a gradient")
def sparse_and_trained() -> Case:
    """Each kept entry meets a row of 5, forward; and a row of the gradient, backward."""
    dense = torch.zeros(4, 6)
    dense.view(-1)[::3] = 1.0
    kept, matrix = int(torch.count_nonzero(dense)), dense.to_sparse_coo()
    product = 2 * kept * 5
    return Case(train(Free(lambda data: torch.sparse.mm(matrix, data), torch.rand(6, 5))), product, 2 * product)


@specimen("`nn.Bilinear`: a product of three")
def bilinear() -> Case:
    """5 rows of 4 and of 3 → 2, in torch's two steps: the 4 meet the weight for each of 2 × 3, then the 3 meet that."""
    rows, first, second, out = 5, 4, 3, 2
    steps = sum(2 * first + 2 for _ in range(rows) for _ in range(out) for _ in range(second))
    return Case(train(nn.Bilinear(first, second, out), torch.rand(rows, first), torch.rand(rows, second)), steps, None)


@specimen("`torch._grouped_mm`: rows sorted by expert")
def experts() -> Case:
    """16 rows of 16, split between 2 experts of 16 × 8; the rows want gradients as the experts do."""
    ends = torch.tensor([8, 16], dtype=torch.int32)
    model = Free(
        lambda rows, weights: torch._grouped_mm(rows, weights, offs=ends),  # noqa: SLF001 # no other name before 2.10
        torch.rand(16, 16, dtype=torch.bfloat16),
        torch.rand(2, 16, 8, dtype=torch.bfloat16),
    )
    forward = 2 * 16 * 16 * 8
    return Case(train(model), forward, 3 * forward)


@specimen("8-bit weights, read as they are (`_weight_int8pack_mm`)")
def packed_weights() -> Case:
    """4 rows of 16 with 8 rows of weights, scaled."""
    operands = torch.rand(4, 16, dtype=torch.bfloat16), torch.ones(8, 16, dtype=torch.int8)
    product = torch.ops.aten._weight_int8pack_mm  # noqa: SLF001 # has no other name
    return Case(train(Free(product, *operands, torch.ones(8, dtype=torch.bfloat16))), 2 * 4 * 16 * 8, None)


# ── the way a model is run ──


@specimen(
    "`torch.cond` after another product: one branch runs",
    known="they add the branches and count twice what came before",
)
def branch() -> Case:
    """A product of (4 × 4), then a branch with two of them; the other branch would have one."""

    def work(x: torch.Tensor) -> Any:
        y = x.mm(x)
        return torch.cond(y.sum() > 0, lambda z: z.mm(z).mm(z), lambda z: z.mm(z), (y,))

    return Case(train(Free(work, torch.rand(4, 4))), 3 * 2 * 4 * 4 * 4, None)


@specimen("gradients through `torch.autograd.grad`")
def gradients_by_name() -> Case:
    """A layer of 7 → 3 on 5 rows, and the gradient of its input."""
    layer, data = nn.Linear(7, 3, bias=False), torch.rand(5, 7, requires_grad=True)
    product = 2 * 5 * 7 * 3

    def work() -> None:
        torch.autograd.grad(layer(data).sum(), data)

    return Case(work, None, 2 * product)


@specimen("`torch.optim.Muon`: matrix products inside the optimizer")
def muon() -> Case:
    """A layer of 6 → 4 on 5 rows. Each of 5 iterations: X Xᵀ, its square, their polynomial times X."""
    layer, data = nn.Linear(6, 4, bias=False), torch.rand(5, 6)
    optimizer = torch.optim.Muon(layer.parameters())
    product, small, wide = 2 * 5 * 6 * 4, 4, 6
    iterations = 5 * (2 * small * small * wide + 2 * small**3 + 2 * small * small * wide)
    return Case(train(layer, data), product, 2 * product + iterations, after=optimizer.step)


@specimen("a layer split over 2 ranks by DTensor: each rank has half of it", known="they count the whole on each rank")
def split_layer() -> Case:
    """5 rows of 8 with half of 8 × 6 weights, on this rank; backward the weight's gradient."""
    import torch.distributed as dist  # here alone
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
    from torch.testing._internal.distributed.fake_pg import FakeStore  # ranks that are not there

    if not dist.is_initialized():
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    layer = parallelize_module(nn.Linear(8, 6, bias=False), init_device_mesh("cpu", (2,)), ColwiseParallel())
    product = 2 * 5 * 8 * math.ceil(6 / 2)
    return Case(train(layer, torch.rand(5, 8)), product, 2 * product)
