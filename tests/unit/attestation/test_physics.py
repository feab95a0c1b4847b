"""What a verifier makes of physics, by a statement alone and with the ledger behind it."""

import pytest

from flopmeter.account import Account
from flopmeter.attestation.envelope import Attestation
from flopmeter.attestation.issuance import issue
from flopmeter.attestation.physics import check_stated, judge_physics
from flopmeter.attestation.policy import Policy
from flopmeter.attestation.statement import Statement
from flopmeter.attestation.verifier import verify
from flopmeter.errors import CannotVerifyError, MismatchError
from flopmeter.host import HostUsage
from flopmeter.ledger.merge import read_run
from flopmeter.testing.keys import throwaway_signer
from flopmeter.testing.ledgers import ScriptedSegment, product_table
from flopmeter.usage import DeviceUsage, Usage

H100 = "NVIDIA H100 80GB HBM3"
SECOND = 1_000_000_000
PRODUCT = 2 * 10**15
"""More than an H100 does in a second, less than in ten."""


def record(folder, *, held_ns=10 * SECOND, notes=(), host=None, **fields):
    device = DeviceUsage(**{"uuid": "GPU-1", "name": H100, "held_ns": held_ns, **fields})
    usage = Usage.of([device], notes, host=host or HostUsage(cpu_ns=SECOND, peak_bytes=2**20, cores=1))
    with ScriptedSegment(folder) as segment:
        segment.note("self-test", {"passed": True, "torch": "none", "answers": []})
        segment.note("device", {"uuid": "GPU-1", "name": H100, "pci": "0x233010de"})
        segment.run(product_table(10**5, 10**5, 10**5, dtype="bf16"), usage=usage)
        segment.end()
    return folder


def state(folder):
    """Return the statement of a run as it would be signed, whether it can be true or not."""
    ledger = read_run(folder)
    account = Account.of(ledger)
    said = {"reason": "run-end", "sequence": 0, "previous": None, "status": "finished"}
    return Statement.about(account, ledger=ledger, **said), account


def words_of(statement, account):
    try:
        return judge_physics(statement, account)
    except CannotVerifyError as error:
        return str(error)


def test_a_count_that_its_devices_can_have_made_is_possible(tmp_path):
    statement, account = state(record(tmp_path))
    assert judge_physics(statement, None).startswith("possible: 2.00e+15 FLOP of products in 10 device-seconds")
    assert judge_physics(statement, None).endswith(
        "; not answered: energy, tensor-activity, unmetered (for want of the ledger)"
    ), "a question that was not put is not a yes"
    assert "by stated peaks in bf16" in judge_physics(statement, account)


