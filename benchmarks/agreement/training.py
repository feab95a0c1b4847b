"""Ways of training: optimizers in each of their forms, losses, clipping, scaling, averages, double backward."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from subject import Built, Table, train
from torch import nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, parametrizations

TRAINING = Table()


def perceptron(wide: int = 12) -> nn.Sequential:
    """Return two layers with an activation between them."""
    return nn.Sequential(nn.Linear(8, wide), nn.GELU(), nn.Linear(wide, 4))


def optimize(maker: Callable[..., torch.optim.Optimizer], **options: Any) -> Built:
    """Return three steps of an optimizer, so that its first step and its later ones are both seen."""
    model, data = perceptron(), torch.rand(6, 8)
    if maker is torch.optim.Muon:
        model.requires_grad_(requires_grad=False)
        model[0].weight.requires_grad_()
    steps = maker([one for one in model.parameters() if one.requires_grad], **options)

    def loss() -> torch.Tensor:
        steps.zero_grad()
        value = model(data).square().mean()
        value.backward()
        return value

    def step() -> None:
        for _ in range(3):
            steps.step(loss)

    return Built(step, None, sum(one.numel() for one in model.parameters()))


_OPTIMIZERS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1}],
    "Adam": [{}, {"amsgrad": True, "weight_decay": 0.1}],
    "AdamW": [{}, {"amsgrad": True}, {"maximize": True}],
    "RMSprop": [{}, {"momentum": 0.9, "centered": True}],
    "Adagrad": [{}, {"lr_decay": 0.1}],
    "NAdam": [{}, {"decoupled_weight_decay": True, "weight_decay": 0.1}],
    "RAdam": [{}],
    "Rprop": [{}],
    "Adamax": [{}],
    "ASGD": [{}],
    "Adadelta": [{}],
}
_FUSED = ("SGD", "Adam", "AdamW", "Adagrad")


def fill_optimizers() -> None:
    """Put each optimizer into the table: in a loop, over lists, and fused where that exists."""
    for name, forms in _OPTIMIZERS.items():
        for number, options in enumerate(forms):
            ways = {"loop": {"foreach": False}, "foreach": {"foreach": True}}
            if name in _FUSED:
                ways["fused"] = {"fused": True}
            for way, choice in ways.items():
                TRAINING.put(
                    f"optimizer-{name.lower()}-{number}-{way}",
                    partial(optimize, getattr(torch.optim, name), **options, **choice),
                )


fill_optimizers()
TRAINING.put("optimizer-muon", lambda: optimize(torch.optim.Muon))
TRAINING.put("optimizer-adafactor-loop", lambda: optimize(torch.optim.Adafactor, foreach=False))
TRAINING.put("optimizer-adafactor-foreach", lambda: optimize(torch.optim.Adafactor, foreach=True))
TRAINING.put("optimizer-lbfgs", lambda: optimize(torch.optim.LBFGS, max_iter=3))
TRAINING.put("optimizer-lbfgs-wolfe", lambda: optimize(torch.optim.LBFGS, max_iter=3, line_search_fn="strong_wolfe"))


@TRAINING.add
def clipping() -> Built:
    """Gradients accumulate, are scaled for half precision, and are clipped by norm and by value."""
    model, data = perceptron(), torch.rand(6, 8)
    steps = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu")
    plan = torch.optim.lr_scheduler.OneCycleLR(steps, 0.1, total_steps=100)

    def step() -> None:
        for foreach in (False, True):
            with torch.autocast("cpu", torch.bfloat16):
                value = functional.mse_loss(model(data).float(), torch.zeros(6, 4))
            scaler.scale(value / 2).backward()
            scaler.unscale_(steps)
            clip_grad_norm_(model.parameters(), 1.0, foreach=foreach)
            clip_grad_norm_(model.parameters(), 1.0, norm_type=float("inf"), foreach=foreach)
            clip_grad_value_(model.parameters(), 0.5, foreach=foreach)
            scaler.step(steps)
            scaler.update()
            plan.step()
            steps.zero_grad()

    return Built(step)


@TRAINING.add
def averages() -> Built:
    """A slow copy and a mean of weights, and batch norm's figures anew for it."""
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    data = torch.rand(6, 8)
    utils = torch.optim.swa_utils
    copies = [
        utils.AveragedModel(model),
        utils.AveragedModel(model, avg_fn=utils.get_ema_avg_fn(0.9), use_buffers=True),
        utils.AveragedModel(model, multi_avg_fn=utils.get_ema_multi_avg_fn(0.9)),
        utils.AveragedModel(model, multi_avg_fn=utils.get_swa_multi_avg_fn()),
    ]

    def after() -> None:
        for _ in range(2):
            for copy in copies:
                copy.update_parameters(model)
        utils.update_bn([data], copies[0])

    return train(model, lambda: model(data).square().mean(), after=after)


