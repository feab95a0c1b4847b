"""Random training programs, as plain values: what is drawn, what of it a witness can see, and how to make it smaller.

A program prints as the Python that makes it, so that one which went wrong can be kept as a test.
Not here: what the words mean in torch (`loop.py`), what becomes of a program under a meter (`run.py`).
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

Value = bool | int | float | str

# Whether the witnesses of a passage tell that this changed: what kinds of change there are, and by what each is seen.
SEEN: Mapping[str, str] = MappingProxyType({
    "batch": "shapes of the arguments",
    "length": "shapes of the arguments",
    "lengths": "shapes of the arguments",
    "micro_batches": "the boundary that ends a passage, and its place",
    "frozen": "the tuple of requires_grad",
    "merged": "an attribute of a module; autograd nodes",
    "training": "training flags",
    "dropout": "an attribute of a module",
    "causal": "an attribute of a module",
    "causal_argument": "an argument",
    "checkpointing": "an attribute of a module; autograd nodes",
    "add_layer": "torch tells of new modules",
    "remove_layer": "the number of children",
    "layer_drop": "autograd nodes, where all layers are of one kind",
    "early_exit": "autograd nodes, where all layers are of one kind",
    "branches": "an attribute of a module; autograd nodes",
    "iterations": "an attribute of a module",
    "forward_hook": "the number of hooks of a module",
    "tensor_hook": "an attribute of a module",
    "thread": "an attribute of a module",
    "packed": "batch sizes of a packed sequence, or lengths in a list",
    "optimizer": "which optimizer it is, and its state",
    "second_optimizer": "which optimizer it is",
    "schulz_after": "nothing need be seen: between passages all is counted",
    "ema_after": "nothing need be seen: between passages all is counted",
    "metrics_after": "nothing need be seen: between passages all is counted",
    "keep_gradients": "whether the first and last gradient are there",
    "evaluation": "the grad mode",
    "evaluation_amid": "the grad mode; the boundary that ends a passage",
    "evaluation_thread": "a gap: it runs on another thread",
    "generation": "the cache is an argument",
    "autocast": "settings of autocast",
    "casts": "an attribute of a module; autograd nodes",
    "error_forward": "autograd nodes; gradients do not change",
    "error_loss": "gradients do not change",
    "error_backward": "the first gradient does not change, the last does",
    "grad_on_head": "gradients do not change",
    "detached": "the first gradient does not change, the last does",
    "penalty": "autograd nodes",
    "forward_only": "gradients do not change",
    "loss_term": "autograd nodes",
    "per_sample": "nothing need be seen: under torch.func all is counted",
    "purpose": "the boundary that ends a passage",
    "meter_step": "the boundary that ends a passage",
})  # fmt: skip

# … and what none of them tells.
UNSEEN: Mapping[str, str] = MappingProxyType({
    "causal_elsewhere": "decided in a closure; as many nodes",
    "selective_elsewhere": "plain or selective checkpointing, decided in a closure; as many nodes",
    "iterations_elsewhere": "work without gradients, decided in a closure",
    "hook_swapped": "another hook in the place of one; no nodes",
    "parameter_hook": "hooks on parameters stand on no module",
    "twin": "a branch by data between two sides that make as many nodes",
    "experts": "how many tokens go to whom is decided by data",
    "two_experts": "how many tokens go to whom is decided by data",
    "full_experts": "how many tokens are dropped is decided by data",
    "packed_tensor": "lengths stand in a tensor",
    "generation_attribute": "the cache is a tensor that a module keeps",
    "schulz": "a whole number in a group of the optimizer's parameters",
    "schulz_once": "work without gradients after the backward, outside of any module",
    "schulz_between": "work without gradients after the backward, outside of any module",
    "clip": "work without gradients after the backward, outside of any module",
    "ema": "work without gradients after the backward, outside of any module",
    "metrics": "work without gradients after the backward, outside of any module",
    "backward_twice": "gradients change once or twice",
    "loss_kind": "another loss that makes as many nodes",
    "loss_rows": "a loss over fewer rows makes as many nodes",
    "error_evaluation": "without gradients there are no nodes that tell how far a forward came",
    # Changes that can be seen alone, and not together.
    "layers_of_several_kinds": "two mixes of layers may make as many nodes",
    "gradients_left_inside": "which inner gradients are there already, so that the next are added to them",
    "branches_without_gradients": "without gradients there are no nodes that tell of a branch",
    "frozen_layers_left_out": "a frozen first layer makes no nodes",
    "casts_kept": "which casts of weights autocast has kept already",
    "after_without_end": "no optimizer's step ends the passage before the work after it",
    "steps_without_end": "no boundary ends the passage before the next step is prepared",
    "alike_without_backward": "several ways in which no gradient changes",
    "alike_with_half_a_backward": "several ways in which the last gradient changes and the first does not",
})  # fmt: skip

LEAVE_LAYERS_OUT = frozenset({"layer_drop", "early_exit"})
LEAVE_GRADIENTS_OUT = LEAVE_LAYERS_OUT | {"branches", "twin", "experts", "two_experts", "full_experts", "detached"}
KEEP_GRADIENTS = frozenset({"micro_batches", "keep_gradients", "backward_twice"})
AFTER = frozenset({"ema_after", "metrics_after", "schulz_after", "per_sample"})
WITHOUT_GRADIENTS = frozenset(
    {"evaluation", "evaluation_amid", "generation", "generation_attribute", "error_evaluation", "evaluation_thread"}
)
NO_GRADIENT_CHANGES = frozenset({"grad_on_head", "forward_only", "error_loss"})
LAST_GRADIENT_CHANGES = frozenset({"detached", "error_backward"})

BLOCKS = ("mlp", "mlp", "mlp", "attention", "attention", "lora", "recurrent", "convolution", "encoder")
LIGHT = ("mlp", "attention", "lora", "convolution")
EXPERTS = ("experts", "two_experts", "full_experts")
NEEDS = MappingProxyType({
    "merged": "lora", "causal": "attention", "causal_argument": "attention", "causal_elsewhere": "attention",
    "generation": "attention", "generation_attribute": "attention", "packed": "recurrent", "packed_tensor": "recurrent",
    "dropout": "mlp",
})  # fmt: skip

# What can be switched at a step and then stays, with the value before any switch and the others.
SWITCHES: Mapping[str, tuple[Value, tuple[Value, ...]]] = MappingProxyType({
    "batch": (2, (1, 3, 4)),
    "length": (4, (2, 3, 6)),
    "micro_batches": (1, (2, 3)),
    "frozen": ("", ("first", "blocks", "alternate")),
    "merged": (False, (True,)),
    "training": (True, (False,)),
    "dropout": (0.0, (0.2,)),
    "causal": (False, (True,)),
    "causal_argument": (False, (True,)),
    "causal_elsewhere": (False, (True,)),
    "checkpointing": ("", ("reentrant", "plain", "selective")),
    "selective_elsewhere": (False, (True,)),
    "iterations": (0, (1, 4)),
    "iterations_elsewhere": (0, (1, 4)),
    "forward_hook": (False, (True,)),
    "hook_swapped": ("", ("small", "large")),
    "tensor_hook": (False, (True,)),
    "parameter_hook": (False, (True,)),
    "thread": (False, (True,)),
    "branches": (False, (True,)),
    "twin": (False, (True,)),
    "optimizer": ("sgd", ("momentum", "adam", "adamw", "fused", "muon", "in_backward", "closure")),
    "schulz": (5, (1, 12)),
    "schulz_between": (0, (5, 12)),
    "keep_gradients": (False, (True,)),
    "autocast": ("", ("forward",)),
    "casts": (False, (True,)),
    "loss_term": (False, (True,)),
    "loss_kind": ("mse", ("l1", "smooth")),
    "purpose": ("", ("pretraining", "experiment")),
    "meter_step": (True, (False,)),
})  # fmt: skip

# What happens at one step, in one of these ways.
MOMENTS: Mapping[str, tuple[Value, ...]] = MappingProxyType({
    "add_layer": ("mlp", "lora", "convolution"),
    "remove_layer": (True,),
    "second_optimizer": (True,),
    "schulz_after": (5, 12),
    "schulz_once": (5, 50),
    "clip": (True,),
    "ema": (True,),
    "ema_after": (True,),
    "metrics": (True,),
    "metrics_after": (True,),
    "evaluation": ("no_grad", "inference_mode", "grad", "no_grad eval", "inference_mode eval", "method"),
    "evaluation_amid": ("no_grad", "inference_mode"),
    "evaluation_thread": ("no_grad",),
    "error_evaluation": ("no_grad",),
    "generation": (3, 5),
    "generation_attribute": (3, 5),
    "error_forward": ("retry", "leave"),
    "error_loss": ("retry", "leave"),
    "error_backward": ("retry", "leave"),
    "grad_on_head": (True,),
    "detached": (True,),
    "penalty": (True,),
    "per_sample": (True,),
    "forward_only": (True,),
    "backward_twice": (True,),
    "loss_rows": (1, 2, 3),
})  # fmt: skip

# What goes on for the whole run; those that vary by themselves are changes.
HABITS: Mapping[str, tuple[Value, ...]] = MappingProxyType({
    "lengths": ("growing", "random"),
    "micro_batches": ("random", 2),
    "layer_drop": (0.3,),
    "early_exit": (1.0, 1.1),
    "packed": ("sequence", "list"),
    "packed_tensor": (True,),
    "optimizer": ("momentum", "adam", "adamw", "fused", "muon", "in_backward", "closure"),
    "second": ("gan", "teacher"),
    "watched": ("inner", "both", "twice", "late", "nothing"),
    "clip": (True,),
    "ema": (True,),
    "checkpointing": ("reentrant", "plain", "selective"),
    "autocast": ("forward", "step"),
    "meter_step": (False,),
    "purpose": ("pretraining",),
    "keep_gradients": (True,),
    "schulz_between": (5,),
    "forward_hook": (True,),
    "penalty": (True,),
})  # fmt: skip
RARE = frozenset({"schulz_once", "add_layer", "remove_layer"})
VARYING = frozenset({"lengths", "layer_drop", "early_exit", "packed", "packed_tensor"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A training run: the layers of its model, what it does throughout, and what happens at which step.

    `habits` are pairs of word and value, `events` triples of step, word and value. The seed decides data, weights and
    whatever the run leaves to chance.
    """

    seed: int = 0
    steps: int = 12
    width: int = 4
    blocks: tuple[str, ...] = ("mlp",)
    habits: tuple[tuple[str, Value], ...] = ()
    events: tuple[tuple[int, str, Value], ...] = ()

    def words(self) -> tuple[str, ...]:
        """Return what it is made of, changing or not, each once."""
        words = [*self.blocks, *(word for word, _ in self.habits), *(word for _, word, _ in self.events)]
        return tuple(sorted(set(words)))


