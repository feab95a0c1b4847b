"""Models of science and sound: spectra, flows, processes, diffusion."""

import math

import torch
from subject import Built, Table, train
from torch import nn
from torch.nn import functional

SIGNALS = Table()


class Spectral(nn.Module):
    """A layer of a Fourier neural operator: complex weights on the lowest frequencies."""

    def __init__(self, width: int, kept: int) -> None:
        """Take how many frequencies are kept."""
        super().__init__()
        self.kept = kept
        self.weight = nn.Parameter(torch.randn(2, width, width, kept, kept, dtype=torch.cfloat) * 0.1)
        self.past = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Go to frequencies, multiply, come back."""
        wave, kept = torch.fft.rfft2(x), self.kept
        out = torch.zeros_like(wave)
        out[..., :kept, :kept] = torch.einsum("bixy,ioxy->boxy", wave[..., :kept, :kept], self.weight[0])
        out[..., -kept:, :kept] = torch.einsum("bixy,ioxy->boxy", wave[..., -kept:, :kept], self.weight[1])
        return functional.gelu(torch.fft.irfft2(out, s=x.shape[-2:]) + self.past(x))


@SIGNALS.add
def fourier_operator() -> Built:
    """Two spectral layers on a field; weights that are complex numbers, and their AdamW."""
    model = nn.Sequential(nn.Conv2d(1, 8, 1), Spectral(8, 4), Spectral(8, 4), nn.Conv2d(8, 1, 1))
    data, target = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)

    def loss() -> torch.Tensor:
        missed = (model(data) - target).flatten(1)
        return (missed.norm(dim=1) / target.flatten(1).norm(dim=1)).mean()

    return train(model, loss)


@SIGNALS.add
def complex_network() -> Built:
    """Complex linear layers, transforms of all lengths, phases and sizes."""
    model = nn.Sequential(nn.Linear(16, 16, dtype=torch.cfloat), nn.Linear(16, 8, dtype=torch.cfloat))
    data = torch.rand(4, 16)

    def loss() -> torch.Tensor:
        out = model(torch.fft.fft(data, norm="ortho"))
        back = torch.fft.ifft(torch.tanh(out) * out.conj() / (out.abs() + 1)[..., :1])
        turned = torch.fft.hfft(back) + torch.fft.fftn(back).real.sum()
        return out.angle().cos().mean() + turned.square().mean() + back.imag.mean() + (out * 2).exp().real.mean() * 0

    return train(model, loss)


class Listener(nn.Module):
    """Speech to letters: spectrogram, convolutions, a recurrent layer."""

    def __init__(self) -> None:
        """Small."""
        super().__init__()
        self.register_buffer("window", torch.hann_window(64))
        self.register_buffer("mel", torch.rand(33, 16))
        self.conv = nn.Sequential(nn.Conv1d(16, 16, 3, 2), nn.BatchNorm1d(16), nn.GLU(1), nn.AvgPool1d(2, 1))
        self.layer, self.head = nn.GRU(8, 8, bidirectional=True, batch_first=True), nn.Linear(16, 12)

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        """Return log-chances of letters over time."""
        wave = torch.stft(sound, 64, 16, window=self.window, return_complex=True)
        power = torch.view_as_real(wave).square().sum(-1)
        level = (power.transpose(1, 2) @ self.mel).clamp_min(1e-5).log10()
        level = (level - level.mean(1, keepdim=True)) / level.std(1, keepdim=True)
        return self.head(self.layer(self.conv(level.transpose(1, 2)).transpose(1, 2))[0]).log_softmax(-1)


@SIGNALS.add
def speech_ctc() -> Built:
    """Speech to letters with the CTC loss."""
    model, sound = Listener(), torch.randn(2, 800)
    letters, lengths = torch.randint(1, 12, (2, 5)), torch.tensor([5, 3])

    def loss() -> torch.Tensor:
        out = model(sound).transpose(0, 1)
        return functional.ctc_loss(out, letters, torch.tensor([len(out), len(out) - 4]), lengths, zero_infinity=True)

    return train(model, loss, evaluate=lambda: model(sound).argmax(-1))


@SIGNALS.add
def sound_masking() -> Built:
    """A mask on a spectrogram and back to sound, with the loss of signal to noise."""
    model = nn.Sequential(nn.Conv1d(33, 33, 3, padding=1), nn.Sigmoid())
    sound, window = torch.randn(2, 640), torch.hann_window(64)

    def loss() -> torch.Tensor:
        wave = torch.stft(sound, 64, 16, window=window, return_complex=True)
        back = torch.istft(wave * model(wave.abs()), 64, 16, window=window, length=640)
        noise = (back - sound).square().sum(-1) + 1e-8
        return (10 * torch.log10(noise / back.square().sum(-1).add(1e-8))).mean()

    return train(model, loss)


class Flow(nn.Module):
    """Invertible layers: a full matrix, a triangular one, a coupling."""

    def __init__(self) -> None:
        """Six dimensions."""
        super().__init__()
        self.full = nn.Parameter(torch.eye(6) + 0.1 * torch.randn(6, 6))
        self.lower = nn.Parameter(0.1 * torch.randn(6, 6))
        self.inner = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log-likelihood."""
        lower = self.lower.tril(-1) + torch.eye(6)
        x = torch.linalg.solve_triangular(lower, (x @ self.full).mT, upper=False).mT
        left, right = x.chunk(2, -1)
        scale, shift = self.inner(left).chunk(2, -1)
        right = right * scale.tanh().exp() + shift
        size = torch.slogdet(self.full)[1] + scale.tanh().sum(-1) + torch.linalg.det(lower).log()
        base = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
        return base.log_prob(left).sum(-1) + base.log_prob(right).sum(-1) + size


