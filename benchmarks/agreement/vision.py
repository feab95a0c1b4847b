"""Models of pictures, as the well-known libraries build them, small."""

from itertools import pairwise
from typing import Any

import torch
from subject import Built, Table, train
from torch import nn
from torch.nn import functional

VISION = Table()
CLASSES, SIDE = 10, 32


def normed(inner: int, outer: int, side: int = 1, *, act: type[nn.Module] = nn.ReLU, **options: Any) -> nn.Sequential:
    """Return convolution, batch norm, activation."""
    conv = nn.Conv2d(inner, outer, side, padding=side // 2, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(outer), act())


class Residual(nn.Module):
    """A branch beside a way past it."""

    def __init__(self, inner: nn.Module, past: nn.Module | None = None, drop: float = 0.0) -> None:
        """Take the branch, and what fits the way past it to its shape."""
        super().__init__()
        self.inner, self.past, self.drop = inner, past or nn.Identity(), drop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add both, dropping the branch for some rows while training."""
        out = self.inner(x)
        if self.training and self.drop:
            kept = out.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1 - self.drop)
            out = out * kept.div_(1 - self.drop)
        return self.past(x) + out


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int) -> None:
        """Take the number of channels."""
        super().__init__()
        self.down, self.up = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale each channel by what all of it says."""
        gate = self.up(functional.silu(self.down(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


def classify(model: nn.Module, *, smooth: float = 0.1) -> Built:
    """Return a training step on pictures and classes."""
    data, classes = torch.rand(4, 3, SIDE, SIDE), torch.randint(0, CLASSES, (4,))

    def loss() -> torch.Tensor:
        return functional.cross_entropy(model(data), classes, label_smoothing=smooth)

    return train(model, loss, evaluate=lambda: model(data).softmax(-1))


def head(width: int, *, norm: bool = False) -> nn.Sequential:
    """Return pooling and the layer of classes."""
    rest = [nn.LayerNorm(width)] if norm else []
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *rest, nn.Linear(width, CLASSES))


def bottleneck(inner: int, outer: int, stride: int, groups: int = 1) -> nn.Sequential:
    """Return a block of ResNet or, with groups, of ResNeXt and RegNet."""
    middle = outer // 2
    branch = nn.Sequential(
        normed(inner, middle),
        normed(middle, middle, 3, stride=stride, groups=groups),
        nn.Conv2d(middle, outer, 1, bias=False),
        nn.BatchNorm2d(outer),
    )
    past = nn.Sequential(nn.Conv2d(inner, outer, 1, stride=stride, bias=False), nn.BatchNorm2d(outer))
    return nn.Sequential(Residual(branch, past), nn.ReLU(inplace=True))


@VISION.add
def resnet_bottleneck() -> Built:
    """A ResNet with its stem and max pooling."""
    stem = nn.Sequential(normed(3, 16, 7, stride=2), nn.MaxPool2d(3, 2, 1))
    return classify(nn.Sequential(stem, bottleneck(16, 32, 1), bottleneck(32, 64, 2), head(64)))


@VISION.add
def regnet_grouped() -> Built:
    """Grouped convolutions, with squeeze and excitation behind them."""
    body = nn.Sequential(bottleneck(16, 32, 2, groups=4), Excite(32), bottleneck(32, 64, 2, groups=8))
    return classify(nn.Sequential(normed(3, 16, 3), body, head(64)))


def inverted(inner: int, outer: int, stride: int, act: type[nn.Module]) -> nn.Module:
    """Return a block of MobileNet or EfficientNet: wide, depthwise, excited, narrow."""
    wide = inner * 4
    branch = nn.Sequential(
        normed(inner, wide, act=act),
        normed(wide, wide, 3, act=act, stride=stride, groups=wide),
        Excite(wide),
        nn.Conv2d(wide, outer, 1, bias=False),
        nn.BatchNorm2d(outer),
    )
    return Residual(branch, drop=0.2) if stride == 1 and inner == outer else branch


@VISION.add
def efficientnet() -> Built:
    """Depthwise convolutions with SiLU and stochastic depth."""
    blocks = [inverted(8, 8, 1, nn.SiLU), inverted(8, 16, 2, nn.SiLU)]
    return classify(nn.Sequential(normed(3, 8, 3, act=nn.SiLU, stride=2), *blocks, head(16)))


@VISION.add
def mobilenet() -> Built:
    """Depthwise convolutions with the activations that are cheap on telephones."""
    blocks = [inverted(8, 8, 1, nn.Hardswish), inverted(8, 16, 2, nn.ReLU6)]
    gate = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Hardsigmoid(), nn.Dropout2d(0.1))
    return classify(nn.Sequential(normed(3, 8, 3, act=nn.Hardswish, stride=2), *blocks, gate, head(16)))


class Turned(nn.Module):
    """A layer on channels, which stand last for it alone."""

    def __init__(self, inner: nn.Module) -> None:
        """Take the layer."""
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn, apply, turn back."""
        return self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@VISION.add
def convnext() -> Built:
    """Wide depthwise convolutions with layer norm and GELU."""

    def block(width: int) -> nn.Module:
        wide = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        return Residual(nn.Sequential(nn.Conv2d(width, width, 7, padding=3, groups=width), Turned(wide)), drop=0.1)

    down = nn.Sequential(Turned(nn.LayerNorm(16)), nn.Conv2d(16, 32, 2, 2))
    return classify(nn.Sequential(nn.Conv2d(3, 16, 4, 4), block(16), down, block(32), head(32, norm=True)))


class Attention(nn.Module):
    """Attention by hand or fused, within windows where told so, with a learnt bias by place as Swin has it."""

    def __init__(self, width: int, heads: int, *, fused: bool, places: int = 0) -> None:
        """Take widths, and the number of places of a window."""
        super().__init__()
        self.heads, self.fused = heads, fused
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(2 * places, heads)) if places else None
        self.register_buffer("index", torch.randint(0, 2 * places, (places, places)) if places else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix tokens."""
        batch, length, width = x.shape
        query, key, value = self.mixed(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = None if self.bias is None else self.bias[self.index].permute(2, 0, 1)[None]
        if self.fused:
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        else:
            scores = query * (width // self.heads) ** -0.5 @ key.transpose(-2, -1)
            scores = (scores if bias is None else scores + bias).softmax(-1)
            mixed = functional.dropout(scores, 0.1, training=self.training) @ value
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


def block(width: int, **options: Any) -> nn.Sequential:
    """Return a block of a transformer that norms first."""
    wide = [nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * width, width)]
    mixing = nn.Sequential(nn.LayerNorm(width), Attention(width, 4, **options))
    return nn.Sequential(Residual(mixing, drop=0.1), Residual(nn.Sequential(*wide)))


class Vit(nn.Module):
    """A vision transformer with a token for the class and learnt places."""

    def __init__(self, *, fused: bool) -> None:
        """Take which attention."""
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, 8)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(torch.zeros(1, 16, 32))
        self.blocks = nn.Sequential(block(32, fused=fused), block(32, fused=fused))
        self.head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify."""
        places = functional.interpolate(
            self.places.view(1, 4, 4, 32).permute(0, 3, 1, 2), size=(4, 4), mode="bicubic", antialias=True
        )
        x = (self.patch(x) + places).flatten(2).transpose(1, 2)
        return self.head(self.blocks(torch.cat([self.token.expand(len(x), -1, -1), x], 1))[:, 0])


VISION.put("vit-fused", lambda: classify(Vit(fused=True)))
VISION.put("vit-eager", lambda: classify(Vit(fused=False)))


class Swin(nn.Module):
    """Window attention, shifted, and merging of patches."""

    def __init__(self) -> None:
        """Two stages."""
        super().__init__()
        self.patch, self.blocks = nn.Conv2d(3, 16, 4, 4), nn.ModuleList()
        self.blocks.extend(block(16, fused=fused, places=16) for fused in (False, True))
        self.merge = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 32, bias=False))
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify."""
        x = self.patch(x).permute(0, 2, 3, 1)
        for shift, inner in zip((0, 2), self.blocks, strict=True):
            x = torch.roll(x, (-shift, -shift), (1, 2))
            windows = x.view(-1, 2, 4, 2, 4, 16).transpose(2, 3).reshape(-1, 16, 16)
            x = inner(windows).view(-1, 2, 2, 4, 4, 16).transpose(2, 3).reshape(-1, 8, 8, 16)
            x = torch.roll(x, (shift, shift), (1, 2))
        x = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
        return self.head(self.merge(x).mean((1, 2)))


VISION.put("swin", lambda: classify(Swin()))


class Across(nn.Module):
    """A layer over places rather than channels."""

    def __init__(self, inner: nn.Module) -> None:
        """Take the layer."""
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn, apply, turn back."""
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


class Rows(nn.Module):
    """Pixels as rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Put channels last."""
        return x.flatten(2).transpose(1, 2)


@VISION.add
def mlp_mixer() -> Built:
    """Linear layers across places and across channels."""

    def wide(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width))

    mixing = nn.Sequential(
        Residual(nn.Sequential(nn.LayerNorm(32), Across(wide(16)))),
        Residual(nn.Sequential(nn.LayerNorm(32), wide(32))),
    )
    tail = [nn.LayerNorm(32), nn.AdaptiveAvgPool2d((1, 32)), nn.Flatten(), nn.Linear(32, CLASSES)]
    return classify(nn.Sequential(nn.Conv2d(3, 32, 8, 8), Rows(), mixing, *tail))


class Segmenter(nn.Module):
    """A U-Net with transposed convolutions, and a bilinear way up beside them."""

    def __init__(self) -> None:
        """Three levels."""
        super().__init__()
        widths = (3, 8, 16, 32)
        self.downs = nn.ModuleList(normed(a, b, 3, act=nn.LeakyReLU) for a, b in pairwise(widths))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in ((16, 32), (8, 16)))
        self.joins = nn.ModuleList(normed(2 * a, a, 3, act=nn.PReLU) for a in (16, 8))
        self.out, self.aux = nn.Conv2d(8, 5, 1), nn.Conv2d(32, 5, 1)
        self.pool, self.atrous = nn.MaxPool2d(2, return_indices=False), nn.Conv2d(32, 32, 3, padding=2, dilation=2)
        self.norm = nn.InstanceNorm2d(32, affine=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores for each pixel, twice."""
        past = []
        for index, down in enumerate(self.downs):
            x = down(self.pool(x) if index else x)
            past.append(x)
        x = functional.elu(self.norm(self.atrous(x)))
        aux = functional.interpolate(self.aux(x), scale_factor=4, mode="bilinear", align_corners=False)
        for up, join, skip in zip(self.ups, self.joins, past[-2::-1], strict=True):
            x = join(torch.cat([up(x), skip], 1))
        return self.out(x), aux


@VISION.add
def unet_segmentation() -> Built:
    """Segmentation with cross-entropy and the overlap loss."""
    model, data, classes = Segmenter(), torch.rand(2, 3, SIDE, SIDE), torch.randint(0, 5, (2, SIDE, SIDE))
    weights = torch.rand(5)

    def loss() -> torch.Tensor:
        out, aux = model(data)
        hot = functional.one_hot(classes, 5).permute(0, 3, 1, 2).float()
        chance = out.softmax(1)
        overlap = 1 - 2 * (chance * hot).sum((2, 3)) / (chance.square() + hot).sum((2, 3)).clamp_min(1e-6)
        crossed = functional.cross_entropy(out, classes, weight=weights, ignore_index=4)
        focal = functional.binary_cross_entropy_with_logits(aux, hot, pos_weight=torch.ones(5, 1, 1))
        return crossed + overlap.mean() + 0.4 * focal

    return train(model, loss, evaluate=lambda: model(data)[0].argmax(1))


@VISION.add
def video_3d() -> Built:
    """Convolutions in space and time."""
    body = nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2))
    model = nn.Sequential(body, nn.ConvTranspose3d(8, 8, 2, 2), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(1024, CLASSES))
    data, classes = torch.rand(2, 3, 4, 16, 16), torch.randint(0, CLASSES, (2,))
    return train(model, lambda: functional.cross_entropy(model(data), classes))


@VISION.add
def super_resolution() -> Built:
    """Shuffled pixels, bicubic beside them, and the losses of restoration."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.PReLU(16), nn.Conv2d(16, 12, 3, padding=1))
    data = torch.rand(2, 3, 16, 16)
    target = torch.rand(2, 3, 32, 32)

    def loss() -> torch.Tensor:
        base = functional.interpolate(data, scale_factor=2, mode="bicubic", align_corners=True)
        out = functional.pixel_shuffle(model(data), 2) + base
        edges = (out.diff(dim=-1).abs().mean() + out.diff(dim=-2).abs().mean()) * 0.1
        return functional.l1_loss(out, target) + functional.huber_loss(out, target) + edges

    return train(model, loss)


class Sampled(nn.Module):
    """A spatial transformer: the picture is sampled where the model looks."""

    def __init__(self) -> None:
        """A small locator."""
        super().__init__()
        self.locate = nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(16, 6))
        self.rest = nn.Sequential(normed(3, 8, 3), head(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Look, then classify."""
        grid = functional.affine_grid(self.locate(x).view(-1, 2, 3), list(x.shape), align_corners=False)
        return self.rest(functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False))


VISION.put("spatial-transformer", lambda: classify(Sampled()))
