"""What `report --as` says another tool would print is what that tool does print, asked about the same program."""

import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from flopmeter.account import Account
from flopmeter.conventions.flop_counter import KNOWN
from flopmeter.conventions.presets import PRESETS
from flopmeter.conventions.translation import Given, Translation
from flopmeter.ledger.merge import read_run
from flopmeter.meter import Meter
from flopmeter.model import pick_sizes

STEPS = 3


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.mix, self.out = nn.Embedding(20, 16), nn.Linear(16, 48), nn.Linear(16, 20)

    def forward(self, tokens):
        parts = self.mix(self.words(tokens)).view(*tokens.shape, 2, 24).transpose(1, 2).chunk(3, dim=-1)
        mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Spectrum(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 5, dtype=torch.complex64))

    def forward(self, data):
        return (torch.fft.fft(data) @ self.weight).abs()


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, data):
        counts = (data * 9).long()
        return self.layer(data) + (counts @ counts.T).sum() + torch.mv(self.layer.weight, data[0])


class Recomputed(nn.Sequential):
    def forward(self, data):
        return torch.utils.checkpoint.checkpoint(super().forward, data, use_reentrant=False)


def layered():
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)), torch.rand(4, 6)


def grouped():
    return nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.ConvTranspose2d(8, 4, 2, groups=2)), torch.rand(2, 4, 9, 9)


PROGRAMS = {
    "attention on a CPU": lambda: (Attention(), torch.randint(20, (2, 7))),
    "layers and norms": layered,
    "convolutions": lambda: (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), torch.rand(2, 3, 9, 9)),
    "groups": grouped,
    "complex numbers": lambda: (Spectrum(), torch.rand(4, 6)),
    "whole numbers and vectors": lambda: (Whole(), torch.rand(4, 6)),
    "recurrent": lambda: (nn.GRU(6, 5), torch.rand(3, 2, 6)),
    "recomputation": lambda: (Recomputed(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.rand(4, 6)),
}


def train(model, data, end_step):
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(STEPS):
        found = model(data)
        (found[0] if isinstance(found, tuple) else found).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        end_step()
    with torch.no_grad():
        model(data)


def translate(folder, name, **given) -> Translation:
    ledger = read_run(folder)
    return PRESETS[name](Given.of(Account.of(ledger), ledger, **given))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_flop_counter_prints_what_is_said_of_it(tmp_path, name):
    """Else its zeros, or its squares of causal attention, are not those that we name."""
    model, data = PROGRAMS[name]()
    with Meter(tmp_path / "run", model=model, exact=True) as meter:
        train(model, data, meter.step)
    model, data = PROGRAMS[name]()
    with FlopCounterMode(display=False) as counter:
        train(model, data, lambda: None)
    assert translate(tmp_path / "run", "flop-counter").flop == counter.get_total_flops()


def test_the_operators_it_is_said_to_know_are_those_it_knows():
    """Else a release of torch with a new formula makes our zeros of it wrong."""
    from torch.utils.flop_counter import flop_registry

    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    said = {op for since, ops in KNOWN.items() if since <= release for op in ops}
    theirs = {str(key._qualified_op_name) for key in flop_registry if isinstance(key, torch._ops.OpOverloadPacket)}
    on_import = {f"torch_attn::_varlen_attn{way}" for way in ("", "_out", "_backward")}
    assert said ^ theirs <= on_import


