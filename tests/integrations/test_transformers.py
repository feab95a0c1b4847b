"""The callback for the Trainer of transformers, with the real library, against the same loop metered by hand."""

import subprocess
import sys

import pytest
import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.integrations.transformers import FlopmeterCallback
from flopmeter.meter import Meter

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own; ours have tests of their own

BATCH, BATCHES, LENGTH, EVALUATED = 2, 6, 8, 4


class Texts(Dataset):
    def __init__(self, count: int):
        self.tokens = torch.arange(count * LENGTH).remainder(17).view(count, LENGTH)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def gpt2():
    # Without dropout of attention, so that training and evaluation take the same kernel.
    sizes = {"vocab_size": 17, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, attn_pdrop=0.0, use_cache=False))


def llama():
    config = LlamaConfig(
        vocab_size=17,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def trainer_of(tmp_path):
    def make(callback, model=None, **options):
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": BATCH,
            "per_device_eval_batch_size": BATCH,
            "num_train_epochs": 2,
            "use_cpu": True,
            "report_to": [],
            "save_strategy": "no",
            "disable_tqdm": True,
            "optim": "adamw_torch",
            "max_grad_norm": 1.0,
            "logging_strategy": "no",
            "dataloader_pin_memory": False,
        }
        return Trainer(
            model=model or gpt2(),
            args=TrainingArguments(**(defaults | options)),
            train_dataset=Texts(BATCH * BATCHES),
            eval_dataset=Texts(EVALUATED),
            callbacks=[callback],
        )

    return make


def contractions(account: Account, dimension: str) -> dict[str, int]:
    return {name: part.contraction_flop for name, part in account.tally.by(dimension).items() if part.contraction_flop}


def by_hand(run_dir, model, *, accumulate: int, evaluations: int) -> Account:
    """Run the same training without the Trainer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    data, test = Texts(BATCH * BATCHES), Texts(EVALUATED)
    model.train()
    with Meter(run_dir, model=model) as meter:
        for _ in range(2):
            for index in range(BATCHES):
                tokens = data.tokens[index * BATCH : (index + 1) * BATCH]
                (model(input_ids=tokens, labels=tokens).loss / accumulate).backward()
                if index % accumulate == accumulate - 1:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                    meter.step(tokens=accumulate * tokens.numel())
        model.eval()
        for _ in range(evaluations):
            with meter.purpose("evaluation"), torch.no_grad():
                for index in range(EVALUATED // BATCH):
                    tokens = test.tokens[index * BATCH : (index + 1) * BATCH]
                    model(input_ids=tokens, labels=tokens)
    return Account.of(run_dir)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("make", [gpt2, llama])
def test_it_counts_what_the_same_loop_counts_by_hand(tmp_path, trainer_of, make, accumulate):
    """Else whoever trains with the Trainer signs another figure than who writes the loop himself."""
    callback = FlopmeterCallback(tmp_path / "run", purpose="pretraining")
    trainer = trainer_of(
        callback,
        make(),
        gradient_accumulation_steps=accumulate,
        eval_strategy="epoch",
        include_num_input_tokens_seen="all",
    )
    trainer.train()
    ours = Account.of(tmp_path / "run")
    hand = by_hand(tmp_path / "hand", make(), accumulate=accumulate, evaluations=2)
    assert ours.steps == hand.steps == 2 * BATCHES // accumulate
    assert ours.tokens == hand.tokens == 2 * BATCHES * BATCH * LENGTH
    assert not ours.gaps
    assert contractions(ours, "phase") == contractions(hand, "phase")
    assert contractions(ours, "purpose")["evaluation"] == contractions(hand, "purpose")["evaluation"]
    assert set(contractions(ours, "purpose")) == {"evaluation", "pretraining"}
    assert ours.model == hand.model
    assert ours.passages["replayed"], "boundaries fire, or a long run would be counted at every step"


@pytest.mark.parametrize(
    ("options", "evaluations"),
    [
        ({"eval_strategy": "steps", "eval_steps": 4}, 3),
        ({"eval_strategy": "epoch", "eval_on_start": True}, 3),
        ({"eval_strategy": "no"}, 0),
    ],
)
def test_evaluation_is_labelled_from_its_first_batch_to_its_last_and_no_further(
    tmp_path, trainer_of, options, evaluations
):
    trainer_of(FlopmeterCallback(tmp_path / "run"), **options).train()
    account = Account.of(tmp_path / "run")
    evaluation = account.tally.select(purpose="evaluation")
    training = account.tally.select(phase="forward")
    assert account.tally.select(purpose="evaluation", phase="forward").flop == 0
    assert account.tally.select(purpose="undeclared", phase="inference").contraction_flop == 0
    forwards = 2 * BATCHES
    assert evaluation.contraction_flop * forwards == training.contraction_flop * evaluations * EVALUATED // BATCH


def test_tokens_are_unknown_where_the_trainer_does_not_count_them(tmp_path, trainer_of):
    trainer_of(FlopmeterCallback(tmp_path / "run")).train()
    account = Account.of(tmp_path / "run")
    assert (account.tokens, account.steps) == (0, 2 * BATCHES)


def test_weight_files_are_subjects_and_other_files_are_not(tmp_path, trainer_of):
    """A digest of an optimizer's state would name a file that nobody ever releases."""
    trainer_of(FlopmeterCallback(tmp_path / "run"), save_strategy="epoch").train()
    files = list((tmp_path / "out").glob("checkpoint-*/model.safetensors"))
    assert len(files) == 2
    assert set(Account.of(tmp_path / "run").subjects) == {wire.digest_file(path) for path in files}


class FailingModel(GPT2LMHeadModel):
    def forward(self, input_ids=None, labels=None, **options):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 4:
            raise ValueError("mine")
        return super().forward(input_ids=input_ids, labels=labels, **options)


def test_an_exception_closes_the_meter_at_the_end_of_the_with_block(tmp_path, trainer_of):
    model = FailingModel(gpt2().config)

    def run():
        with FlopmeterCallback(tmp_path / "run") as callback:
            trainer_of(callback, model).train()

    with pytest.raises(ValueError, match="mine"):
        run()
    account = Account.of(tmp_path / "run")
    assert account.steps == 3
    assert not account.gaps
    assert not model._forward_pre_hooks


def test_a_second_training_closes_what_an_exception_left_open(tmp_path, trainer_of):
    callback = FlopmeterCallback(tmp_path / "run")
    with pytest.raises(ValueError, match="mine"):
        trainer_of(callback, FailingModel(gpt2().config)).train()
    trainer_of(callback).train()
    account = Account.of(tmp_path / "run")
    assert account.steps == 3 + 2 * BATCHES
    assert not account.gaps


def test_a_program_that_dies_of_an_exception_closes_the_ledger_on_its_way_out(tmp_path):
    program = f"""
from types import SimpleNamespace
import torch
from flopmeter.integrations.transformers import FlopmeterCallback
callback = FlopmeterCallback({str(tmp_path)!r})
state = SimpleNamespace(num_input_tokens_seen=0, is_world_process_zero=True)
callback.on_train_begin(SimpleNamespace(eval_on_start=False), state, None, model=torch.nn.Linear(2, 2))
raise ValueError("mine")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert "mine" in done.stderr
    assert not Account.of(tmp_path).gaps


def test_without_transformers_the_command_that_installs_it_is_said():
    program = """
import sys
sys.modules["transformers"] = None
try:
    import flopmeter.integrations.transformers
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert "MissingExtraError" in done.stdout
    assert "pip install 'flopmeter[transformers]'" in done.stdout
