"""What is said of devices, forged in a statement or in the ledger: no signature makes it true."""

import json
from dataclasses import replace

import pytest

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.attestation.devices import check_devices, check_usage, find_strange_time
from flopmeter.attestation.envelope import Attestation, encode_pae
from flopmeter.attestation.issuance import issue
from flopmeter.attestation.policy import Policy
from flopmeter.attestation.statement import Statement
from flopmeter.attestation.verifier import verify
from flopmeter.devices.table import PeakFile, PeakTable
from flopmeter.errors import MismatchError
from flopmeter.host import HostUsage
from flopmeter.ledger.merge import read_run
from flopmeter.testing.keys import throwaway_signer
from flopmeter.testing.ledgers import ScriptedSegment, product_table
from flopmeter.usage import DeviceUsage, Usage

H100 = "NVIDIA H100 80GB HBM3"
SECOND = 1_000_000_000
HELD = 10 * SECOND
YEARS = 10**18
"""Thirty of them, in nanoseconds."""
SIGNER = throwaway_signer()
POLICY = Policy((SIGNER.public_key,))
FILE = PeakFile(name="mine.toml", sha256="ab" * 32)


def record(folder, **fields):
    device = DeviceUsage(**{"uuid": "GPU-1", "name": H100, "held_ns": HELD, **fields})
    with ScriptedSegment(folder) as segment:
        segment.note("self-test", {"passed": True, "torch": "none", "answers": []})
        segment.note("device", {"uuid": "GPU-1", "name": H100, "pci": "0x233010de"})
        host = HostUsage(cpu_ns=SECOND, peak_bytes=2**20, cores=1)
        segment.run(product_table(10**4, 10**4, 10**4, dtype="bf16"), usage=Usage.of([device], host=host))
        segment.end()
    return folder


@pytest.fixture
def signed(tmp_path):
    """An attestation of a run with one device, and its ledger."""
    run = record(tmp_path / "run", busy_ns=SECOND, energy_mj=10_000)
    issue(run, SIGNER, out=tmp_path / "a.json", live=False)
    return (tmp_path / "a.json").read_bytes(), read_run(run)


def forge(data, change):
    value = json.loads(Attestation.from_bytes(data).payload)
    change(value["predicate"])
    payload = wire.encode(value)
    return Attestation(payload=payload, signature=SIGNER.sign(encode_pae(payload)), hint=SIGNER.key_id).to_bytes()


def device_of(predicate):
    return predicate["usage"]["devices"][0]


def hardware_of(predicate):
    (found,) = (method for method in predicate["compute"]["methods"] if method["method"] == "hardware")
    return found


def check_of(verified, name):
    return next(check for check in verified.checks if check.name == name)


def test_what_was_not_forged_holds_with_and_without_the_ledger(signed):
    data, ledger = signed
    for known in (None, ledger):
        assert verify(data, POLICY, ledger=known).verdict == "yes"


ANSWER = {"name": "ceiling", "verdict": "yes", "detail": "all is well", "numbers": {}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: device_of(p).update(edgeNs="1"), "edgeNs is 1, the ledger gives 0"),
        (lambda p: p.update(plausibility=[ANSWER] * 4), "in plausibility of"),
        (lambda p: p["plausibility"][1].update(verdict="yes"), "verdict in plausibility of energy is yes"),
        (lambda p: p["plausibility"][0]["numbers"].update(counted_flop="1"), "numbers in plausibility of ceiling"),
        (lambda p: p["plausibility"].pop(), "number of answers in plausibility is 3"),
        (lambda p: p["plausibility"].append({}), "number of answers in plausibility is 5"),
        (lambda p: p["plausibility"].__setitem__(0, {}), "name in plausibility of ceiling is unknown"),
        (lambda p: p.pop("plausibility"), "there is no plausibility, though devices were measured"),
        (lambda p: hardware_of(p).update(flop="123", lower="1", upper="200"), "flop of method hardware is 123"),
        (lambda p: hardware_of(p).update(lower="1"), "lower of method hardware is 1"),
        (lambda p: hardware_of(p).update(upper=None), "upper of method hardware is unknown"),
        (lambda p: hardware_of(p)["inputs"].update(held_ns="1"), "inputs.held_ns of method hardware is 1"),
        (lambda p: hardware_of(p)["inputs"].update(tensor_lower_flop="1"), "inputs.tensor_lower_flop"),
        (lambda p: p["coverage"].update(devicesNotSeen=[]) or p["plausibility"].pop(), "number of answers"),
        (lambda p: p["coverage"].update(devicesNotSeen=[{"uuid": "GPU-1"}]), "coverage.devicesNotSeen is [{'uuid'"),
        (lambda p: p["compute"]["methods"].remove(hardware_of(p)), "has 0 figures of the hardware"),
        (lambda p: p["compute"]["methods"].append(hardware_of(p)), "has 2 figures of the hardware"),
    ],
)
def test_what_the_ledger_does_not_bear_out_is_a_no(signed, change, words):
    """Else a signer writes any figure of the hardware, or that physics found nothing, under a true count."""
    data, ledger = signed
    verified = verify(forge(data, change), POLICY, ledger=ledger)
    check = check_of(verified, "ledger")
    assert (verified.verdict, check.verdict) == ("no", "no")
    assert words in check.detail


