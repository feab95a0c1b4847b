"""Models of graphs and tables: messages by scatter, sparse products, bags of embeddings."""

from collections.abc import Callable
from functools import partial

import torch
from subject import Built, Table, train
from torch import nn
from torch.nn import functional

GRAPHS = Table()
NODES, EDGES, WIDTH, CLASSES = 12, 40, 8, 3


class Layer(nn.Module):
    """One layer of messages; what is done with them is given."""

    def __init__(self, pass_on: Callable[..., torch.Tensor], outer: int = WIDTH) -> None:
        """Take the way of passing messages."""
        super().__init__()
        self.pass_on, self.own, self.other = pass_on, nn.Linear(WIDTH, outer), nn.Linear(WIDTH, outer, bias=False)
        self.look = nn.Parameter(torch.randn(2, outer) * 0.1)

    def forward(self, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Return the new state of each node."""
        return self.own(x) + self.pass_on(self, self.other(x), ends)


def mean_by_degree(_: Layer, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return what a GCN passes on: neighbours scaled by both degrees, added by index."""
    source, target = ends
    degree = torch.zeros(NODES).scatter_add_(0, target, torch.ones(EDGES)) + 1
    scale = degree.pow(-0.5)
    return torch.zeros_like(x).index_add_(0, target, x[source] * (scale[source] * scale[target])[:, None])


def attend(layer: Layer, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return what a GAT passes on: a softmax over the edges into each node."""
    source, target = ends
    score = functional.leaky_relu((x @ layer.look[0])[source] + (x @ layer.look[1])[target], 0.2)
    top = torch.full((NODES,), -1e9).scatter_reduce(0, target, score.detach(), "amax")
    weight = (score - top[target]).exp()
    weight = weight / torch.zeros(NODES).scatter_add(0, target, weight).add(1e-9)[target]
    rows = target[:, None].expand(-1, x.shape[1])
    return torch.zeros_like(x).scatter_add(0, rows, x[source] * weight[:, None])


def sample(how: str, _: Layer, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return what GraphSAGE passes on: neighbours reduced in one way or another."""
    rows = ends[1][:, None].expand(-1, x.shape[1])
    return torch.zeros_like(x).scatter_reduce(0, rows, x[ends[0]], how, include_self=False)


def index_reduced(_: Layer, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return neighbours reduced by index rather than by scatter."""
    return torch.zeros_like(x).index_reduce(0, ends[1], x[ends[0]], "mean", include_self=False)


def segments(_: Layer, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return neighbours reduced over sorted edges."""
    order = ends[1].argsort()
    lengths = torch.bincount(ends[1], minlength=NODES)
    return torch.segment_reduce(x[ends[0][order]], "sum", lengths=lengths)


def multiply(layout: str, _: Layer, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return the product with a sparse matrix of neighbours."""
    matrix = torch.sparse_coo_tensor(ends.flip(0), torch.ones(EDGES), (NODES, NODES), check_invariants=False)
    matrix = matrix.coalesce()
    return torch.sparse.mm(matrix if layout == "coo" else matrix.to_sparse_csr(), x)


def graph(pass_on: Callable[..., torch.Tensor]) -> Built:
    """Return a training step of two layers, a dropout, and the classes of some nodes."""
    layers = nn.ModuleList([Layer(pass_on), Layer(pass_on, CLASSES)])
    x, ends, classes = (
        torch.rand(NODES, WIDTH),
        torch.randint(0, NODES, (2, EDGES)),
        torch.randint(0, CLASSES, (NODES,)),
    )

    def loss() -> torch.Tensor:
        hidden = functional.dropout(functional.relu(layers[0](x, ends)), 0.5, training=layers.training)
        return functional.nll_loss(layers[1](hidden, ends)[:6].log_softmax(-1), classes[:6])

    return train(layers, loss)


GRAPHS.put("gcn", partial(graph, mean_by_degree))
GRAPHS.put("gat", partial(graph, attend))
for _how in ("sum", "mean", "amax", "prod"):
    GRAPHS.put(f"graphsage-{_how}", partial(graph, partial(sample, _how)))
GRAPHS.put("gnn-index-reduce", partial(graph, index_reduced))
GRAPHS.put("gnn-segments", partial(graph, segments))
GRAPHS.put("gnn-sparse-coo", partial(graph, partial(multiply, "coo")))
GRAPHS.put("gnn-sparse-csr", partial(graph, partial(multiply, "csr")))


class Recommender(nn.Module):
    """Bags of embeddings beside numbers, multiplied with each other, as DLRM has it."""

    def __init__(self, *, sparse: bool = False) -> None:
        """Take whether gradients of tables are sparse."""
        super().__init__()
        modes = ("sum", "mean") if sparse else ("sum", "mean", "max")
        self.tables = nn.ModuleList(nn.EmbeddingBag(30, 8, mode=mode, sparse=sparse) for mode in modes)
        self.dense = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 8))
        self.cross, self.head = nn.Bilinear(8, 8, 4), nn.Linear(len(modes) * (len(modes) + 1) // 2 + 4, 1)

    def forward(self, dense: torch.Tensor, bags: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the chance of a click."""
        parts = [self.dense(dense)]
        parts += [table(bags, per_sample_weights=weights if table.mode == "sum" else None) for table in self.tables]
        all_of = torch.stack(parts, 1)
        row, column = torch.tril_indices(len(parts), len(parts), -1)
        pairs = (all_of @ all_of.mT)[:, row, column]
        return self.head(torch.cat([pairs, self.cross(parts[0], parts[1])], 1)).squeeze(1)


def recommend(*, sparse: bool) -> Built:
    """Return a training step on clicks."""
    model = Recommender(sparse=sparse)
    dense, bags, clicks = torch.rand(6, 5), torch.randint(0, 30, (6, 4)), torch.randint(0, 2, (6,)).float()
    weights = torch.rand(6, 4)

    def loss() -> torch.Tensor:
        return functional.binary_cross_entropy(model(dense, bags, weights).sigmoid(), clicks)

    step = partial(torch.optim.SGD, lr=0.1) if sparse else partial(torch.optim.Adagrad, lr=0.1)
    return train(model, loss, optimizer=step)


GRAPHS.put("dlrm", partial(recommend, sparse=False))
GRAPHS.put("dlrm-sparse-gradients", partial(recommend, sparse=True))


@GRAPHS.add
def factorization() -> Built:
    """Matrix factorization with sparse gradients and SparseAdam."""
    model = nn.ModuleList(nn.Embedding(20, 8, sparse=True) for _ in range(2))
    rows, columns, stars = torch.randint(0, 20, (10,)), torch.randint(0, 20, (10,)), torch.rand(10)

    def loss() -> torch.Tensor:
        return functional.mse_loss((model[0](rows) * model[1](columns)).sum(-1), stars)

    return train(model, loss, optimizer=torch.optim.SparseAdam)


@GRAPHS.add
def embedding_with_largest_norm() -> Built:
    """An embedding whose rows are shortened as they are read, its gradient scaled by frequency."""
    model = nn.Embedding(20, 8, max_norm=1.0, scale_grad_by_freq=True)
    rows = torch.randint(0, 20, (10,))
    return train(model, lambda: model(rows).square().mean())