def find_changes(program: Program) -> frozenset[str]:
    """Return what varies in a program, in the words of `SEEN` and `UNSEEN`."""
    habits = dict(program.habits)
    changes = {word for _, word, _ in program.events}
    changes |= {word for word in habits if word in VARYING} | set(program.blocks) & set(EXPERTS)
    if habits.get("micro_batches") == "random":
        changes.add("micro_batches")
    added = {value for _, word, value in program.events if word == "add_layer"}
    keeps = changes | habits.keys()
    optimizers = {habits.get("optimizer"), *(value for _, word, value in program.events if word == "optimizer")}
    leaves = any(value == "leave" for _, _, value in program.events)
    has_open_evaluation = any(word == "evaluation" and value == "grad" for _, word, value in program.events)
    has_no_end = leaves or "in_backward" in optimizers
    found = {
        "layers_of_several_kinds": changes & LEAVE_LAYERS_OUT and len({*program.blocks, *added}) > 1,
        "frozen_layers_left_out": changes & LEAVE_LAYERS_OUT and "frozen" in changes,
        "gradients_left_inside": (changes & LEAVE_GRADIENTS_OUT and keeps & KEEP_GRADIENTS)
        or ("frozen" in changes and "keep_gradients" in keeps),
        "branches_without_gradients": changes & {"early_exit", "branches"}
        and (changes & WITHOUT_GRADIENTS or habits.get("second") == "teacher"),
        "casts_kept": habits.get("autocast") == "step"
        and changes & {*LEAVE_LAYERS_OUT, "branches"}
        and "evaluation_amid" in changes,
        "alike_without_backward": len(changes & NO_GRADIENT_CHANGES) + has_open_evaluation > 1,
        "alike_with_half_a_backward": len(changes & LAST_GRADIENT_CHANGES) > 1,
        "after_without_end": changes & AFTER and has_no_end,
        "steps_without_end": "meter_step" in keeps and (has_no_end or has_open_evaluation),
    }
    return frozenset(changes | {word for word, holds in found.items() if holds})


