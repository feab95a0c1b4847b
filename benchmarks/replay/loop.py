"""Run a program: what each of its words means in torch.

Not here: which programs there are (`programs.py`), the networks (`nets.py`), what is compared (`run.py`).
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from nets import CLASSES, Cache, Lora, Muon, Net, Outside, TroubleError, make_block, newton_schulz
from programs import SWITCHES, Program, Value
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pack_padded_sequence

LOSSES = {"mse": functional.mse_loss, "l1": functional.l1_loss, "smooth": functional.smooth_l1_loss}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.01),
    "momentum": partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.01),
    "adam": partial(torch.optim.Adam, lr=0.001, foreach=False),
    "adamw": partial(torch.optim.AdamW, lr=0.001),
    "fused": partial(torch.optim.AdamW, lr=0.001, fused=True),
    "muon": Muon,
    "in_backward": partial(torch.optim.SGD, lr=0.01),
    "closure": partial(torch.optim.SGD, lr=0.01),
}
# Words that are attributes of the network, and words that it is told behind its modules' backs.
OF_NET = {
    **{word: word for word in ("layer_drop", "early_exit", "iterations", "branches", "checkpointing", "casts")},
    "thread": "has_thread",
    "tensor_hook": "hooks_tensors",
}
ELSEWHERE = {
    "causal_elsewhere": "causal",
    "selective_elsewhere": "selective",
    "iterations_elsewhere": "iterations",
    "twin": "twin",
}


class Watcher(Protocol):
    """What a program asks of a meter."""

    def watch(self, model: Any, *more: Any) -> None:
        """Take modules whose forwards begin passages."""

    def step(self, tokens: int = 0) -> None:
        """Close a step."""

    def purpose(self, name: str) -> AbstractContextManager[None]:
        """Label what runs inside."""


class Unmetered:
    """No meter at all, for the run that shows what would happen without one."""

    def watch(self, model: Any, *more: Any) -> None:
        """Do nothing."""

    def step(self, tokens: int = 0) -> None:
        """Do nothing."""

    def purpose(self, name: str) -> AbstractContextManager[None]:
        """Do nothing."""
        del name
        return nullcontext()


@dataclass(slots=True)
class Trace:
    """What a run leaves: a digest of the bits of every loss, parameter and random state, and hooks on its modules."""

    losses: list[float] = field(default_factory=list)
    digest: str = ""
    modules: list[nn.Module] = field(default_factory=list)


def train(program: Program, meter: Watcher) -> Trace:
    """Run a program from its seed."""
    torch.manual_seed(program.seed)
    loop = _Loop(program, meter)
    for step in range(program.steps):
        loop.step(step)
    return loop.finish()


class _Loop:
    """One run of a program: its networks, its optimizers and the settings of now."""

    def __init__(self, program: Program, meter: Watcher) -> None:
        self.program, self.meter, self.trace = program, meter, Trace()
        self.now: dict[str, Value] = {word: first for word, (first, _) in SWITCHES.items()}
        self.now.update(dict(program.habits))
        self.moments: dict[str, Value] = {}
        self.outside = Outside(program.seed)
        self.rng = self.outside.rng
        self.net = Net(program.blocks, program.width, self.outside)
        self.other = nn.Sequential(nn.Linear(CLASSES, 4), nn.ReLU(), nn.Linear(4, CLASSES))
        self.handles: dict[str, list[Any]] = {}
        self.optimizers: list[torch.optim.Optimizer] = []
        self.of_other = torch.optim.SGD(self.other.parameters(), lr=0.01)
        self.held_out = self.real = torch.empty(0)
        self.average: dict[nn.Parameter, torch.Tensor] = {}
        self._watch()
        for word in self.now:
            self._apply(word)

    def _watch(self) -> None:
        watched = self.now.get("watched", "net")
        if watched == "net":
            self.meter.watch(self.net)
        elif watched == "inner":
            self.meter.watch(self.net.blocks[0])
        elif watched == "twice":
            self.meter.watch([self.net, self.net.blocks[0]])
        elif watched == "both":
            self.meter.watch(self.net, self.other)
        if self.now.get("second") and watched not in ("both", "nothing", "late"):
            self.meter.watch(self.other)

    def step(self, index: int) -> None:
        """Make one training step."""
        self.moments = {}
        if index == 3 and self.now.get("watched") == "late":
            self.meter.watch(self.net)
        for at, word, value in self.program.events:
            if at != index:
                continue
            if word in SWITCHES:
                self.now[word] = value
                self._apply(word)
            else:
                self.moments[word] = value
        name = str(self.now["purpose"])
        with self.meter.purpose(name) if name else nullcontext():
            self._update(index)
        self._after(index)
        if self.now["meter_step"]:
            self.meter.step(tokens=int(self.now["batch"]) * int(self.now["length"]))

    # Switches.

    def _apply(self, word: str) -> None:
        """Carry a setting to where it is read; the others are read at each step."""
        value: Any = self.now[word]
        if word in OF_NET:
            setattr(self.net, OF_NET[word], value)
        elif word in ELSEWHERE:
            setattr(self.outside, ELSEWHERE[word], value)
        elif word in ("forward_hook", "hook_swapped", "parameter_hook"):
            self._hook(word, value)
        elif word in ("optimizer", "schulz"):
            self._make_optimizers(word, value)
        elif word == "training":
            self.net.train(value)
        elif word == "frozen":
            self._freeze(value)
        elif word in ("dropout", "causal"):
            self._set_parts("p" if word == "dropout" else "causal", value)
        elif word == "merged":
            self._merge(merged=value)

    def _merge(self, *, merged: bool) -> None:
        for part in self.net.modules():
            if isinstance(part, Lora):
                part.merge(merged=merged)

    def _set_parts(self, name: str, value: Any) -> None:
        for part in self.net.modules():
            if isinstance(part, nn.Dropout if name == "p" else nn.Module) and hasattr(part, name):
                setattr(part, name, value)

    def _freeze(self, which: str) -> None:
        for index, block in enumerate(self.net.blocks):
            is_frozen = which == "blocks" or (which == "first" and index == 0) or (which == "alternate" and index % 2)
            block.requires_grad_(not is_frozen)

    def _make_optimizers(self, word: str, value: Any) -> None:
        if word == "schulz":
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["iterations"] = value
            return
        self._unhook("in_backward")
        parameters = list(self.net.parameters())
        if value == "in_backward":
            self.optimizers = []
            for parameter in parameters:
                optimizer = OPTIMIZERS["in_backward"]([parameter])
                wants = parameter.requires_grad
                parameter.requires_grad_()  # else it takes no hook
                self._keep("in_backward", parameter.register_post_accumulate_grad_hook(partial(_step_now, optimizer)))
                parameter.requires_grad_(wants)
            return
        self.optimizers = [OPTIMIZERS[value](parameters)]

    def _hook(self, word: str, value: Any) -> None:
        self._unhook(word)
        if not value:
            return
        if word == "parameter_hook":
            for parameter in self.net.head.parameters():  # never frozen
                self._keep(word, parameter.register_hook(lambda gradient: gradient.tanh() * 1.1))
        else:
            hook = _compute_more if value == "large" else _compute
            self._keep(word, self.net.blocks[0].register_forward_hook(hook))

    def _keep(self, word: str, handle: Any) -> None:
        self.handles.setdefault(word, []).append(handle)

    def _unhook(self, word: str) -> None:
        for handle in self.handles.pop(word, []):
            handle.remove()

    def _change_layers(self) -> None:
        width, blocks = self.program.width, self.net.blocks
        kind = self.moments.get("add_layer")
        if kind and len(blocks) < 5:
            block = make_block(str(kind), width, self.outside)
            blocks.append(block.train(self.net.training))
            for optimizer in self.optimizers:
                optimizer.add_param_group({"params": list(block.parameters())})
        if "remove_layer" in self.moments and len(blocks) > 1:
            del blocks[-1]

    # One update.

    def _update(self, index: int) -> None:
        self._change_layers()
        micro_batches = self.now["micro_batches"]
        times = self.rng.randint(1, 3) if micro_batches == "random" else int(micro_batches)
        is_whole = True
        with self._cast("step"):
            self.held_out = torch.randn(2, int(self.now["length"]), self.program.width)
            self.real = torch.randn(2, CLASSES)
            for x in [self._data(index) for _ in range(times)]:
                is_whole &= self._micro_batch(x)
            if is_whole:
                self._before_step()
        if is_whole:
            self._optimize(index)
        is_to_none = not self.now["keep_gradients"]
        self.net.zero_grad(set_to_none=is_to_none)
        self.other.zero_grad(set_to_none=is_to_none)

    def _micro_batch(self, x: torch.Tensor) -> bool:
        """Make one forward and backward; say whether nothing went wrong that was not made good."""
        how = ""
        for place in ("forward", "loss", "backward"):
            how = str(self.moments.pop(f"error_{place}", how))
            self.outside.trouble = place if how and not self.outside.trouble else self.outside.trouble
        is_good = True
        try:
            self._learn(x)
        except TroubleError:
            self.net.zero_grad()
            is_good = how == "retry"
            if is_good:
                for half in x.chunk(2):
                    self._learn(half)
        self.outside.trouble = ""
        return is_good

    def _data(self, index: int) -> torch.Tensor:
        lengths = self.now.get("lengths")
        length = 2 + index // 3 if lengths == "growing" else self.rng.randint(2, 5) if lengths else self.now["length"]
        return torch.randn(int(self.now["batch"]), int(length), self.program.width)

    @contextmanager
    def _cast(self, where: str) -> Iterator[None]:
        with torch.autocast("cpu", torch.bfloat16) if self.now["autocast"] == where else nullcontext():
            yield

    def _learn(self, x: torch.Tensor) -> None:
        """Run forward, loss and backward, in the way that the moment says."""
        if self.now.get("second") == "gan":
            self._teach_judge(x)
        how = self.now["checkpointing"]
        # What torch refuses: two backwards through selective checkpoints, autograd.grad through reentrant ones.
        can_twice = not (how in ("reentrant", "selective") or (how and self.now["selective_elsewhere"]))
        is_penalized = can_twice and ("penalty" in self.moments or "penalty" in self.now)
        x.requires_grad_(is_penalized)
        with sdpa_kernel(SDPBackend.MATH) if is_penalized else nullcontext():
            self._pass(x, is_penalized=is_penalized, can_twice=can_twice)

    def _pass(self, x: torch.Tensor, *, is_penalized: bool, can_twice: bool) -> None:
        with self._cast("forward"):
            out = self._forward(x).float()
            if "evaluation_amid" in self.moments:
                self._evaluate(str(self.moments["evaluation_amid"]), self.held_out)
            loss = self._lose(out, x)
            if is_penalized:
                (slope,) = torch.autograd.grad(loss, x, create_graph=True, allow_unused=True)
                loss = loss if slope is None else loss + slope.square().mean()
        self.outside.fail("loss")
        self.trace.losses.append(loss.item())
        if "forward_only" in self.moments:
            return
        if "grad_on_head" in self.moments and self.now["checkpointing"] != "reentrant":
            torch.autograd.grad(loss, list(self.net.head.parameters()))
            return
        if "backward_twice" in self.moments and can_twice and self.now["optimizer"] != "in_backward":
            loss.backward(retain_graph=True)
        loss.backward()

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        options: dict[str, Any] = {}
        if self.now["causal_argument"]:
            options["causal"] = True
        packed = self.now.get("packed") or ("tensor" if self.now.get("packed_tensor") else "")
        if packed:
            lengths = [x.shape[1], *(self.rng.randint(1, x.shape[1]) for _ in range(x.shape[0] - 1))]
            if packed == "sequence":
                return self.net(pack_padded_sequence(x, torch.tensor(sorted(lengths)[::-1]), batch_first=True))
            options["lengths"] = lengths if packed == "list" else torch.tensor(lengths)
        self.outside.detached = "detached" in self.moments
        try:
            return self.net(x, **options)
        finally:
            self.outside.detached = False

    def _lose(self, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if self.now.get("second") == "teacher":
            with torch.no_grad():
                target = self.other(out.detach().float())
        else:
            target = self.other(out) if self.now.get("second") == "gan" else torch.zeros_like(out)
        rows = int(self.moments.get("loss_rows", x.shape[1]))
        loss = LOSSES[str(self.now["loss_kind"])](out[:, :rows], target[:, :rows])
        if self.now["loss_term"]:
            loss = loss + 0.1 * out.square().mean()
        return loss

    def _teach_judge(self, x: torch.Tensor) -> None:
        made = self.net(x)
        loss = self.other(self.real).mean() - self.other(made.detach().float()).mean()
        loss.backward()
        self.of_other.step()
        self.of_other.zero_grad()

    @torch.no_grad()
    def _before_step(self) -> None:
        """Work without gradients between the backward and the optimizer, outside of any module."""
        if "clip" in self.moments or "clip" in self.now:
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        if "ema" in self.moments or "ema" in self.now:
            self._average()
        if "metrics" in self.moments:
            self._measure()
        times = max(int(self.now["schulz_between"]), int(self.moments.get("schulz_once", 0)))
        if times:
            newton_schulz(self.net.head.weight, iterations=times)

    def _optimize(self, index: int) -> None:
        if self.now.get("second") == "gan" or "second_optimizer" in self.moments:
            self.of_other.step()
        if "second_optimizer" in self.moments and index % 2:
            return
        for optimizer in self.optimizers:
            if self.now["optimizer"] == "closure":
                optimizer.step(lambda: self._closure(index))
            else:
                optimizer.step()

    def _closure(self, index: int) -> torch.Tensor:
        loss = self.net(self._data(index)).float().square().mean()
        loss.backward()
        return loss

    # Work between updates.

    def _after(self, index: int) -> None:
        moments = self.moments
        with torch.no_grad():
            if "ema_after" in moments:
                self._average()
            if "metrics_after" in moments:
                self._measure()
            if "schulz_after" in moments:
                newton_schulz(self.net.head.weight, iterations=int(moments["schulz_after"]))
        if "per_sample" in moments:
            self._differentiate(index)
        for word in ("generation", "generation_attribute"):
            if word in moments:
                self._generate(int(moments[word]), keeps=word == "generation_attribute")
        if "error_evaluation" in moments:
            self.outside.trouble = "forward" if self.rng.random() < 0.5 else ""
            self._evaluate("no_grad")
        if "evaluation_thread" in moments:
            thread = threading.Thread(target=self._evaluate, args=("no_grad",))
            thread.start()
            thread.join()
        if "evaluation" in moments:
            self._evaluate(str(moments["evaluation"]))

    def _average(self) -> None:
        for parameter in self.net.parameters():
            mean = self.average.setdefault(parameter, torch.zeros_like(parameter, requires_grad=False))
            mean.lerp_(parameter.detach(), 0.1)

    def _measure(self) -> None:
        weights = self.net.head.weight
        self.trace.losses.append((weights @ weights.mT).softmax(-1).max(-1).values.mean().item())

    def _evaluate(self, how: str, given: torch.Tensor | None = None) -> None:
        mode, _, is_apart = how.partition(" ")
        around = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(mode, nullcontext)
        was_training = self.net.training
        if is_apart:
            self.net.eval()
        with around(), self.meter.purpose("evaluation") if is_apart else nullcontext():
            x = torch.randn(2, int(self.now["length"]), self.program.width) if given is None else given
            try:
                out = self.net.spare(x) if mode == "method" else self.net(x)
                self.trace.losses.append(out.float().square().mean().item())
            except TroubleError:
                pass
        self.outside.trouble = ""
        if is_apart:
            self.net.train(was_training)

    @torch.no_grad()
    def _generate(self, tokens: int, *, keeps: bool) -> None:
        """Feed a few tokens one by one, with a cache that is an argument, or one that the layers keep."""
        self._set_parts("keeps", keeps)
        cache: Cache = {}
        token = torch.randn(1, 1, self.program.width)
        for _ in range(tokens):
            out = self.net(token) if keeps else self.net(token, cache=cache)
            token = token + out.float().mean()
        self._set_parts("keeps", value=False)
        self._set_parts("kept", None)

    def _differentiate(self, index: int) -> None:
        """Take the gradients of each sample, by torch.func."""
        weights = {name: value.detach() for name, value in self.other.named_parameters()}

        def lose(values: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(self.other, values, (x,)).square().mean()

        found = torch.func.vmap(torch.func.grad(lose), in_dims=(None, 0))(weights, torch.randn(2 + index % 2, CLASSES))
        self.trace.losses.append(sum(value.sum().item() for value in found.values()))

    def finish(self) -> Trace:
        """Take the program's own hooks away, and digest what is left."""
        for word in list(self.handles):
            self._unhook(word)
        tensors = [*self.net.parameters(), *self.other.parameters(), *self.average.values(), torch.get_rng_state()]
        self.trace.digest = _digest([*tensors, torch.tensor(self.trace.losses, dtype=torch.float64)])
        self.trace.modules = [*self.net.modules(), *self.other.modules()]
        return self.trace


def _step_now(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> None:
    optimizer.step()
    parameter.grad = None


def _compute(_module: nn.Module, _args: Any, out: torch.Tensor) -> torch.Tensor:
    return out * 1.01


def _compute_more(_module: nn.Module, _args: Any, out: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        (out.detach() @ out.detach().transpose(-1, -2)).softmax(-1)
    return out * 1.01


def _digest(tensors: Iterable[torch.Tensor]) -> str:
    """Return a digest of bits: NaN equals itself here, and 0 is not -0."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()
