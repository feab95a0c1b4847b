"""The callback for Lightning, with the real library, against the same loop metered by hand."""

import logging
import os
import subprocess
import sys

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.integrations.lightning import FlopmeterCallback
from flopmeter.meter import Meter

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and its friends' own; ours have tests of their own

BATCH, BATCHES, EPOCHS = 4, 6, 2
PRODUCTS = 2 * BATCH * (8 * 16 + 16 * 1)


class Task(pl.LightningModule):
    """Training calls the whole module or a part of it; validation a part."""

    def __init__(self, way: str = "self"):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        self.way, self.fail_at = way, None

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, index):
        if index == self.fail_at:
            raise ValueError("mine")
        called = self if self.way == "self" else self.model
        return called(batch[0]).square().mean()

    def validation_step(self, batch, _index):
        self.log("loss", self.model(batch[0]).mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def loader():
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(BATCH * BATCHES, 8)), batch_size=BATCH)


@pytest.fixture
def trainer_of(tmp_path):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def make(*callbacks, **options):
        defaults = {
            "max_epochs": EPOCHS,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path / "root",
        }
        return pl.Trainer(callbacks=list(callbacks), **(defaults | options))

    return make


def by_hand(run_dir, *, accumulate: int) -> Account:
    """Run the same training and validation without Lightning."""
    torch.manual_seed(0)
    task = Task()
    optimizer = task.configure_optimizers()
    with Meter(run_dir, model=[task, task.model]) as meter:

        def validate(batches: int) -> None:
            task.eval()
            with meter.purpose("evaluation"), torch.no_grad():
                for (x,), _ in zip(loader(), range(batches), strict=False):
                    task.model(x).mean()
            task.train()

        validate(2)  # the sanity check
        for _ in range(EPOCHS):
            for index, (x,) in enumerate(loader()):
                (task(x).square().mean() / accumulate).backward()
                if index % accumulate == accumulate - 1:
                    optimizer.step()
                    optimizer.zero_grad()
                    meter.step(tokens=accumulate * x.numel())
            validate(BATCHES)
    return Account.of(run_dir)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("way", ["self", "self.model"])
def test_it_counts_what_the_same_loop_counts_by_hand(tmp_path, trainer_of, way, accumulate):
    """Else whoever trains with Lightning signs another figure than who writes the loop himself."""
    callback = FlopmeterCallback(tmp_path / "run", tokens=lambda batch: batch[0].numel())
    trainer = trainer_of(callback, accumulate_grad_batches=accumulate)
    torch.manual_seed(0)
    trainer.fit(Task(way), loader(), loader())
    ours, hand = Account.of(tmp_path / "run"), by_hand(tmp_path / "hand", accumulate=accumulate)
    assert ours.steps == hand.steps == EPOCHS * BATCHES // accumulate
    assert ours.tokens == hand.tokens == EPOCHS * BATCHES * BATCH * 8
    assert not ours.gaps
    assert not ours.tally.uncounted
    for dimension in ("phase", "purpose"):
        parts = [
            {name: part.contraction_flop for name, part in tally.by(dimension).items() if part.contraction_flop}
            for tally in (ours.tally, hand.tally)
        ]
        assert parts[0] == parts[1]
    assert ours.tally.select(purpose="evaluation").contraction_flop == (2 + EPOCHS * BATCHES) * PRODUCTS
    assert ours.tally.select(phase="forward").contraction_flop == EPOCHS * BATCHES * PRODUCTS
    assert ours.model == hand.model
    assert ours.passages["replayed"], "boundaries fire, or a long run would be counted at every step"


def test_tokens_are_unknown_where_nobody_tells(tmp_path, trainer_of):
    trainer_of(FlopmeterCallback(tmp_path / "run")).fit(Task(), loader())
    assert Account.of(tmp_path / "run").tokens == 0


def test_checkpoints_that_lightning_keeps_are_subjects(tmp_path, trainer_of):
    keeper = ModelCheckpoint(dirpath=tmp_path / "out", every_n_epochs=1, save_top_k=-1, save_last=True)
    trainer_of(FlopmeterCallback(tmp_path / "run"), keeper).fit(Task(), loader())
    subjects = Account.of(tmp_path / "run").subjects
    files = list((tmp_path / "out").glob("*.ckpt"))
    assert set(subjects) == {wire.digest_file(path) for path in files}
    assert len(files) == EPOCHS + 1


def test_an_exception_closes_the_meter_and_goes_on_its_way(tmp_path, trainer_of):
    task = Task()
    task.fail_at = 3
    callback = FlopmeterCallback(tmp_path / "run")
    with pytest.raises(ValueError, match="mine"):
        trainer_of(callback).fit(task, loader())
    account = Account.of(tmp_path / "run")
    assert account.steps == 3
    assert not account.gaps
    assert not task._forward_pre_hooks
    assert not task.model._forward_pre_hooks


def test_a_second_fit_goes_on_with_the_run(tmp_path, trainer_of):
    callback = FlopmeterCallback(tmp_path / "run")
    for _ in range(2):
        trainer_of(callback).fit(Task(), loader())
    account = Account.of(tmp_path / "run")
    assert account.steps == 2 * EPOCHS * BATCHES
    assert len(account.heads) == 2


def test_members_of_a_list_are_watched_and_parts_without_parameters_are_not(tmp_path, trainer_of):
    """A list is never called itself; a loss module would only cut passages short."""

    class Listed(Task):
        def __init__(self):
            super().__init__()
            self.model = None
            self.parts = nn.ModuleList([nn.Linear(8, 16), nn.Linear(16, 1)])
            self.loss = nn.MSELoss()

        def training_step(self, batch, _index):
            out = self.parts[1](self.parts[0](batch[0]))
            return self.loss(out, torch.zeros_like(out))

    callback = FlopmeterCallback(tmp_path / "run")
    task = Listed()
    watched = []
    callback.meter.watch = watched.extend
    trainer_of(callback).fit(task, loader())
    assert watched == [task, *task.parts]


@pytest.mark.parametrize(
    ("first", "base"), [("import pytorch_lightning", "pytorch_lightning"), ("import lightning.pytorch", "lightning")]
)
def test_the_package_that_the_program_has_imported_is_taken(first, base):
    """The two packages have classes of their own; a callback of the other one is refused or ignored."""
    program = (
        f"{first}\nfrom flopmeter.integrations.lightning import FlopmeterCallback\n"
        "print(FlopmeterCallback.__mro__[1].__module__.partition('.')[0])"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300, env=environment
    )
    assert done.stdout.split()[-1] == base


def test_without_lightning_the_command_that_installs_it_is_said():
    program = """
import sys
sys.modules["lightning"] = sys.modules["pytorch_lightning"] = None
try:
    import flopmeter.integrations.lightning
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert "MissingExtraError" in done.stdout
    assert "pip install 'flopmeter[lightning]'" in done.stdout