def is_seen(program: Program) -> bool:
    """Say whether witnesses can see every change of a program."""
    return not find_changes(program) & UNSEEN.keys()


def draw(seed: str) -> Program:
    """Draw a program; three of five are made of changes that witnesses can see."""
    rng = random.Random(seed)  # noqa: S311 # nothing is to be kept secret
    wants_seen = rng.random() < 0.6
    while True:
        program = _draw(rng, wants_seen=wants_seen)
        if is_seen(program) == wants_seen:
            return program


def _draw(rng: random.Random, *, wants_seen: bool) -> Program:
    steps = rng.randint(8, 12)
    blocks = _draw_blocks(rng, wants_seen=wants_seen)
    habits = {word: rng.choice(HABITS[word]) for word in rng.sample(sorted(HABITS), rng.choice((0, 1, 1, 2, 3)))}
    words = sorted(word for word in (SWITCHES.keys() | MOMENTS.keys()) if not wants_seen or word in SEEN)
    events: list[tuple[int, str, Value]] = []
    for word in rng.sample(words, rng.choice((1, 1, 2, 2, 3, 4))):
        events += _draw_switch(rng, word, steps) if word in SWITCHES else _draw_moments(rng, word, steps)
        if word == "schulz":
            habits["optimizer"] = "muon"
    needed = {NEEDS[word] for word in (*habits, *(word for _, word, _ in events)) if word in NEEDS}
    blocks += [block for block in sorted(needed) if block not in blocks]
    rng.shuffle(blocks)
    return Program(
        seed=rng.randrange(10**6),
        steps=steps,
        width=rng.choice((4, 4, 6, 8)),
        blocks=tuple(blocks),
        habits=tuple(sorted(habits.items())),
        events=tuple(sorted(events, key=lambda event: (event[0], event[1], str(event[2])))),
    )


