"""Meter: a run becomes a ledger, and whatever goes wrong on our side becomes a gap and never the run's end."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from flopmeter.account import Account
from flopmeter.errors import FormulaError, LedgerLockedError, MeterError, UncountedOpError
from flopmeter.formulas.book import FormulaBook
from flopmeter.journal import Journal
from flopmeter.ledger.chain import read_segment
from flopmeter.ledger.file import LedgerFile
from flopmeter.meter import Meter
from flopmeter.sensors.replay import ReplayPlan
from flopmeter.sensors.sink import INTERRUPTED

FORWARD = 2 * 3 * 4 * 2


class Trainer:
    """A small model and its optimizer; one update of a batch of 3."""

    def __init__(self):
        self.model = nn.Linear(4, 2, bias=False)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)

    def update(self, meter=None, *, micro: int = 1) -> None:
        for _ in range(micro):
            self.model(torch.ones(3, 4)).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if meter is not None:
            meter.step(tokens=3 * micro, samples=micro)


@pytest.fixture
def trainer():
    return Trainer()


def entries(run_dir: Path) -> list[dict]:
    lines = [line for path in sorted((run_dir / "ledger").glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    return [json.loads(line) for line in lines]


def test_a_run_is_added_up_from_its_files(tmp_path, trainer):
    with Meter(tmp_path, model=trainer.model) as meter:
        for _ in range(6):
            trainer.update(meter, micro=2)
    account = Account.of(tmp_path)
    assert (account.steps, account.tokens, account.samples) == (6, 36, 12)
    assert account.tally.contraction_flop == 6 * 2 * 2 * FORWARD
    assert account.tally.select(phase="optimizer").flop == 6 * 2 * 8
    assert account.model.parameters == 8
    assert account.self_tests == (True,)
    assert not account.gaps
    assert meter.account() == account


def test_a_live_account_says_what_ran_until_now(tmp_path, trainer):
    with Meter(tmp_path, model=trainer.model) as meter:
        trainer.update(meter)
        first = meter.account()
        trainer.update(meter)
        assert meter.account().tally.contraction_flop == 2 * first.tally.contraction_flop == 4 * FORWARD
        assert meter.flop == meter.account().flop
        assert not meter.account().gaps, "a run that goes on is no gap"


def test_closing_twice_and_using_it_afterwards_changes_nothing(tmp_path, trainer):
    meter = Meter(tmp_path, model=trainer.model).start()
    meter.start()
    trainer.update(meter)
    meter.close()
    before = entries(tmp_path)
    meter.close()
    trainer.update(meter)
    with meter.purpose("evaluation"):
        pass
    assert entries(tmp_path) == before
    assert meter.account().steps == 1


def test_a_second_meter_on_the_same_run_is_refused_in_strict_mode(tmp_path):
    with Meter(tmp_path), pytest.raises(LedgerLockedError):
        Meter(tmp_path, strict=True).start()


def test_a_run_that_cannot_be_recorded_yet_goes_on_and_is_recorded_later(tmp_path, trainer, caplog):
    """If this failed, a meter that finds its directory locked or full would stop somebody's training."""
    other = LedgerFile(tmp_path, header={"book": "another"})
    with Meter(tmp_path, model=trainer.model, interval_s=0) as meter:
        trainer.update(meter)
        assert "nothing is recorded until" in caplog.text
        other.append("close", {"reason": "end"})
        other.close()
        trainer.update(meter)
    account = Account.of(tmp_path)
    assert (account.steps, len(account.heads)) == (2, 2)
    assert account.tally.contraction_flop == 4 * FORWARD
    assert account.gaps == ()


def test_a_disk_that_refuses_once_costs_nothing(tmp_path, trainer, monkeypatch):
    """If this failed, one bad moment of a file system would end a run's record."""
    sync, refused = os.fdatasync, []

    def refuse_once(descriptor):
        if not refused and os.path.realpath(f"/proc/self/fd/{descriptor}").endswith("0-0.jsonl"):
            refused.append(descriptor)
            raise OSError(5, "Input/output error")
        sync(descriptor)

    with Meter(tmp_path, model=trainer.model, interval_s=0) as meter:
        trainer.update(meter)
        monkeypatch.setattr("os.fdatasync", refuse_once)
        for _ in range(5):
            trainer.update(meter)
    account = Account.of(tmp_path)
    assert refused
    assert (account.steps, len(account.heads)) == (6, 2)
    assert account.tally.contraction_flop == 6 * 2 * FORWARD
    assert [gap.reason for gap in account.gaps] == ["killed"]