@TRAINING.add
def gan_gradient_penalty() -> Built:
    """Spectral norm, a penalty on gradients (backward of backward), two optimizers."""
    norm = parametrizations.spectral_norm
    judge = nn.Sequential(norm(nn.Conv2d(1, 4, 3, 2)), nn.LeakyReLU(0.2), nn.Flatten(), norm(nn.Linear(36, 1)))
    maker = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
    both = [torch.optim.Adam(model.parameters(), betas=(0.5, 0.9)) for model in (judge, maker)]
    real = torch.rand(4, 1, 8, 8)

    def step() -> None:
        torch.manual_seed(1)
        fake = maker(torch.randn(4, 4))
        share = torch.rand(4, 1, 1, 1)
        mixed = (share * real + (1 - share) * fake.detach()).requires_grad_()
        slope = torch.autograd.grad(judge(mixed).sum(), mixed, create_graph=True)[0]
        penalty = (slope.flatten(1).norm(2, 1) - 1).square().mean()
        (judge(fake.detach()).mean() - judge(real).mean() + 10 * penalty).backward()
        both[0].step()
        functional.softplus(-judge(maker(torch.randn(4, 4)))).mean().backward()
        both[1].step()
        for one in both:
            one.zero_grad()

    return Built(step)


class Second(nn.Module):
    """Everything whose gradient has a gradient: norms, attention, convolutions, activations."""

    def __init__(self) -> None:
        """One of each."""
        super().__init__()
        self.conv, self.batch, self.group = nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.GroupNorm(2, 8)
        self.layer, self.out = nn.LayerNorm(8), nn.Linear(8, 1)
        self.acts = [nn.GELU(), nn.SiLU(), nn.Softplus(), nn.Tanh(), nn.Sigmoid(), nn.ELU(), nn.Mish(), nn.Softmax(-1)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return one number for each row."""
        x = self.layer(self.group(self.batch(self.conv(x))).transpose(1, 2))
        for act in self.acts:
            x = act(x)
        return self.out(x).sum((1, 2))


@TRAINING.add
def double_backward() -> Built:
    """A gradient of the size of a gradient, as force fields and meta-learning take it."""
    model, data = Second(), torch.rand(3, 4, 8)

    def loss() -> torch.Tensor:
        x = data.clone().requires_grad_()
        slope = torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
        return slope.square().sum() + functional.cross_entropy(slope.flatten(1), torch.tensor([0, 1, 2]))

    built = train(model, loss)
    return Built(built.step, None, built.parameters)


@TRAINING.add
def functional_gradients() -> Built:
    """Gradients of each row alone, Jacobians and products with Hessians, by torch.func."""
    model, data = perceptron(), torch.rand(3, 8)
    weights = {name: one.detach() for name, one in model.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, parameters, (row,)).square().mean()

    def step() -> None:
        torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, data)
        torch.func.jacrev(model)(data[0])
        torch.func.jvp(model, (data,), (torch.ones_like(data),))
        torch.func.hessian(lambda row: loss(weights, row))(data[0])

    return Built(step)


@TRAINING.add
def quantization_aware() -> Built:
    """Weights and activations rounded in training, by torch's own fake quantizers."""
    model = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 4)])
    data = torch.rand(6, 8)
    scales = nn.Parameter(torch.full((8,), 0.02))

    def loss() -> torch.Tensor:
        zero = torch.zeros(8, dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(model[0].weight, scales.detach(), zero, 0, -128, 127)
        x = functional.linear(data, weight, model[0].bias)
        x = torch.fake_quantize_per_tensor_affine(functional.relu(x), 0.05, 0, 0, 255)
        learnt = torch._fake_quantize_learnable_per_channel_affine(  # noqa: SLF001
            model[1].weight.T.contiguous(), scales, torch.zeros(8), 0, -128, 127, 1.0
        )
        return (x @ learnt).square().mean()

    model.register_parameter("scales", scales)
    return train(model, loss)


@TRAINING.add
def reparametrized() -> Built:
    """Weights made of other weights: weight norm, orthogonal, low rank, pruned; checkpointed."""
    from torch.nn.utils import prune
    from torch.utils.checkpoint import checkpoint

    first = parametrizations.weight_norm(nn.Linear(8, 8))
    second = parametrizations.orthogonal(nn.Linear(8, 8), orthogonal_map="householder")
    third = prune.l1_unstructured(nn.Linear(8, 4), "weight", amount=0.3)
    rank = nn.ParameterList([torch.randn(8, 2) * 0.1, torch.randn(2, 8) * 0.1])
    model = nn.ModuleList([first, second, third, rank, parametrizations.orthogonal(nn.Linear(4, 4))])
    data = torch.rand(6, 8)

    def forward(x: torch.Tensor) -> torch.Tensor:
        return third(functional.selu(second(first(x)) + x @ rank[0] @ rank[1]))

    return train(model, lambda: model[4](checkpoint(forward, data, use_reentrant=False)).square().mean())


_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid),
    *(nn.Hardtanh, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, nn.Softsign, nn.Softplus, nn.LogSigmoid, nn.Sigmoid),
    *(nn.Tanh, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout),
)


