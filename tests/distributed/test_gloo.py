"""Four processes with gloo: each rank counts its own work, and the ranks together come to what one process does.

The work that a distributed run adds or leaves to collectives is named by a formula of its own in each test.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch  # noqa: F401  # the programs need it
from versions import since_2_10

from flopmeter.account import Account
from flopmeter.cli.main import main

RANKS, STEPS, WIDTH, LAYERS = 4, 3, 16, 2
PARAMETERS = LAYERS * (2 * WIDTH + WIDTH * 4 * WIDTH * 2 + 4 * WIDTH + WIDTH)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All programs, in one start of four processes."""
    out = tmp_path_factory.mktemp("gloo")
    script = Path(__file__).with_name("programs.py")
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(out), str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * RANKS, "\n".join(said)
    return out


def account_of(runs, name):
    account = Account.of(runs / name)
    assert account.gaps == ()
    assert account.contradictions == ()
    assert account.ranks == (1 if name == "alone" else RANKS)
    return account


def cells(account):
    summed = Counter()
    for one in account.tally.counts:
        summed[one.phase, one.op] += one.flop
    return +summed


def test_data_parallel_ranks_run_the_products_of_one_process_and_all_update_all(runs):
    """If this failed, the sum over ranks would not be what a run executed."""
    alone, account = account_of(runs, "alone"), account_of(runs, "ddp")
    assert account.tally.contraction_flop == alone.tally.contraction_flop
    optimizer = alone.tally.select(phase="optimizer").flop
    assert account.tally.select(phase="optimizer").flop == RANKS * optimizer
    (found,) = account.logical.repeated
    assert (found.over, found.phase, found.flop) == (("dp",), "optimizer", (RANKS - 1) * optimizer)
    assert account.logical.flop == account.flop - found.flop


def test_what_data_parallel_ranks_do_besides_is_named_to_the_operation(runs):
    """If this failed, some of the difference to one process would have no name."""
    alone, account = cells(account_of(runs, "alone")), cells(account_of(runs, "ddp"))
    trained = {cell for cell in {*alone, *account} if cell[0] != "optimizer"}
    differences = {cell: account[cell] - alone[cell] for cell in trained if account[cell] != alone[cell]}
    assert differences == {
        ("backward", "aten::mul"): RANKS * STEPS * PARAMETERS,  # DDP divides gradients before it sums them
        # Each rank sums over its own rows; what is left is for the collective, which is no FLOP.
        ("backward", "aten::sum"): -(RANKS - 1) * STEPS * LAYERS * (4 * WIDTH + WIDTH),
        ("backward", "aten::native_layer_norm_backward"): -(RANKS - 1) * STEPS * LAYERS * 2 * WIDTH,
        ("forward", "aten::sum"): -(RANKS - 1) * STEPS,
    }