def test_a_run_goes_on_in_a_new_segment(tmp_path, trainer):
    for _ in range(2):
        with Meter(tmp_path, model=trainer.model) as meter:
            trainer.update(meter)
    account = Account.of(tmp_path)
    assert (account.steps, len(account.heads)) == (2, 2)
    assert account.tally.contraction_flop == 4 * FORWARD
    assert not account.gaps


def test_without_step_an_optimizer_that_steps_again_ends_a_step(tmp_path, trainer):
    other = torch.optim.SGD(trainer.model.parameters(), lr=0.01)
    with Meter(tmp_path, model=trainer.model):
        for _ in range(5):
            trainer.model(torch.ones(3, 4)).sum().backward()
            other.step()
            trainer.optimizer.step()
    account = Account.of(tmp_path)
    assert (account.steps, account.tokens) == (5, 0)
    assert account.passages["replayed"] > 0


def test_a_model_and_an_optimizer_may_be_named_later_or_as_lists(tmp_path):
    one, two = Trainer(), Trainer()
    with Meter(tmp_path, model=[one.model], optimizer=[one.optimizer]) as meter:
        meter.watch(two.model, two.optimizer)
        one.update(meter)
        two.update(meter)
    account = Account.of(tmp_path)
    assert account.model.parameters == 16
    assert account.tally.select(phase="forward").contraction_flop == 2 * FORWARD


def test_purposes_label_what_runs_inside(tmp_path, trainer):
    with Meter(tmp_path, model=trainer.model, purpose="pretraining") as meter:
        trainer.update(meter)
        with meter.purpose("evaluation"), torch.no_grad():
            trainer.model(torch.ones(3, 4))
            with meter.purpose("experiment"):
                trainer.model(torch.ones(3, 4))
                trainer.model(torch.ones(3, 4))
        trainer.update(meter)
    by_purpose = Account.of(tmp_path).tally.by("purpose")
    assert {name: tally.contraction_flop // FORWARD for name, tally in by_purpose.items()} == {
        "evaluation": 1,
        "experiment": 2,
        "pretraining": 4,
    }


def test_a_purpose_ends_with_an_exception(tmp_path, trainer):
    with Meter(tmp_path, model=trainer.model) as meter:
        with pytest.raises(ValueError, match="mine"), meter.purpose("evaluation"):
            raise ValueError("mine")
        trainer.update(meter)
    assert Account.of(tmp_path).tally.select(purpose="undeclared").contraction_flop == 2 * FORWARD


def test_a_purpose_that_is_none_is_refused_with_the_list(tmp_path):
    with pytest.raises(ValueError, match="no purpose; there are undeclared, pretraining"):
        Meter(tmp_path, purpose="fun")
    with Meter(tmp_path) as meter, pytest.raises(ValueError, match="evaluation"), meter.purpose("fun"):
        pass


def test_checkpoints_are_known_by_their_digests(tmp_path):
    folder = tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"a")
    (folder / "deep" / "b.bin").write_bytes(b"b")
    with Meter(tmp_path / "run") as meter:
        digests = meter.checkpoint(folder)
        assert set(digests) == {"out/a.bin", "out/deep/b.bin"}
        assert meter.account().subjects == {digest: name for name, digest in digests.items()}
        assert meter.checkpoint(tmp_path / "missing") == {}
    (gap,) = Account.of(tmp_path / "run").gaps
    assert "missing" in gap.detail


def test_the_runs_own_exception_goes_on_its_way_and_is_named(tmp_path, trainer):
    def run():
        with Meter(tmp_path, model=trainer.model) as meter:
            trainer.update(meter)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert entries(tmp_path)[-1]["kind"] == "close"
    assert "ZeroDivisionError" in entries(tmp_path)[-1]["body"]["reason"]
    assert Account.of(tmp_path).steps == 1


# Failures of ours.


def refusing_book(error: type[Exception]) -> FormulaBook:
    def refuse(_call):
        raise error("out of order")

    return FormulaBook.standard().with_formula("aten::mm", refuse, kind="matmul")


def test_a_formula_that_refuses_is_a_gap_and_an_uncounted_call(tmp_path, trainer):
    with Meter(tmp_path, model=trainer.model, book=refusing_book(ValueError)) as meter:
        for _ in range(5):
            trainer.update(meter)
    account = Account.of(tmp_path)
    assert {seen.op: seen.calls for seen in account.tally.uncounted}["aten::mm"] == 10
    assert any("out of order" in gap.detail for gap in account.gaps)
    assert account.self_tests == (False,)
    assert account.steps == 5


