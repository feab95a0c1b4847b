"""Alarm: levels become lines, lines become attestations, and nothing of it can stop a run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flopmeter.account import Account
from flopmeter.alarm import Alarm
from flopmeter.attestation.signers.file import FileSigner
from flopmeter.errors import SigningError, UnknownRegimeError, UnknownSignerError
from flopmeter.ledger.merge import read_run
from flopmeter.regimes.regime import Regime, find
from flopmeter.step import Totals
from flopmeter.testing.keys import throwaway_signer
from flopmeter.testing.ledgers import ScriptedSegment, product_table

FORM = """id = "test.tiny"
title = "A made-up number"
jurisdiction = "nowhere"
threshold = "600"
operator = ">="
unit = "floating-point operations"
counts = ["all-floating-point"]
obligation = "none"
source = "this test"
as_of = 2026-01-01
in_force_from = 2026-01-01
status = "in force"
"""


class BrokenSigner(FileSigner):
    """Has a key and cannot use it."""

    def sign(self, message: bytes) -> bytes:
        """Fail as a key server that is down fails."""
        msg = "the key server does not answer"
        raise SigningError(msg)


@pytest.fixture
def regime(tmp_path: Path) -> Regime:
    path = tmp_path / "tiny.toml"
    path.write_text(FORM, encoding="utf-8")
    return find(path)


@pytest.fixture
def segment(tmp_path: Path) -> ScriptedSegment:
    """A run whose one passage costs 60 operations."""
    return ScriptedSegment(tmp_path / "run")


def run_until(segment: ScriptedSegment, alarm: Alarm, times: int) -> None:
    """Let ten passages run at a time, and do at each record what a meter does."""
    for done in range(1, times + 1):
        segment.run(product_table())
        for kind, body in alarm.look(Totals(flop=60 * done)):
            segment.note(kind, body)
        segment.file.sync()
        alarm.raise_now()


def settle(segment: ScriptedSegment, alarm: Alarm) -> None:
    for _ in range(3):
        for kind, body in alarm.settle():
            segment.note(kind, body)
        segment.file.sync()
        alarm.raise_now()
    for kind, body in alarm.settle():
        segment.note(kind, body)


def test_each_level_is_a_line_and_all_are_signed(segment: ScriptedSegment, regime: Regime) -> None:
    """If this failed, a lab could pass a threshold without evidence that it was told."""
    run = segment.file.path.parent.parent
    alarm = Alarm(run, [regime], throwaway_signer())
    alarm.start(None, own_file=segment.file.path)
    with segment:
        run_until(segment, alarm, 12)
        settle(segment, alarm)
        segment.end()
    account = Account.of(run)
    assert account.warned == tuple(("test.tiny", percent) for percent in (50, 80, 95, 100))
    files = sorted((run / "attestations").iterdir())
    assert 1 <= len(files) == len(account.attestations) <= 4
    assert account.gaps == ()


def test_a_signer_that_fails_is_a_line_that_widens_nothing(segment: ScriptedSegment, regime: Regime) -> None:
    """If this failed, a key server's bad day would cost a run, or its figures."""
    run = segment.file.path.parent.parent
    key = throwaway_signer()
    alarm = Alarm(run, [regime], BrokenSigner(key._private_key))
    alarm.start(None, own_file=segment.file.path)
    with segment:
        run_until(segment, alarm, 12)
        settle(segment, alarm)
        segment.end()
    account = Account.of(run)
    assert len(account.warned) == 4
    assert account.attestations == ()
    assert {gap.reason for gap in account.gaps} == {"unsigned"}
    assert "key server" in account.gaps[0].detail
    assert account.upper == account.flop


def test_levels_of_a_former_life_are_not_repeated(tmp_path: Path, regime: Regime) -> None:
    """If this failed, every restart of a long run would cry wolf."""
    run = tmp_path / "run"
    with ScriptedSegment(run) as first:
        first.run(product_table(), times=6)
        first.note("threshold", {"regime": "test.tiny", "percent": "50"})
    with ScriptedSegment(run) as second:
        alarm = Alarm(run, [regime], None)
        alarm.start(second.file.former, own_file=second.file.path)
        assert list(alarm.look(Totals(flop=60))) == []
        events = list(alarm.look(Totals(flop=120)))
    assert [body["percent"] for _, body in events] == ["80"]


def test_the_work_of_other_ranks_counts_too(tmp_path: Path, regime: Regime) -> None:
    """If this failed, one rank of eight would warn eight times too late."""
    run = tmp_path / "run"
    own = ScriptedSegment(run)
    alarm = Alarm(run, [regime], None)
    alarm.start(own.file.former, own_file=own.file.path)
    with own, ScriptedSegment(run, rank=1) as other:
        assert list(alarm.look(Totals(flop=240))) == []
        other.run(product_table())
        other.file.sync()
        events = list(alarm.look(Totals(flop=240)))
    assert [body["percent"] for _, body in events] == ["50"]
    assert read_run(run).segments[0].run == read_run(run).segments[1].run


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda run: Alarm.of(run, ["eu.nonsense"], None), UnknownRegimeError),
        (lambda run: Alarm.of(run, ["eu.gpai.systemic"], "hsm:nowhere"), UnknownSignerError),
        (lambda run: Alarm.of(run, ["eu.gpai.systemic"], run / "no-key"), SigningError),
    ],
)
def test_a_wrong_name_is_said_before_training_begins(
    tmp_path: Path, make: Callable[[Path], Alarm], error: type[Exception]
) -> None:
    """If this failed, a typo would be found after months, when the warning did not come."""
    with pytest.raises(error):
        make(tmp_path)