@pytest.mark.filterwarnings("ignore")  # the library's own
@pytest.mark.parametrize("tied", [False, True])
def test_the_trainer_prints_what_is_said_of_it(tmp_path, tied):
    """Else total_flos of a checkpoint cannot be set beside our figure."""
    transformers = pytest.importorskip("transformers")
    from flopmeter.integrations.transformers import FlopmeterCallback

    config = transformers.LlamaConfig(
        vocab_size=17, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, use_cache=False, tie_word_embeddings=tied,
    )  # fmt: skip
    tokens = torch.arange(8 * 6).remainder(17).view(6, 8)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), per_device_train_batch_size=2, num_train_epochs=2, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True, logging_strategy="no", dataloader_pin_memory=False,
        include_num_input_tokens_seen="all", gradient_accumulation_steps=3,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=transformers.LlamaForCausalLM(config),
        args=arguments,
        train_dataset=[{"input_ids": line, "labels": line} for line in tokens],
        callbacks=[FlopmeterCallback(tmp_path / "run", exact=True)],
    )
    trainer.train()
    assert trainer.state.total_flos > 0
    assert translate(tmp_path / "run", "hf").flop == trainer.state.total_flos
    found = translate(tmp_path / "run", "palm", sequence=8)
    assert found.inputs["layers"] == "2"  # the ledger knows the sizes from the model itself


def load_nvidias_own(monkeypatch):
    """Load the function of Megatron-Bridge, NVIDIA's packaged twin of the one in Megatron-LM's scripts.

    `pip install --no-deps megatron-bridge` is enough: what its file imports is for training, and stands in here.
    """
    try:
        files = metadata.files("megatron-bridge") or []
    except metadata.PackageNotFoundError:
        pytest.skip("megatron-bridge is not installed")
    (path,) = (file.locate() for file in files if str(file).endswith("training/utils/flop_utils.py"))
    imports = {
        "data.datasets.packing_utils": "calculate_avg_seqlen",
        "peft.lora": "LoRA",
        "training.config": "ConfigContainer",
    }
    for module, name in imports.items():
        monkeypatch.setitem(sys.modules, f"megatron.bridge.{module}", SimpleNamespace(**{name: type(name, (), {})}))
    padded = SimpleNamespace(
        calculate_padded_vocab_size=lambda size, by, ranks, **_: -(-size // (by * ranks)) * by * ranks
    )
    monkeypatch.setitem(sys.modules, "megatron.bridge.utils.vocab_utils", padded)
    space: dict[str, object] = {}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), space)  # noqa: S102 # the package's own file
    return space["num_floating_point_operations"]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 4, 16), (4, 2, 16), (8, 1, 16)])
def test_megatron_prints_what_is_said_of_it(tmp_path, monkeypatch, gated, heads, groups, width):
    """Else TFLOP/s in a log of Megatron cannot be set beside a run."""
    theirs = load_nvidias_own(monkeypatch)
    sizes = {
        "num_layers": 3, "hidden_size": 64, "ffn_hidden_size": 160, "num_attention_heads": heads,
        "num_query_groups": groups, "kv_channels": width, "gated_linear_unit": gated, "vocab_size": 1000,
    }  # fmt: skip
    unused = dict.fromkeys(
        ("num_moe_experts", "mtp_num_layers", "moe_ffn_hidden_size", "moe_shared_expert_intermediate_size"), None
    )
    others = {"multi_latent_attention": False, "make_vocab_size_divisible_by": 128, "tensor_model_parallel_size": 1}
    activation = functional.silu if gated else functional.gelu
    config = SimpleNamespace(**sizes, **unused, **others, seq_length=32, activation_func=activation)
    with Meter(tmp_path / "run", exact=True) as meter:
        meter.step(tokens=5 * 32, samples=5)
    found = translate(tmp_path / "run", "megatron", config=pick_sizes(sizes))
    assert found.flop == theirs(SimpleNamespace(model=config), batch_size=5)


@pytest.mark.filterwarnings("ignore")  # the library's own
@pytest.mark.parametrize("kind", ["Bert", "Roberta", "XLMRoberta", "Camembert", "Electra"])
def test_the_parameters_that_the_trainer_multiplies_are_those_that_are_said(tmp_path, kind):
    """Else which name of a tied table comes first would decide whether our figure of it is right."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=17, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = getattr(transformers, f"{kind}ForMaskedLM")(config)
    with Meter(tmp_path / "run", model=model, exact=True) as meter:
        meter.step(tokens=5)
    assert translate(tmp_path / "run", "hf").flop == 6 * 5 * model.num_parameters(exclude_embeddings=True)
