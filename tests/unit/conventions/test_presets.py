"""Every convention that was promised has a name, and answers on any run."""

import pytest

from flopmeter.account import Account
from flopmeter.conventions.presets import PRESETS
from flopmeter.conventions.translation import Given
from flopmeter.ledger.merge import read_run
from flopmeter.testing.ledgers import recorded_ledger

PROMISED = {"megatron", "palm", "hf", "aws", "flop-counter", "hfu", "mfu"}


def test_the_promised_conventions_are_there():
    """Else a script that asks for one breaks."""
    assert set(PRESETS) == PROMISED


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_each_gives_a_figure_or_says_what_is_missing(tmp_path, name):
    """Else a run of another kind would end in a traceback, or in a figure from nothing."""
    ledger = read_run(recorded_ledger(tmp_path / "run", ranks=2, lives=2))
    found = PRESETS[name](Given.of(Account.of(ledger), ledger))
    assert found.tool.name == name
    assert found.ours == 4 * 630
    assert (found.flop is None) == bool(found.missing)
