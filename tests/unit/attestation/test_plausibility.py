"""What physics allows: `no` only of what no program could have done."""

import pytest

from flopmeter.account import Account
from flopmeter.attestation.plausibility import (
    KINDS,
    TILE_WASTE,
    VERDICTS,
    Activity,
    Limit,
    check_activity,
    check_ceiling,
    check_energy,
    check_physics,
    check_unmetered,
)
from flopmeter.devices.peaks import find_peak, most_flop_per_s
from flopmeter.devices.table import PeakTable
from flopmeter.host import HostUsage
from flopmeter.tally import CONTRACTIONS
from flopmeter.testing.ledgers import ScriptedSegment, product_table
from flopmeter.units import NS_PER_S
from flopmeter.usage import DeviceUsage, Usage

HOUR = 3600 * NS_PER_S
NAME = "NVIDIA H100 80GB HBM3"
STATED = find_peak(NAME, "bf16").flop_per_s
MOST = most_flop_per_s(PeakTable.standard().find_name(NAME))


def limit(**given):
    return Limit(
        **{
            "uuid": "GPU-1",
            "may_have_held_ns": HOUR,
            "stated_flop_per_s": STATED,
            "stated_in": "bf16",
            "most_flop_per_s": MOST,
            **given,
        }
    )


@pytest.mark.parametrize(
    ("flop", "verdict", "words"),
    [
        (0, "yes", "possible: 0 FLOP of products in 16.0 GPU-hours; "),
        (16 * 3600 * STATED, "yes", "FLOP by stated peaks in bf16"),
        (16 * 3600 * STATED + 1, "yes", "above stated peaks in bf16"),
        (16 * 3600 * MOST, "yes", "above stated peaks in bf16"),
        (16 * 3600 * MOST + 1, "no", "impossible"),
        (10**30, "no", "no program could do in less than 7.75e+09 times that time"),
    ],
)
def test_a_count_above_every_pipe_at_its_highest_clock_is_impossible(flop, verdict, words):
    """A fabricated ledger claims more than its GPUs could do; an honest one at a high clock is not called so."""
    found = check_ceiling(flop, [limit()] * 16)
    assert found.verdict == verdict
    assert words in found.detail
    assert found.numbers["counted_flop"] == str(flop)
    assert found.numbers["most_flop"] == str(16 * 3600 * MOST)


def test_a_datasheets_peak_alone_never_says_impossible():
    """H100 NVL measured above theirs."""
    limits = [limit(most_flop_per_s=None)]
    assert check_ceiling(3600 * STATED, limits).verdict == "yes"
    above = check_ceiling(3600 * STATED + 1, limits)
    assert above.verdict == "cannot-tell"
    assert "how high clocks go is unknown" in above.detail


def test_the_highest_clock_alone_is_enough_for_both_answers():
    limits = [limit(stated_flop_per_s=None)]
    assert check_ceiling(1, limits).verdict == "yes"
    detail = check_ceiling(1, limits).detail
    assert "with every pipe full at the highest clock" in detail
    assert "stated" not in detail, "nobody said that the maker states none"
    assert check_ceiling(3600 * MOST + 1, limits).verdict == "no"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ([], "no device time was measured"),
        ([limit(may_have_held_ns=None)], "the time of GPU-1 is unknown"),
        ([limit(), limit(may_have_held_ns=None)], "the time of GPU-1 is unknown"),
        ([limit(), limit(stated_flop_per_s=None, most_flop_per_s=None)], "no peak of GPU-1 is known"),
    ],
)
def test_without_time_or_peak_of_every_device_nothing_can_be_told(limits, words):
    """An unknown device among eight could have done all of it."""
    found = check_ceiling(10**40, limits)
    assert found.verdict == "cannot-tell"
    assert words in found.detail


def test_no_time_at_all_makes_any_work_impossible():
    assert check_ceiling(1, [limit(may_have_held_ns=0)]).verdict == "no"
    assert check_ceiling(0, [limit(may_have_held_ns=0)]).verdict == "yes"