@SIGNALS.add
def normalizing_flow() -> Built:
    """Likelihood by determinants and a triangular solve."""
    model, data = Flow(), torch.randn(8, 6)
    return train(model, lambda: -model(data).mean())


class Process(nn.Module):
    """A Gaussian process with a learnt kernel."""

    def __init__(self) -> None:
        """Three numbers."""
        super().__init__()
        self.length, self.scale, self.noise = (nn.Parameter(torch.zeros(())) for _ in range(3))

    def kernel(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return how alike two sets are."""
        near = torch.cdist(one, other) / functional.softplus(self.length)
        return self.scale.exp() * (1 + math.sqrt(3) * near) * torch.exp(-math.sqrt(3) * near)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return minus the log-likelihood, by three roads that agree."""
        matrix = self.kernel(x, x) + (self.noise.exp() + 1e-3) * torch.eye(len(x))
        lower = torch.linalg.cholesky(matrix)
        solved = torch.cholesky_solve(y[:, None], lower)
        other = torch.linalg.solve(matrix, y[:, None]) + torch.linalg.inv(matrix) @ y[:, None]
        return (y @ (solved + 0.1 * other))[0] / 2 + lower.diagonal().log().sum() + matrix.logdet()


@SIGNALS.add
def gaussian_process() -> Built:
    """A kernel's parameters by likelihood."""
    model, x, y = Process(), torch.rand(10, 2), torch.rand(10)
    return train(model, lambda: model(x, y))


@SIGNALS.add
def linear_algebra() -> Built:
    """Decompositions that models take gradients through."""
    model, data = nn.Linear(5, 5), torch.rand(3, 5, 5)

    def loss() -> torch.Tensor:
        x = model(data)
        alike = x @ x.mT + torch.eye(5) * torch.arange(1, 6)
        values, vectors = torch.linalg.eigh(alike)
        left, sizes, _ = torch.linalg.svd(alike)
        q, r = torch.linalg.qr(x + 3 * torch.eye(5))
        total = values.log().sum() + (vectors[..., 0] ** 2 * values[..., :1]).sum() + sizes.sum() + (left * 0).sum()
        total = total + q.sum() * 0.1 + r.diagonal(dim1=-2, dim2=-1).abs().sum()
        total = total + torch.linalg.matrix_exp(x * 0.1).sum() + torch.linalg.matrix_power(x, 3).sum()
        total = total + torch.linalg.pinv(alike).sum() + torch.linalg.matrix_norm(x, "nuc").sum()
        solved = torch.linalg.lstsq(alike, x).solution
        whole = torch.linalg.lu_factor(alike)
        total = total + solved.sum() + torch.linalg.lu_solve(*whole, x).sum() + torch.linalg.inv_ex(alike)[0].sum()
        total = total + torch.linalg.vector_norm(x, 3) + torch.linalg.eigvalsh(alike).max() + torch.cov(x[0]).sum()
        return (
            total
            + torch.cross(x[..., :3], x[..., 1:4], dim=-1).sum()
            + torch.trace(x[0])
            + torch.kron(x[0], x[1]).sum()
        )

    return train(model, loss)


class Part(nn.Module):
    """A residual block of a diffusion model, told the time, with attention to itself and to a text."""

    def __init__(self, inner: int, outer: int) -> None:
        """Take widths."""
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(4, inner), nn.SiLU(), nn.Conv2d(inner, outer, 3, padding=1))
        self.second = nn.Sequential(nn.GroupNorm(4, outer), nn.SiLU(), nn.Conv2d(outer, outer, 3, padding=1))
        self.time, self.past = nn.Linear(16, 2 * outer), nn.Conv2d(inner, outer, 1)
        self.own = nn.MultiheadAttention(outer, 2, batch_first=True)
        self.text = nn.MultiheadAttention(outer, 2, kdim=12, vdim=12, batch_first=True)
        self.norms = nn.ModuleList([nn.LayerNorm(outer), nn.LayerNorm(outer)])

    def forward(self, x: torch.Tensor, time: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Change a picture a little."""
        scale, shift = self.time(functional.silu(time))[:, :, None, None].chunk(2, 1)
        x = self.past(x) + self.second(self.first(x) * (1 + scale) + shift)
        rows = x.flatten(2).transpose(1, 2)
        normed = self.norms[0](rows)
        rows = rows + self.own(normed, normed, normed, need_weights=False)[0]
        rows = rows + self.text(self.norms[1](rows), text, text, need_weights=False)[0]
        return rows.transpose(1, 2).view_as(x)


class Denoiser(nn.Module):
    """A U-Net that says what is noise."""

    def __init__(self) -> None:
        """Two levels."""
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.down, self.middle, self.up = Part(8, 8), Part(8, 16), Part(24, 8)
        self.time = nn.Sequential(nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 16))

    def forward(self, x: torch.Tensor, steps: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return the noise."""
        turns = steps[:, None].float() * torch.exp(torch.arange(8) * (-math.log(1e4) / 8))
        time = self.time(torch.cat([turns.sin(), turns.cos()], 1))
        first = self.down(self.enter(x), time, text)
        small = functional.avg_pool2d(first, 2)
        deep = self.middle(small, time, text)
        deep = functional.interpolate(functional.interpolate(deep, scale_factor=4), size=(8, 8), mode="bilinear")
        return self.leave(self.up(torch.cat([deep, first], 1), time, text))


@SIGNALS.add
def diffusion_unet() -> Built:
    """Noise goes on, the model says what it was, and a slow copy follows."""
    model, data, text = Denoiser(), torch.rand(2, 3, 8, 8), torch.rand(2, 5, 12)
    slow = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 100), 0)

    def loss() -> torch.Tensor:
        steps, noise = torch.randint(0, 100, (2,)), torch.randn_like(data)
        share = kept[steps][:, None, None, None]
        missed = model(share.sqrt() * data + (1 - share).sqrt() * noise, steps, text) - noise
        weight = (share / (1 - share)).clamp(max=5)
        return (missed.square() * weight).mean()

    return train(model, loss, after=lambda: slow.update_parameters(model))