def _draw_blocks(rng: random.Random, *, wants_seen: bool) -> list[str]:
    """Draw one kind of layer several times, or several kinds; of slow ones no more than one each."""
    if rng.random() < 0.4:
        return [rng.choice(LIGHT)] * rng.choice((1, 1, 2, 3))
    blocks = [rng.choice(BLOCKS if wants_seen else (*BLOCKS, *EXPERTS)) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    return [block for at, block in enumerate(blocks) if block in LIGHT or block not in blocks[:at]]


def _draw_switch(rng: random.Random, word: str, steps: int) -> Iterator[tuple[int, str, Value]]:
    """Switch a thing to and fro, at a few steps, after replay has begun and before."""
    first, others = SWITCHES[word]
    now = first
    for step in sorted(rng.sample(range(1, steps), rng.randint(1, min(4, steps - 1)))):
        now = rng.choice([value for value in (first, *others) if value != now])
        yield (step, word, now)


def _draw_moments(rng: random.Random, word: str, steps: int) -> Iterator[tuple[int, str, Value]]:
    """Let a thing happen once, now and then, or at nearly every step."""
    often = rng.choice((1, 2) if word in RARE else (1, 2, steps // 3, steps - 2))
    value = rng.choice(MOMENTS[word])
    for step in sorted(rng.sample(range(steps), often)):
        yield (step, word, value if rng.random() < 0.7 else rng.choice(MOMENTS[word]))


def shrink(program: Program, still: Callable[[Program], bool]) -> Program:
    """Leave out of a program what can be left out while `still` holds of it."""
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for smaller in _smaller(program):
            if still(smaller):
                program, is_smaller = smaller, True
                break
    return program


def _smaller(program: Program) -> Iterator[Program]:
    for name in ("events", "habits"):
        whole = getattr(program, name)
        for half in (whole[: len(whole) // 2], whole[len(whole) // 2 :]):
            if len(half) < len(whole) and len(whole) > 2:
                yield replace(program, **{name: half})
        for index in range(len(whole)):
            yield replace(program, **{name: whole[:index] + whole[index + 1 :]})
    for index in range(len(program.blocks) if len(program.blocks) > 1 else 0):
        yield replace(program, blocks=program.blocks[:index] + program.blocks[index + 1 :])
    last = max((step for step, _, _ in program.events), default=0)
    for steps in (last + 1, program.steps - 1):
        if 1 <= steps < program.steps and steps > last:
            yield replace(program, steps=steps)
    if program.width > 4:
        yield replace(program, width=4)