def test_work_that_the_least_power_leaves_no_time_for_is_impossible():
    """Time can be made up in a ledger; the energy of a provider's bill bounds it from outside."""
    limits = [limit(energy_mj=70_000 * 100, floor_mw=70_000, floor_source="the lowest that the sampler saw")] * 2
    assert check_energy(200 * MOST, limits).verdict == "yes"
    found = check_energy(200 * MOST + 1, limits)
    assert found.verdict == "no"
    assert (
        "lasts for 3.3 device-minutes at the least power of each device (the lowest that the sampler saw)"
        in found.detail
    )
    assert found.numbers["energy_mj"] == str(2 * 70_000 * 100)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ([], "no device was measured"),
        ([limit(energy_mj=None, floor_mw=70_000)], "the energy of GPU-1 is unknown"),
        ([limit(energy_mj=1000)], "nothing bounds FLOP per joule"),
        ([limit(energy_mj=1000, floor_mw=0)], "nothing bounds FLOP per joule"),
        ([limit(energy_mj=1000, floor_mw=70_000, most_flop_per_s=None)], "nothing bounds FLOP per joule"),
    ],
)
def test_without_a_least_power_energy_bounds_nothing(limits, words):
    """A typical FLOP per joule is no bound, and would call a better kernel a lie."""
    found = check_energy(10**40, limits)
    assert found.verdict == "cannot-tell"
    assert words in found.detail


@pytest.mark.parametrize(
    ("flop", "activity", "verdict"),
    [
        (100, Activity(most_flop=100, beside_flop=5), "yes"),
        (105, Activity(most_flop=100, beside_flop=5), "yes"),
        (106, Activity(most_flop=100, beside_flop=5), "no"),
        (100, Activity(most_flop=100), "yes"),
        (101, Activity(most_flop=100), "cannot-tell"),
        (0, Activity(), "cannot-tell"),
        (0, Activity(beside_flop=5), "cannot-tell"),
    ],
)
def test_pipes_that_were_idle_did_no_products(flop, activity, verdict):
    """A count that a ledger makes up leaves no trace in the cycle counters."""
    assert check_activity(flop, activity).verdict == verdict


@pytest.mark.parametrize(
    ("counted", "verdict"),
    [(1000, "yes"), (999, "cannot-tell"), (100, "cannot-tell"), (10, "no"), (0, "no")],
)
def test_pipes_that_did_far_more_than_was_counted_ran_something_unmetered(counted, verdict):
    """A second training beside the metered one is what an auditor looks for."""
    found = check_unmetered(counted, Activity(least_flop=1000), waste=64)
    assert found.verdict == verdict
    assert ("unmetered" in found.detail) is (verdict != "yes")
    assert found.numbers["waste"] == "64"


def test_whoever_knows_the_kernels_may_ask_more_sharply():
    assert check_unmetered(400, Activity(least_flop=1000)).verdict == "cannot-tell"
    assert check_unmetered(400, Activity(least_flop=1000), waste=2).verdict == "no"
    assert TILE_WASTE == 64


def test_no_activity_tells_nothing_of_unmetered_work():
    assert check_unmetered(0, Activity()).verdict == "cannot-tell"


def test_idle_pipes_and_no_products_are_possible():
    assert check_unmetered(0, Activity(least_flop=0)).verdict == "yes"


def test_convolutions_are_not_compared():
    """Winograd does a convolution in fewer operations than it nominally has; a count of them can be above any pipe."""
    assert set(KINDS) == set(CONTRACTIONS) - {"convolution"}


def test_what_processors_did_is_not_laid_to_devices():
    """Else an hour on the host beside a second on a card is called impossible."""
    held = limit()
    bare = check_ceiling(10**30, [held])
    assert bare.verdict == "no"
    assert check_ceiling(10**30, [held], host_flop=10**30).verdict == "yes"


def test_every_answer_travels_with_its_numbers():
    for found in (
        check_ceiling(1, [limit()]),
        check_energy(1, [limit()]),
        check_activity(1, Activity(most_flop=1)),
        check_unmetered(1, Activity(least_flop=1)),
    ):
        assert found.verdict in VERDICTS
        travelled = found.to_wire()
        assert travelled["name"] == found.name
        assert all(type(value) is str for value in travelled["numbers"].values())
        assert found.detail.count("\n") == 0


def device_of_a_moment(**fields):
    return DeviceUsage(**{"uuid": "GPU-1", "name": "NVIDIA H100 80GB HBM3", "held_ns": 1, "edge_ns": 0, **fields})


def ceiling_of(tmp_path, usage):
    with ScriptedSegment(tmp_path) as segment:
        segment.note("device", {"uuid": "GPU-1", "name": "NVIDIA H100 80GB HBM3", "pci": "0x233010de"})
        segment.run(product_table(), times=10**6, usage=usage)
        segment.end()
    return check_physics(Account.of(tmp_path))[0].verdict