@SIGNALS.add
def variational_autoencoder() -> Built:
    """Means, deviations, a draw, and a divergence; a codebook beside them."""
    down, up = nn.Linear(16, 8), nn.Linear(4, 16)
    book = nn.Embedding(10, 4)
    model, data = nn.ModuleList([down, up, book]), torch.rand(6, 16)

    def loss() -> torch.Tensor:
        mean, spread = down(data).chunk(2, -1)
        posterior = torch.distributions.Normal(mean, functional.softplus(spread))
        drawn = posterior.rsample()
        near = book(torch.cdist(drawn, book.weight).argmin(-1))
        through = drawn + (near - drawn).detach()
        apart = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
        soft = functional.gumbel_softmax(mean, tau=0.5, hard=True).mean()
        told = functional.gaussian_nll_loss(up(through), data, torch.ones(6, 16)) + soft
        return told + apart + functional.mse_loss(near, drawn.detach()) + functional.poisson_nll_loss(mean, data[:, :4])

    return train(model, loss)


@SIGNALS.add
def policy_gradient() -> Built:
    """A policy and a value, with clipped ratios, as in reinforcement learning."""
    model = nn.ModuleList([nn.Linear(6, 4), nn.Linear(6, 1), nn.Linear(6, 4)])
    data, taken, old, worth = torch.rand(8, 6), torch.randint(0, 4, (8,)), -torch.rand(8), torch.randn(8)

    def loss() -> torch.Tensor:
        policy = torch.distributions.Categorical(logits=model[0](data))
        ratio = (policy.log_prob(taken) - old).exp()
        value = model[1](data).squeeze(-1)
        gain = (worth - value.detach() - worth.mean()) / (worth.std() + 1e-8)
        clipped = torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
        mean = torch.distributions.TransformedDistribution(
            torch.distributions.Normal(model[2](data), torch.ones(4)), torch.distributions.TanhTransform(cache_size=1)
        )
        drawn = mean.rsample()
        mixed = torch.distributions.Beta(model[2](data).exp(), torch.ones(4)).log_prob(torch.full((8, 4), 0.5))
        calm = torch.distributions.Dirichlet(model[2](data).exp()).entropy().mean()
        return -clipped.mean() - 0.01 * policy.entropy().mean() + mean.log_prob(drawn).mean() + mixed.mean() + calm

    return train(model, loss)