def test_a_formula_that_refuses_stops_a_strict_run(tmp_path, trainer):
    with (
        pytest.raises(FormulaError, match="out of order"),
        Meter(tmp_path, model=trainer.model, book=refusing_book(ValueError), strict=True) as meter,
    ):
        trainer.update(meter)
    assert not trainer.model._forward_pre_hooks


@pytest.mark.parametrize(
    "place",
    [
        "situation.WatchedModel.situation",
        "situation.WatchedModel.look",
        "situation.WatchedOptimizer.situation",
        "pricing.Pricer.table",
        "shadows.spell",
        "replay.ReplayPlan.begin",
        "replay.ReplayPlan.wait",
        "replay.ReplayPlan.end_counted",
        "replay.ReplayPlan.settle",
    ],
)
def test_a_sensor_that_fails_anywhere_is_a_gap_and_the_run_goes_on(tmp_path, trainer, monkeypatch, place):
    """Metering is a guest: a bug of ours must cost the user a line in the report, not a week of training."""

    def crash(*_args, **_kwargs):
        raise RuntimeError("ours is broken")

    with Meter(tmp_path / "well", model=trainer.model) as meter:
        for _ in range(8):
            trainer.update(meter)
    with Meter(tmp_path / "broken", model=trainer.model) as meter:
        monkeypatch.setattr(f"flopmeter.sensors.{place}", crash)
        for _ in range(8):
            trainer.update(meter)
        monkeypatch.undo()
        for _ in range(8):
            trainer.update(meter)
    well, broken = Account.of(tmp_path / "well"), Account.of(tmp_path / "broken")
    assert broken.steps == 16
    assert any("ours is broken" in gap.detail for gap in broken.gaps)
    assert broken.lower <= 2 * well.flop
    assert broken.upper is None or broken.upper >= 2 * well.flop
    assert not trainer.model._forward_pre_hooks
    assert torch._C._len_torch_dispatch_stack() == 0


def test_a_sensor_that_fails_stops_a_strict_run(tmp_path, trainer, monkeypatch):
    def crash(*_args, **_kwargs):
        raise RuntimeError("ours is broken")

    monkeypatch.setattr("flopmeter.sensors.situation.WatchedModel.situation", crash)
    with (
        pytest.raises(MeterError, match="ours is broken"),
        Meter(tmp_path, model=trainer.model, strict=True) as meter,
    ):
        trainer.update(meter)
    assert not trainer.model._forward_pre_hooks
    assert torch._C._len_torch_dispatch_stack() == 0


def test_more_gaps_than_anybody_reads_are_cut_off_and_that_is_said(tmp_path, monkeypatch):
    with Meter(tmp_path) as meter:
        for index in range(3000):
            meter.passage_lost(reason=f"number {index}", ns=1)
    account = Account.of(tmp_path)
    assert 0 < len(account.gaps) < 3000