@TRAINING.add
def activations() -> Built:
    """Every activation of torch, each for itself."""
    model = nn.ModuleList([*(act() for act in _ACTIVATIONS), nn.Linear(8, 8)])
    shapes = (
        nn.Threshold(0.1, 0.0),
        nn.GLU(),
        nn.Softmin(-1),
        nn.LogSoftmax(-1),
        nn.Softmax2d(),
        nn.LocalResponseNorm(2),
    )
    data = torch.rand(3, 4, 4, 8) - 0.5

    def loss() -> torch.Tensor:
        x = model[-1](data)
        return sum((act(x).sum() for act in (*model[:-1], *shapes)), torch.zeros(())) / 100

    return train(model, loss)


@TRAINING.add
def losses() -> Built:
    """Every loss of torch, each for itself."""
    model, data = perceptron(), torch.rand(6, 8)
    target, classes, signs = torch.rand(6, 4), torch.randint(0, 4, (6,)), torch.randint(0, 2, (6,)) * 2.0 - 1

    def loss() -> torch.Tensor:
        x = model(data)
        one, two, three = x, x.roll(1, 0), x.roll(2, 0)
        found = [
            *(kind()(x, target) for kind in (nn.L1Loss, nn.MSELoss, nn.SmoothL1Loss, nn.HuberLoss, nn.SoftMarginLoss)),
            *(kind()(x, target) for kind in (nn.BCEWithLogitsLoss, nn.PoissonNLLLoss, nn.MultiLabelSoftMarginLoss)),
            *(kind()(x, classes) for kind in (nn.CrossEntropyLoss, nn.MultiMarginLoss)),
            nn.CrossEntropyLoss(label_smoothing=0.1)(x, target.softmax(-1)),
            nn.NLLLoss(weight=torch.rand(4))(x.log_softmax(-1), classes),
            nn.KLDivLoss(reduction="batchmean", log_target=True)(x.log_softmax(-1), target.log_softmax(-1)),
            nn.KLDivLoss(reduction="batchmean")(x.log_softmax(-1), target.softmax(-1)),
            nn.BCELoss()(x.sigmoid(), target),
            nn.GaussianNLLLoss()(x, target, x.exp()),
            nn.TripletMarginLoss()(one, two, three),
            nn.TripletMarginWithDistanceLoss(distance_function=nn.CosineSimilarity())(one, two, three),
            nn.CosineEmbeddingLoss(margin=0.1)(one, two, signs),
            nn.MarginRankingLoss(margin=0.1)(one[:, 0], two[:, 0], signs),
            nn.HingeEmbeddingLoss()(x, signs[:, None].expand_as(x)),
            nn.MultiLabelMarginLoss()(x, torch.randint(0, 4, (6, 4))),
            nn.PairwiseDistance(p=2)(one, two).mean(),
            torch.pdist(x).mean(),
            functional.normalize(one).mul(functional.normalize(two)).sum(-1).logsumexp(0),
        ]
        return torch.stack(found).sum()

    return train(model, loss)


@TRAINING.add
def precisions() -> Built:
    """Double, half and bfloat16 weights, and autocast between them."""
    kinds = (torch.float64, torch.float16, torch.bfloat16)
    model = nn.ModuleList([*(perceptron().to(kind) for kind in kinds), perceptron()])
    data = torch.rand(6, 8)

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            cast = model[-1](data).float().square().mean()
        plain = zip(model[:-1], kinds, strict=True)
        return cast + sum((part(data.to(kind)).float().square().mean() for part, kind in plain), torch.zeros(()))

    return train(model, loss)