def test_what_is_done_between_backward_and_update_may_be_done_by_all(runs):
    """If this failed, clipping, which every replica does alike, would be each rank's own in a figure said to be exact.

    And the updates of models of the ranks' own would be repeated because replicas are updated by the same calls.
    """
    account = account_of(runs, "clipped")
    optimizer, clipping = (account.tally.select(phase=phase).flop for phase in ("optimizer", "other"))
    (found,) = account.logical.repeated
    assert (found.over, found.phase, found.flop) == (("dp",), "optimizer", (RANKS - 1) * (optimizer // 2) // RANKS)
    known = account.flop - clipping - optimizer
    assert account.logical.upper == account.flop - found.flop
    assert account.logical.lower == known + (clipping + optimizer) // RANKS
    assert clipping > 0


@pytest.mark.parametrize("name", ["fsdp1", "fsdp2"])
def test_sharded_parameters_are_whole_where_they_work_and_updated_once(runs, name):
    """If this failed, FSDP would be counted at the shapes of its shards, or its optimizer once for each rank."""
    alone, account = account_of(runs, "alone"), account_of(runs, name)
    assert account.tally.contraction_flop == alone.tally.contraction_flop
    assert account.estimate.flop == alone.estimate.flop
    assert account.logical.flop is not None
    updated, once = cells(account), cells(alone)
    for op in ("addcdiv_", "addcmul_", "lerp_", "sqrt"):
        assert updated["optimizer", f"aten::{op}"] == once["optimizer", f"aten::{op}"]
    # Each rank counts the steps of each parameter that it has a part of.
    repeated = [one for one in account.logical.repeated if one.phase == "optimizer"]
    assert [(one.over, one.flop % ((RANKS - 1) * STEPS)) for one in repeated] == [(("fsdp",), 0)]


def test_zero_updates_each_parameter_on_one_rank(runs):
    """If this failed, a sharded optimizer would count as often as there are ranks, or not at all."""
    alone, account = account_of(runs, "alone"), account_of(runs, "zero")
    assert account.tally.select(phase="optimizer").flop == alone.tally.select(phase="optimizer").flop
    assert account.logical.flop == account.flop


@pytest.mark.parametrize("name", ["tp", "fsdp2-tp"])
def test_tensor_parallel_products_are_counted_at_local_shapes(runs, name):
    """If this failed, the total of a tensor-parallel run would be multiplied by its size."""
    alone, account = account_of(runs, "alone"), account_of(runs, name)
    # Half the ranks have other data, so half of the data of `alone`.
    assert 2 * account.tally.contraction_flop == alone.tally.contraction_flop
    assert {axis.name: axis.size for axis in account.coordinates[0].axes} == {"dp": 2, "tp": 2}
    # Ranks of tp share their tokens, and a part of the parameters is the whole model's.
    assert (account.tokens, account.model.parameters) == (alone.tokens // 2, PARAMETERS)
    # The norms stand before anything says that all ranks of tp are given the same: so they may be repeated, or not.
    norms = sum(one.flop for one in account.tally.counts if "layer_norm" in one.op)
    assert account.logical.lower < account.logical.upper
    assert account.logical.upper - account.logical.lower <= account.tally.select(phase="optimizer").flop + norms


@since_2_10("stages of a pipeline cannot tell each other of shapes with gloo")
@pytest.mark.parametrize(
    "kind", ["ScheduleGPipe", "Schedule1F1B", "ScheduleInterleaved1F1B", "ScheduleInterleavedZeroBubble"]
)
def test_pipelines_run_the_products_of_one_process_and_replay_to_the_operation(runs, kind):
    """If this failed, several micro-batches in flight would be booked at each other's figures."""
    alone, account = account_of(runs, "alone"), account_of(runs, kind)
    # Twice the layers on half the data: two pipelines of four layers, with a batch each.
    assert account.tally.contraction_flop == alone.tally.contraction_flop
    # Each pipeline's stages share its tokens, and together are the model.
    assert (account.tokens, account.model.parameters) == (alone.tokens // 2, 2 * PARAMETERS)
    forward, backward = (account.tally.select(phase=phase) for phase in ("forward", "backward"))
    assert set(account.tally.by("phase")) == {"forward", "backward", "optimizer"}
    assert backward.contraction_flop == 2 * forward.contraction_flop
    replayed = account_of(runs, f"{kind}-replayed")
    assert Counter({cell: 4 * flop for cell, flop in cells(account).items()}) == cells(replayed)
    assert replayed.passages["replayed"] > 0
    assert {axis.name: axis.size for axis in account.coordinates[0].axes} == {"dp": 2, "pp": 2}


@since_2_10("stages of a pipeline cannot tell each other of shapes with gloo")
def test_a_zero_bubble_pipeline_adds_gradients_up_in_its_backward(runs):
    """If this failed, gradients that torch's pipeline adds up itself would pass for a forward."""
    forward = [cell for cell in cells(account_of(runs, "ScheduleInterleavedZeroBubble")) if cell[0] == "forward"]
    assert ("forward", "aten::add_") not in forward


def test_ranks_that_train_on_unequal_batches_are_no_contradiction(runs):
    """If this failed, an honest run with a short last batch would be accused."""
    account = account_of(runs, "unequal")
    assert account.tokens == STEPS * (4 * 8 + 0 + 1 + 2 + 3)


def test_no_collective_is_ours(runs):
    """If this failed, a rank that is slow to meter would hold all others up, or hang them."""
    for rank in range(RANKS):
        asked = json.loads((runs / f"collectives-{rank}.json").read_text())
        assert asked["True"] == asked["False"] != []


def test_the_report_shows_the_logical_figure_beside_the_executed_one(runs, capsys):
    """If this failed, a reader would take work that ranks repeat for progress."""
    assert main(["report", str(runs / "ddp")]) == 0
    text = capsys.readouterr().out
    assert "logical FLOP, with work that ranks did alike taken once" in text
    assert "over dp" in text
    assert main(["report", str(runs / "ddp"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    account = account_of(runs, "ddp")
    assert (shown["flop"], shown["logical"]["flop"]) == (str(account.flop), str(account.logical.flop))
    assert shown["coordinates"]["3"]["axes"] == [{"index": "3", "name": "dp", "role": "data", "size": "4"}]
    assert shown["contradictions"] == []