def test_a_count_that_no_program_can_have_made_is_a_no(tmp_path):
    """Else somebody signs a thousand times what their devices can do, and the verifier nods."""
    statement, account = state(record(tmp_path, held_ns=SECOND // 10))
    for known in (None, account):
        with pytest.raises(MismatchError, match="not what these devices can have done: impossible: "):
            judge_physics(statement, known)


@pytest.mark.parametrize(
    "more",
    [
        {"unseen_ns": 10 * SECOND},
        {"edge_ns": 10 * SECOND},
        {"notes": ["the NVIDIA driver does not answer: elsewhere"]},
        {"host": HostUsage(cpu_ns=100 * SECOND)},
    ],
    ids=["not seen", "between two samples", "a rank without a driver", "processors"],
)
def test_what_something_else_may_have_done_is_not_called_impossible(tmp_path, more):
    """Else an honest run with a hole in its sampling cannot be attested."""
    statement, account = state(record(tmp_path, held_ns=SECOND // 10, **more))
    for known in (None, account):
        assert words_of(statement, known).startswith(("possible", "cannot tell"))


def test_a_run_that_goes_on_is_not_called_impossible(tmp_path):
    """What is counted is known at once, what devices did a second later: else a warning in time is never signed."""
    ledger = read_run(record(tmp_path, held_ns=SECOND // 10))
    account = Account.of(ledger, live=True)
    said = {"reason": "heartbeat", "sequence": 0, "previous": None, "status": "running"}
    statement = Statement.about(account, ledger=ledger, **said)
    for known in (None, account):
        assert words_of(statement, known).startswith("cannot tell")


def test_what_is_not_stated_of_the_host_is_not_taken_for_nothing(tmp_path):
    statement, _ = state(record(tmp_path, held_ns=SECOND // 10, host=HostUsage(note="psutil does not load")))
    (answer,) = check_stated(statement)
    assert answer.verdict == "cannot-tell"


def test_a_device_that_never_said_what_it_is_tells_nothing(tmp_path):
    statement, _ = state(record(tmp_path, held_ns=0, unseen_ns=1, name="unknown"))
    (device,) = statement.part("usage")["devices"]
    assert device["heldNs"] is None
    with pytest.raises(CannotVerifyError, match="no peak of GPU-1 is known"):
        judge_physics(statement, None)


def test_a_device_that_was_lost_is_a_bounded_gap_of_the_statement(tmp_path):
    """Else an attestation has no gap, below a device that nobody saw for a minute."""
    statement, account = state(record(tmp_path, unseen_ns=60 * SECOND))
    (gap,) = statement.part("coverage")["devicesNotSeen"]
    assert (gap["uuid"], gap["ns"]) == ("GPU-1", str(60 * SECOND))
    assert int(gap["mostFlop"]) == 60 * int(gap["mostFlopPerS"]) > 60 * 10**15
    assert statement.part("compute")["upper"] == statement.part("compute")["flop"], "what was counted is counted"
    assert statement.part("coverage")["gaps"] == []
    assert "while it was not seen" not in words_of(statement, account)
    other = Statement.from_bytes(
        statement.data.replace(gap["mostFlopPerS"].encode(), b"7").replace(gap["mostFlop"].encode(), b"420")
    )
    assert "GPU-1 while it was not seen did at most 420 FLOP by the statement" in words_of(other, account)
    statement, _ = state(record(tmp_path / "whole"))
    assert "devicesNotSeen" not in statement.part("coverage")


def test_work_that_was_not_counted_is_no_reason_to_disbelieve_what_was(tmp_path):
    """Another's job on the same device would make a true statement a lie."""
    pipes = {"tensor": 10 * 1_755_000_000, "imma": 0}
    statement, account = state(record(tmp_path, sm_cycles=10 * 1_755_000_000, pipes=pipes))
    said = judge_physics(statement, account)
    assert said.count("possible") == 2
    assert "; not answered: energy (the energy of GPU-1 was not measured), unmetered (tiles" in said
    light = tmp_path / "light"
    with ScriptedSegment(light) as segment:
        segment.note("device", {"uuid": "GPU-1", "name": H100, "pci": "0x233010de"})
        device = DeviceUsage(uuid="GPU-1", name=H100, held_ns=10 * SECOND, sm_cycles=10 * 1_755_000_000, pipes=pipes)
        segment.run(product_table(dtype="bf16"), usage=Usage.of([device]))
        segment.end()
    statement, account = state(light)
    with pytest.raises(CannotVerifyError, match="something ran unmetered"):
        judge_physics(statement, account)


def test_what_is_impossible_is_not_signed(tmp_path):
    run = record(tmp_path / "run", held_ns=SECOND // 10)
    with pytest.raises(MismatchError, match="impossible"):
        issue(run, throwaway_signer(), out=tmp_path / "a.json", live=False)
    assert not (tmp_path / "a.json").exists()


def test_a_statement_carries_the_answers_and_the_verifier_asks_again(tmp_path):
    """The signer's own word on physics counts for nothing: what is compared are the numbers."""
    signer = throwaway_signer()
    run = record(tmp_path / "run")
    issue(run, signer, out=tmp_path / "a.json", live=False)
    data = (tmp_path / "a.json").read_bytes()
    statement = Statement.from_bytes(Attestation.from_bytes(data).payload)
    names = [(one["name"], one["verdict"]) for one in statement.predicate["plausibility"]]
    assert names[0] == ("ceiling", "yes")
    assert [name for name, _ in names] == ["ceiling", "energy", "tensor-activity", "unmetered"]
    assert statement.part("usage")["host"] == {"cpuNs": str(SECOND), "peakBytes": str(2**20)}
    for ledger in (None, read_run(run)):
        found = verify(data, Policy((signer.public_key,)), ledger=ledger)
        assert found.verdict == "yes"
        assert {check.name: check.verdict for check in found.checks}["physics"] == "yes"
