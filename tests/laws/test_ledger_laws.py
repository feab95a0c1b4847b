"""What must hold of every ledger, whatever ran."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flopmeter.account import Account
from flopmeter.errors import LedgerError
from flopmeter.ledger.entry import GENESIS, Entry
from flopmeter.ledger.file import LedgerFile
from flopmeter.ledger.merge import read_run
from flopmeter.step import Chance
from flopmeter.testing.ledgers import STEP_NS, ScriptedClock, ScriptedSegment, product_table, recorded_ledger

SLOW_FIXTURE = [HealthCheck.function_scoped_fixture]

STEP = st.tuples(
    st.lists(st.sampled_from([(2, 3, 5), (1, 1, 1), (7, 2, 4)]), max_size=2, unique=True),
    st.integers(1, 4) | st.just(1000),
    st.sampled_from(["pretraining", "evaluation"]),
    st.sampled_from(["counted", "replayed"]),
    st.integers(0, 9),
    st.integers(0, 2),
)


def write(run, steps, *, splits):
    """Write steps as one run whose process ends in order after each index of `splits`."""
    clock = ScriptedClock()
    segment = ScriptedSegment(run, clock=clock)
    for index, (sizes, times, purpose, basis, tokens, unknown) in enumerate(steps):
        if index in splits:
            segment.end()
            segment.__exit__()
            segment = ScriptedSegment(run, clock=clock)
        tables = [product_table(*size, unknown=unknown) for size in sizes]
        loose = tables[0].tally if tables and tokens == 9 else None
        chance = Chance(one_in=16, longest_ns=STEP_NS) if basis == "replayed" and tokens > 3 else None
        audits = tokens if basis == "counted" else 0
        segment.run(
            *tables, times=times, purpose=purpose, basis=basis, tokens=tokens, loose=loose, chance=chance, audits=audits
        )
    segment.end()
    segment.__exit__()
    return Account.of(run)


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW_FIXTURE)
@given(steps=st.lists(STEP, min_size=1, max_size=8), splits=st.sets(st.integers(1, 7)))
def test_a_run_split_anywhere_adds_up_to_the_same(tmp_path_factory, steps, splits):
    """Else restarting a run changes what it cost."""
    folder = tmp_path_factory.mktemp("split")
    whole = write(folder / "whole", steps, splits=set())
    parts = write(folder / "parts", steps, splits=splits)
    for name in ("tally", "interval", "steps", "tokens", "samples", "passages", "usage", "gaps", "unsure", "audits"):
        assert getattr(parts, name) == getattr(whole, name), name


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW_FIXTURE)
@given(steps=st.lists(STEP, max_size=8))
def test_the_sum_lies_between_its_bounds(tmp_path_factory, steps):
    account = write(tmp_path_factory.mktemp("bounds") / "run", steps, splits=set())
    assert account.lower <= account.flop
    assert account.upper is None or account.flop <= account.upper
    for dimension in ("phase", "kind", "precision", "purpose", "basis"):
        assert sum(part.flop for part in account.tally.by(dimension).values()) == account.flop


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    run = recorded_ledger(tmp_path_factory.mktemp("chain") / "run")
    return read_run(run).segments[0].entries


def head_of(entries) -> str:
    """Head of a chain that is sealed anew over these entries."""
    prev = GENESIS
    for seq, entry in enumerate(entries):
        prev = replace(entry, seq=seq, prev=prev).digest
    return prev


@given(data=st.data())
def test_changing_dropping_or_swapping_any_entry_changes_the_head(entries, data):
    """Else two histories would have one digest."""
    place = data.draw(st.integers(0, len(entries) - 1))
    other = data.draw(st.integers(0, len(entries) - 1).filter(lambda index: index != place))
    changed, swapped = list(entries), list(entries)
    changed[place] = replace(entries[place], body={**entries[place].body, "more": "x"})
    swapped[place], swapped[other] = swapped[other], swapped[place]
    dropped = [entry for index, entry in enumerate(entries) if index != place]
    doubled = [*entries[: place + 1], *entries[place:]]
    heads = {head_of(chain) for chain in (entries, changed, swapped, dropped, doubled)}
    assert len(heads) == 5


@settings(max_examples=30)
@given(
    kind=st.sampled_from(["gap", "device", "close"]),
    seq=st.integers(0, 10**20),
    at=st.text(st.characters(exclude_categories=["Cs"])),
    body=st.dictionaries(
        st.text(st.characters(max_codepoint=127), max_size=5), st.none() | st.booleans() | st.just("§")
    ),
)
def test_bytes_to_value_to_bytes_is_the_identity(kind, seq, at, body):
    line = Entry(kind=kind, seq=seq, prev=GENESIS, at=at, body=body).to_line()
    assert Entry.from_line(line[:-1], where="x").to_line() == line


def test_a_ledger_cut_at_any_byte_can_be_gone_on_with_or_is_said_to_be_none(tmp_path):
    """Else there is a moment at which a crash loses a run. What stands in whole lines is kept, and nothing else."""
    run = recorded_ledger(tmp_path / "run", is_closed=False)
    path = run / "ledger" / "0-0.jsonl"
    data = path.read_bytes()
    ends = [index for index, byte in enumerate(data) if byte == ord("\n")]
    for size in [*range(0, len(data), 7), *(end + extra for end in ends for extra in (0, 1))]:
        for later in (run / "ledger").glob("0-1*"):
            later.unlink()
        path.write_bytes(data[:size])
        whole = data[:size].count(b"\n")
        try:
            ledger = LedgerFile(run, header={"book": "x"})
        except LedgerError:
            assert whole == 0, size  # not even the header: a file is only named once that is durable
            continue
        ledger.close()
        segments = read_run(run).segments
        assert [len(segment.entries) for segment in segments] == [whole, 1]
        assert (segments[0].torn is None) == (size == 0 or data[size - 1 : size] == b"\n")
        gap = Account.of(run).gaps[0]
        assert gap.reason == "killed"