@pytest.mark.parametrize(
    "change",
    [
        lambda p: device_of(p).update(edgeNs="x"),
        lambda p: device_of(p).update(edgeNs=["1"]),
        lambda p: device_of(p).update(unseenNs="-5"),
        lambda p: device_of(p).update(missingNs=["1"]),
        lambda p: p.update(plausibility="fine"),
        lambda p: p["plausibility"][0].update(verdict="maybe"),
        lambda p: p["usage"].update(host=[]),
    ],
)
def test_what_is_no_count_or_no_answer_is_no_statement(signed, change):
    data, ledger = signed
    for known in (None, ledger):
        verified = verify(forge(data, change), POLICY, ledger=known)
        assert (verified.verdict, check_of(verified, "form").verdict) == ("cannot-tell", "cannot-tell")


def test_what_a_device_can_have_done_unseen_is_computed_again(tmp_path):
    """Else a device that was lost for an hour is bounded by next to nothing."""
    run = record(tmp_path / "run", unseen_ns=SECOND)
    issue(run, SIGNER, out=tmp_path / "a.json", live=False)
    data, ledger = (tmp_path / "a.json").read_bytes(), read_run(run)
    assert verify(data, POLICY, ledger=ledger).verdict == "yes"

    def belittle(predicate):
        (unseen,) = predicate["coverage"]["devicesNotSeen"]
        unseen.update(mostFlopPerS="1", mostFlop="1")

    for change in (belittle, lambda p: p["coverage"].pop("devicesNotSeen")):
        forged = forge(data, change)
        assert verify(forged, POLICY).verdict == "yes", "the statement alone does not contradict itself"
        assert verify(forged, POLICY, ledger=ledger).verdict != "yes"


def test_a_table_that_was_not_brought_cannot_be_told(signed):
    """Else naming some file of peaks would be a way around the comparison, or an honest one a lie."""
    data, ledger = signed
    forged = forge(data, lambda p: hardware_of(p)["inputs"].update(peaks=FILE.words))
    verified = verify(forged, POLICY, ledger=ledger)
    assert verified.verdict == check_of(verified, "ledger").verdict == "cannot-tell"
    assert "peaks of a file that was not brought" in check_of(verified, "ledger").detail
    table = replace(PeakTable.standard(), files=(FILE,))
    assert verify(forged, POLICY, ledger=ledger, table=table).verdict == "yes"
    wrong = forge(forged, lambda p: hardware_of(p).update(upper="1"))
    assert verify(wrong, POLICY, ledger=ledger, table=table).verdict == "no"
    assert verify(data, POLICY, ledger=ledger, table=table).verdict == "yes", "it names no file: ours were meant"


def test_what_another_version_computed_otherwise_is_neither_true_nor_a_lie(signed):
    """Else a better table of peaks would disprove what was honestly signed before."""
    data, ledger = signed
    other = forge(data, lambda p: (hardware_of(p).update(upper="1"), p["meter"].update(version="9.9.9")))
    verified = verify(other, POLICY, ledger=ledger)
    assert verified.verdict == "cannot-tell"
    assert "version 9.9.9 made it" in check_of(verified, "ledger").detail


def said(**changes):
    return {"uuid": "GPU-1", "heldNs": "1000", "busyNs": "10", "energyMj": "5", **changes}


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ([said(heldNs="0", busyNs=None)], "energyMj of GPU-1 is 5, more than the 0 ns"),
        ([said(heldNs=None, busyNs=None)], "energyMj of GPU-1 is 5"),
        ([said(heldNs=None, energyMj=None)], "busyNs of GPU-1 is 10, more than the 0 ns"),
        ([said(heldNs="0", energyMj=None)], "busyNs of GPU-1 is 10, more than the 0 ns"),
        ([said(missingNs={"energyMj": "1000"})], "energyMj of GPU-1 is 5, more than the 0 ns"),
        ([said(energyMj=str(10**9))], "no device draws 100 kW"),
        ([said(missingNs={"foo": "1"})], "names 'foo'"),
        ([said(), said(uuid="gpu-1")], "usage.devices has GPU-1 2 times"),
    ],
)
def test_a_device_that_no_sampler_can_have_seen_is_a_no(devices, words):
    """Else a figure without time behind it is worth as much as one that was measured."""
    with pytest.raises(MismatchError, match=words):
        check_devices(devices)