def test_a_run_is_held_against_all_the_time_in_which_it_may_have_had_its_devices(tmp_path):
    """Else what ran before the first sample, or on a rank that nobody sampled, is called impossible."""
    moment = device_of_a_moment()
    assert ceiling_of(tmp_path / "a", Usage.of([moment])) == "no"
    assert ceiling_of(tmp_path / "b", Usage.of([device_of_a_moment(edge_ns=10**9)])) == "yes"
    assert ceiling_of(tmp_path / "c", Usage.of([device_of_a_moment(unseen_ns=10**9)])) == "yes"
    assert ceiling_of(tmp_path / "d", Usage.of([moment], ["no NVIDIA driver: elsewhere"])) == "cannot-tell"


def test_energy_is_held_against_the_least_power_that_was_read(tmp_path):
    """Else nothing bounds FLOP per joule, and a bill of a joule goes with any count."""
    for name, energy_mj, verdict in (("much", 10**9, "yes"), ("little", 1, "no")):
        figures = {"energy_mj": energy_mj, "power_mj": energy_mj, "least_mw": 70_000}
        usage = Usage.of([DeviceUsage(uuid="GPU-1", name=NAME, held_ns=HOUR, **figures)])
        with ScriptedSegment(tmp_path / name) as segment:
            segment.note("device", {"uuid": "GPU-1", "name": NAME, "pci": "0x233010de"})
            segment.run(product_table(), times=10**9, usage=usage)
            segment.end()
        (energy,) = [one for one in check_physics(Account.of(tmp_path / name)) if one.name == "energy"]
        assert energy.verdict == verdict
        assert "the lowest that was read" in energy.detail


def test_what_processors_and_edges_did_needs_no_energy_of_devices():
    """A card held for two seconds and then ten hours on processors would be a lie."""
    held = limit(energy_mj=60_000, floor_mw=30_000)
    assert check_energy(2 * MOST + 1, [held]).verdict == "no"
    assert check_energy(2 * MOST + 1, [held], host_flop=1).verdict == "yes"
    edged = limit(energy_mj=60_000, floor_mw=30_000, edge_ns=NS_PER_S)
    assert check_energy(3 * MOST, [edged]).verdict == "yes"
    assert check_energy(3 * MOST + 1, [edged]).verdict == "no"


def test_a_run_on_processors_after_a_moment_on_a_card_is_possible(tmp_path):
    """The host is part of the question about energy as of that about time, not only where it is put by hand."""
    figures = {"energy_mj": 60_000, "power_mj": 60_000, "least_mw": 30_000}
    device = DeviceUsage(uuid="GPU-1", name=NAME, held_ns=2 * NS_PER_S, edge_ns=NS_PER_S, **figures)
    verdicts = {}
    for name, cpu_ns in (("processors", 36_000 * NS_PER_S), ("idle", 0)):
        with ScriptedSegment(tmp_path / name) as segment:
            segment.note("device", {"uuid": "GPU-1", "name": NAME, "pci": "0x233010de"})
            usage = Usage.of([device], host=HostUsage(cpu_ns=cpu_ns))
            segment.run(product_table(10**4, 10**4, 10**4), times=10_000, usage=usage)  # 2e16: more than in 3 s
            segment.end()
        verdicts[name] = {one.name: one.verdict for one in check_physics(Account.of(tmp_path / name))}
    assert verdicts["processors"]["energy"] == verdicts["processors"]["ceiling"] == "yes"
    assert verdicts["idle"]["energy"] == verdicts["idle"]["ceiling"] == "no"