def test_a_full_disk_does_not_stop_the_run_and_nothing_is_lost_once_there_is_room(tmp_path, trainer, monkeypatch):
    real, refused = os.write, []

    def full(fd, data):
        if len(data) > 200 and fd > 2:  # our lines; pytest's own output goes on
            refused.append(len(data))
            real(fd, data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    with Meter(tmp_path, model=trainer.model, interval_s=0) as meter:
        trainer.update(meter)
        monkeypatch.setattr(os, "write", full)
        for _ in range(5):
            trainer.update(meter)
        monkeypatch.undo()
        trainer.update(meter)
    assert len(refused) >= 5
    account = Account.of(tmp_path)
    assert (account.steps, account.tokens) == (7, 21)
    assert account.tally.contraction_flop == 7 * 2 * FORWARD


def test_a_disk_that_refuses_to_sync_does_not_stop_the_run_and_the_loss_is_said(tmp_path, trainer, monkeypatch):
    """After a failed fsync nobody knows what is on the disk: what is lost must be a gap, at the latest next time."""

    def refuse(_fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Meter(tmp_path, model=trainer.model, interval_s=0) as meter:
        trainer.update(meter)
        monkeypatch.setattr(os, "fdatasync", refuse)
        trainer.update(meter)
        monkeypatch.undo()
        trainer.update(meter)
    with Meter(tmp_path, model=trainer.model) as meter:
        trainer.update(meter)
    account = Account.of(tmp_path)
    assert account.steps == 4 or account.gaps
    assert account.lower <= 8 * FORWARD + 4 * 16


# Deaths.

PROGRAM = """
import sys, time, torch
from torch import nn
from flopmeter.meter import Meter

model = nn.Linear(4, 2, bias=False)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
with Meter(sys.argv[1], model=model, interval_s=0.05) as meter:
    for index in range(100_000):
        model(torch.ones(3, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        meter.step(tokens=3)
        if index == 20:
            print("running", flush=True)
        time.sleep(0.005)
"""


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_is_opened_verified_and_gone_on_with(tmp_path, death):
    """One interval is lost at most, and the account says so instead of looking complete."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"running\n"
        time.sleep(0.3)
        process.send_signal(death)
        process.wait(30)
    killed = Account.of(tmp_path)
    assert killed.steps >= 20
    assert [gap.reason for gap in killed.gaps] == ["not closed"]
    assert killed.tally.contraction_flop == killed.steps * 2 * FORWARD, "records end at steps"

    trainer = Trainer()
    with Meter(tmp_path, model=trainer.model) as meter:
        trainer.update(meter)
    account = Account.of(tmp_path)
    assert account.steps == killed.steps + 1
    (gap,) = account.gaps
    assert gap.reason == "killed"
    assert gap.ns > 0
    assert gap.upper_flop > 0
    segments = [read_segment(path) for path in sorted((tmp_path / "ledger").glob("*.jsonl"))]
    assert [segment.is_closed for segment in segments] == [False, True]


@pytest.mark.parametrize("name", ["tokens", "samples"])
@pytest.mark.parametrize(
    ("number", "error"),
    [
        *[(-1, ValueError), (10**30, ValueError)],
        *[(1.5, TypeError), (0.0, TypeError), ("7", TypeError), (None, TypeError), (torch.zeros(2), TypeError)],
    ],
    ids=str,
)
def test_tokens_and_samples_are_whole_and_not_negative_and_a_refused_step_is_none(tmp_path, number, error, name):
    """If this failed, 6ND would be computed from nonsense."""
    with Meter(tmp_path) as meter:
        with pytest.raises(error):
            meter.step(**{name: number})
        meter.step(tokens=1)
    assert Account.of(tmp_path).steps == 1


def test_tokens_can_be_told_in_parts_and_as_a_running_total(tmp_path):
    """If this failed, frameworks that count tokens themselves would need arithmetic in their callbacks."""
    with Meter(tmp_path) as meter:
        meter.trained(tokens_so_far=100)
        meter.trained(tokens=3)
        meter.trained(tokens=4, samples=1)
        meter.step(samples=1)
        meter.trained(tokens_so_far=150)
        meter.step()
    account = Account.of(tmp_path)
    assert (account.tokens, account.samples, account.steps) == (57, 2, 2)


def test_a_signer_without_a_regime_is_a_mistake(tmp_path):
    """If this failed, somebody would wait for attestations that nobody asks for."""
    with pytest.raises(ValueError, match="regimes"):
        Meter(tmp_path, signer="key")


def test_one_regime_needs_no_list(tmp_path):
    """If this failed, a single id would be read letter by letter."""
    Meter(tmp_path, regimes="eu.gpai.systemic")


def test_strict_mode_refuses_an_operator_without_a_formula(tmp_path, trainer):
    """If this failed, strictness would let uncounted work pass."""
    entries = {op: entry for op, entry in FormulaBook.standard().entries.items() if op != "aten::addmm"}
    book = FormulaBook(entries=entries, digest="0" * 64)
    layer, one = nn.Linear(2, 2), torch.ones(1, 2)
    with pytest.raises(UncountedOpError, match="aten::addmm"), Meter(tmp_path, strict=True, book=book, model=layer):
        layer(one)


def test_a_step_outside_of_metering_is_said_once(tmp_path, caplog):
    """If this failed, a forgotten `with` would be found after the run."""
    meter = Meter(tmp_path)
    meter.step()
    meter.step()
    assert caplog.text.count("nothing is metered") == 1


def test_ctrl_c_while_the_meter_starts_leaves_nothing_behind(tmp_path, monkeypatch):
    """If this failed, the next start in this process would find the ledger locked and our mode on torch's stack."""
    depth = torch._C._len_torch_dispatch_stack()

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as moment:
        moment.setattr("flopmeter.sensors.model.measure_model", interrupt)
        meter = Meter(tmp_path, model=nn.Linear(2, 2))
        with pytest.raises(KeyboardInterrupt):
            meter.start()
    assert torch._C._len_torch_dispatch_stack() == depth
    with Meter(tmp_path, strict=True):
        pass
    assert len(Account.of(tmp_path).heads) == 2


def test_work_without_steps_is_recorded_as_it_goes(tmp_path):
    """If this failed, hours of generation would be lost with the process that did them."""
    with Meter(tmp_path, interval_s=0) as meter, torch.no_grad():
        for _ in range(3):
            torch.mm(torch.ones(2, 3), torch.ones(3, 4))
            with meter.purpose("data-generation"):
                torch.mm(torch.ones(2, 3), torch.ones(3, 4))
        assert Account.of(tmp_path, live=True).flop >= 5 * 2 * 2 * 3 * 4


def test_a_purpose_on_another_thread_labels_nothing_here(tmp_path):
    """If this failed, an evaluation thread would turn training into evaluation."""
    with Meter(tmp_path) as meter, ThreadPoolExecutor(1) as pool:
        inside, go_on = threading.Event(), threading.Event()

        def evaluate():
            with meter.purpose("evaluation"):
                inside.set()
                go_on.wait()

        future = pool.submit(evaluate)
        inside.wait()
        torch.mm(torch.ones(2, 3), torch.ones(3, 4))
        go_on.set()
        future.result()
    assert set(Account.of(tmp_path).tally.by("purpose")) == {"undeclared"}


def test_the_program_may_change_its_directory(tmp_path, monkeypatch):
    """If this failed, a script that calls chdir would write half of its ledger somewhere else."""
    monkeypatch.chdir(tmp_path)
    with Meter("run", interval_s=0) as meter:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        meter.step()
        assert meter.account().steps == 1


def test_a_file_name_that_is_no_text_is_recorded(tmp_path):
    """If this failed, a checkpoint with a strange name would end the training."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/model-\xff.pt")
    Path(path).write_bytes(b"weights")
    with Meter(tmp_path / "run") as meter:
        meter.checkpoint(path)
        meter.step()
    assert list(Account.of(tmp_path / "run").subjects.values()) == ["model-\\xff.pt"]


def test_the_size_of_a_lazy_model_is_told_once_it_has_one(tmp_path):
    """If this failed, 6ND of a model with lazy layers would be zero."""
    model = nn.LazyLinear(4)
    with Meter(tmp_path, model=model, strict=True):
        model(torch.ones(2, 3))
    assert Account.of(tmp_path).model.parameters == 16


def test_what_writing_records_takes_is_part_of_what_metering_took(tmp_path, monkeypatch):
    """If this failed, a slow disk would be said to cost nothing."""
    flush = Journal.flush

    def slow(self, **circumstances):
        time.sleep(0.03)
        flush(self, **circumstances)

    monkeypatch.setattr(Journal, "flush", slow)
    with Meter(tmp_path, interval_s=0.001) as meter:
        for _ in range(3):
            time.sleep(0.002)
            meter.step(tokens=1)
    assert Account.of(tmp_path).own_ns >= 2 * 30_000_000


@pytest.mark.parametrize("strict", [False, True], ids=["lenient", "strict"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_is_cut_short_while_the_meter_stops_is_written_with_a_gap(tmp_path, trainer, monkeypatch, error, strict):
    """If this failed, Ctrl-C at the end of a run would make an exact figure of what happened to be booked by then."""

    def fail(*_, **__):
        raise error("cut short")

    meter = Meter(tmp_path, model=trainer.model, strict=strict)
    meter.start()
    for _ in range(20):
        trainer.update(meter)
    monkeypatch.setattr(ReplayPlan, "settle", fail)
    if strict or error is KeyboardInterrupt:
        with pytest.raises(MeterError if error is RuntimeError else error):
            meter.close()
    else:
        meter.close()
    account = Account.of(tmp_path)
    assert account.steps == 20
    assert any(gap.ns is None for gap in account.gaps)
    assert account.interval[1] is None


def test_an_interrupt_while_passages_are_booked_is_a_gap_of_all_that_waited(tmp_path, trainer, monkeypatch):
    """If this failed, Ctrl-C would take up to a second of work out of the books and own up to a millisecond of it."""
    with Meter(tmp_path, model=trainer.model, interval_s=1000) as meter:
        for _ in range(20):
            trainer.update(meter)
        time.sleep(0.05)
        with monkeypatch.context() as patch:
            patch.setattr(Meter, "passages_ran", raise_interrupt)
            with pytest.raises(KeyboardInterrupt):
                meter._flush()
    assert any(gap.detail == INTERRUPTED and gap.ns >= 50_000_000 for gap in Account.of(tmp_path).gaps)


def raise_interrupt(*_, **__):
    raise KeyboardInterrupt