@pytest.mark.parametrize(
    "device",
    [
        said(),
        said(heldNs="0", busyNs="0", energyMj="0"),
        said(heldNs=None, busyNs=None, energyMj=None, unseenNs="5"),
        said(heldNs="0", busyNs=None, energyMj=None, edgeNs="5"),
        said(heldNs="1000", energyMj="70000", missingNs={"energyMj": "999"}),
        said(missingNs={"energyMj": "1000"}, energyMj=None),
    ],
)
def test_what_a_sampler_writes_of_a_device_is_let_be(device):
    """Readings lie milliseconds apart at times, and a counter of energy moves a hundred of them at once."""
    check_devices([device])


DEVICE = DeviceUsage(uuid="GPU-1", name=H100, held_ns=HELD)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sm_cycles": 10**13}, "no clock is above 10 GHz"),
        ({"sm_cycles": 10, "pipes": {"tensor": 10**15}}, "pipes.tensor of GPU-1"),
        ({"throttled": {"thermal": 10**20}}, "held down"),
        ({"power_mj": 10**12}, "power_mj of GPU-1"),
    ],
)
def test_a_ledger_whose_devices_do_what_none_does_is_neither_signed_nor_a_yes(tmp_path, signed, changes, words):
    with pytest.raises(MismatchError, match=words):
        check_usage(Usage((replace(DEVICE, **changes),)))
    run = record(tmp_path / "forged", **changes)
    with pytest.raises(MismatchError, match=words):
        issue(run, SIGNER, out=tmp_path / "b.json", live=False)
    ledger = read_run(run)
    about = {"reason": "run-end", "sequence": 0, "previous": None, "status": "finished"}
    data = Statement.about(Account.of(ledger), ledger=ledger, **about).data
    forged = Attestation(payload=data, signature=SIGNER.sign(encode_pae(data)), hint=SIGNER.key_id).to_bytes()
    verified = verify(forged, POLICY, ledger=ledger)
    assert check_of(verified, "ledger").verdict == verified.verdict == "no"


def test_cycles_that_a_clock_read_at_both_ends_did_not_see_are_let_be():
    """Where a device counts its pipes itself, and was idle whenever its clock was read."""
    check_usage(Usage((replace(DEVICE, sm_cycles=10 * 345_000_000, pipes={"tensor": 10 * 1_980_000_000}),)))
    check_usage(Usage((replace(DEVICE, held_ns=0, unseen_ns=SECOND),)))
    check_usage(Usage((replace(DEVICE, held_ns=None),)))
    check_usage(Usage((replace(DEVICE, throttled={"thermal": HELD + SECOND}),)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: device_of(p).update(unseenNs=str(YEARS)), "GPU-1 may have been held for 277"),
        (lambda p: device_of(p).update(edgeNs=str(10**30)), "GPU-1 may have been held for"),
        (lambda p: device_of(p).update(heldNs=str(YEARS)), "GPU-1 may have been held for"),
        (lambda p: p["usage"].update(host={"cpuNs": str(10**30), "peakBytes": None}), "processors took"),
    ],
)
def test_time_that_the_run_s_own_dates_do_not_bear_out_cannot_be_told(signed, change, words):
    """Else thirty years of a device, in a run of seconds, make any count possible."""
    data, _ = signed

    def forged(predicate):
        change(predicate)
        device, usage = device_of(predicate), predicate["usage"]
        is_whole = device["unseenNs"] == "0"
        usage.update({name: device[name] if is_whole else None for name in ("heldNs", "busyNs", "energyMj")})

    verified = verify(forge(data, forged), POLICY)
    assert check_of(verified, "arithmetic").verdict == "yes"
    assert verified.verdict == check_of(verified, "physics").verdict == "cannot-tell"
    assert words in check_of(verified, "physics").detail
    assert "dates lie" in check_of(verified, "physics").detail


def test_time_of_overlapping_lives_and_of_a_clock_that_was_set_is_let_be(signed):
    data, _ = signed
    for changes in ({"heldNs": str(3600 * SECOND)}, {"edgeNs": str(50 * SECOND)}):
        forged = forge(data, lambda p, changes=changes: device_of(p).update(changes))
        statement = Statement.from_bytes(Attestation.from_bytes(forged).payload)
        assert find_strange_time(statement) == ""