def activity_of(folder, *, precision="bf16", times=1, name=NAME, pci="0x233010de", host=None, **fields):
    """Return the answers about one device of ten seconds whose tensor pipes were active for a tenth of them."""
    cycles = 10 * 1_755_000_000
    figures = {"held_ns": 10 * NS_PER_S, "sm_cycles": cycles, "pipes": {"tensor": cycles // 10}, **fields}
    device = DeviceUsage(uuid="GPU-12345678-9", name=name, **figures)
    with ScriptedSegment(folder) as segment:
        segment.note("device", {"uuid": "GPU-12345678-9", "name": name, "pci": pci})
        segment.run(product_table(1000, 1000, 1000, dtype=precision), times=times, usage=Usage.of([device], host=host))
        segment.end()
    return {one.name: one for one in check_physics(Account.of(folder))}


def test_work_in_bf16_beside_a_run_in_fp32_is_found(tmp_path):
    """Else whoever trains in bf16 without a meter runs a small product in fp32 beside it, and nothing is told."""
    small = activity_of(tmp_path / "small", precision="fp32")["unmetered"]
    assert small.verdict == "no"
    assert "were counted, and nothing that was counted runs on tensor pipes: something ran unmetered" in small.detail
    assert int(small.numbers["tensor_least_flop"]) > 10**13
    large = activity_of(tmp_path / "large", precision="fp32", times=10**5)["unmetered"]
    assert large.verdict == "cannot-tell"
    assert "nothing that was counted runs on tensor pipes" in large.why
    same = activity_of(tmp_path / "same", times=10**6)["unmetered"]
    assert same.verdict == "yes"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"pipes": None}, "no pipe activity of GPU-12345678 was measured"),
        ({"name": "NVIDIA X9", "pci": "0xffff10de"}, "no rate of the tensor pipes of NVIDIA X9 is known"),
    ],
)
def test_why_tensor_pipes_tell_nothing_is_one_of_two_things(tmp_path, fields, why):
    """Else a table that shows 44 % stands above a sentence that says no activity was measured."""
    found = activity_of(tmp_path, **fields)
    assert found["tensor-activity"].why == found["unmetered"].why == why


def test_a_count_that_no_pipe_was_active_for_is_impossible(tmp_path):
    """Else the question about tensor pipes has no answer that is no, whatever a ledger makes up."""
    few = activity_of(tmp_path / "few", times=4000)["tensor-activity"]
    assert (few.verdict, int(few.numbers["counted_flop"])) == ("yes", 8 * 10**12)
    many = activity_of(tmp_path / "many", times=5 * 10**6)["tensor-activity"]  # all of it at the most, not a tenth
    assert many.verdict == "no"
    assert int(many.numbers["tensor_most_flop"]) < 10**16
    cores = activity_of(tmp_path / "cores", times=5 * 10**6, host=HostUsage(cpu_ns=1000 * NS_PER_S))
    assert cores["tensor-activity"].verdict == "yes", "the host may have done it"
    unseen = activity_of(tmp_path / "unseen", times=5 * 10**6, unseen_ns=100 * NS_PER_S)
    assert unseen["tensor-activity"].verdict == "yes", "time not seen is time at full tilt"
    slow = {"sm_cycles": 10 * 345_000_000, "pipes": {"tensor": 345_000_000 * 9}}  # read while it idled
    assert activity_of(tmp_path / "slow", times=4 * 10**6, **slow)["tensor-activity"].verdict == "yes"


def test_the_device_without_energy_is_named_with_its_time(tmp_path):
    """Else a table full of energies stands above a sentence that says one is unknown, and not which."""
    figures = {"energy_mj": 10**6, "power_mj": 10**6, "least_mw": 70_000}
    whole = DeviceUsage(uuid="GPU-1", name=NAME, held_ns=HOUR, **figures)
    lost = DeviceUsage(uuid="GPU-12345678-9", name=NAME, held_ns=HOUR, unseen_ns=275 * NS_PER_S, **figures)
    with ScriptedSegment(tmp_path) as segment:
        segment.run(product_table(), usage=Usage.of([whole, lost]))
        segment.end()
    (energy,) = [one for one in check_physics(Account.of(tmp_path)) if one.name == "energy"]
    assert energy.why == "the energy of GPU-12345678 was not measured for 4.6 min"


def test_energy_that_is_told_in_two_ways_bounds_nothing(tmp_path):
    """Drivers have told 187 J by the counter and 327 J by power: an honest run would be impossible."""
    usage = Usage.of([DeviceUsage(uuid="GPU-1", name=NAME, held_ns=HOUR, energy_mj=1, power_mj=2, least_mw=70_000)])
    with ScriptedSegment(tmp_path) as segment:
        segment.run(product_table(), times=10**9, usage=usage)
        segment.end()
    (energy,) = [one for one in check_physics(Account.of(tmp_path)) if one.name == "energy"]
    assert energy.verdict == "cannot-tell"
    assert "told in two ways" in energy.detail


def test_without_devices_nothing_is_asked(tmp_path):
    with ScriptedSegment(tmp_path) as segment:
        segment.run(product_table())
        segment.end()
    assert check_physics(Account.of(tmp_path)) == ()
