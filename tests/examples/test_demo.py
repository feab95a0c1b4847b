"""The demo, as a user runs it: exact to the last operation, and whole again after `kill -9`.

`python tests/examples/test_demo.py runs/demo` compares an uninterrupted run of the demo with the sum by hand.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def load_demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flopmeter_demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    return load_demo()


def products_by_hand(*, layers: int, width: int, context: int, batch: int, trained: int, evaluated: int) -> int:
    """Sum the products of `trained` micro-batches and `evaluated` batches from layer sizes alone, a multiply-add as 2.

    A layer multiplies each token by 12·width² weights (3 for query, key and value, 1 after attention, 4 + 4 in the
    feed-forward part); the output layer by 256·width. Backward does each twice. Causal attention has
    context·(context+1)/2 pairs per row of the batch; forward makes 2 products of `width` per pair, backward 4, and the
    fused kernel one more to have the scores again.
    """
    tokens = batch * context
    pairs = batch * context * (context + 1) // 2
    weights = 2 * tokens * (layers * 12 * width**2 + 256 * width)
    attention = layers * pairs * 2 * width
    return trained * (3 * weights + (2 + 4 + 1) * attention) + evaluated * (weights + 2 * attention)


def test_the_products_of_an_uninterrupted_demo_are_the_sum_by_hand(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If this failed, the figure that the demo signs would not be what its model did."""
    plan = demo.Plan(layers=2, heads=2, width=32, context=16, batch=4, steps=11, evaluate_every=4, save_every=5)
    demo.train(plan, tmp_path)
    demo.report(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    by_hand = products_by_hand(
        layers=2, width=32, context=16, batch=4, trained=11 * plan.accumulation, evaluated=2 * plan.evaluation_batches
    )
    assert int(report["contraction_flop"]) == by_hand
    assert report["uncounted"] == []
    assert int(report["replay"]["replayed_passages"]) > 0
    assert report["replay"]["modelled_passages"] == "0"
    assert (report["steps"], report["tokens"]) == ("11", str(11 * plan.tokens_per_step))

    capsys.readouterr()
    assert demo.flopmeter(["recount", str(tmp_path), "--json"]) == 0
    recount = json.loads(capsys.readouterr().out)
    assert int(recount["contraction_flop"]) == by_hand
    assert recount["share"] == 1.0


def test_a_replayed_demo_counts_what_an_exact_one_counts(demo: ModuleType, tmp_path: Path) -> None:
    """If this failed, replay would invent or lose work in the simplest run there is."""
    plan = demo.Plan(layers=1, heads=2, width=16, context=8, batch=2, steps=9, evaluate_every=3, save_every=5)
    tallies = []
    for exact in (False, True):
        out = tmp_path / str(exact)
        demo.train(plan, out) if not exact else _train_exactly(demo, plan, out)
        counts = demo.Account.of(out).tally.counts
        tallies.append(demo.Account.of(out).tally.of(replace(count, basis="counted") for count in counts))
    assert tallies[0] == tallies[1]


def _train_exactly(demo: ModuleType, plan: object, out: Path) -> None:
    metered = demo.Meter
    try:
        demo.Meter = lambda *args, **options: metered(*args, **options, exact=True)
        demo.train(plan, out)
    finally:
        demo.Meter = metered


def test_the_made_up_rule_warns_in_time_and_signs(demo: ModuleType, tmp_path: Path) -> None:
    """If this failed, a lab would learn from the press that it has passed a threshold."""
    plan = demo.Plan(layers=1, heads=2, width=16, context=8, batch=2, steps=6, evaluate_every=3, save_every=5)
    demo.train(plan, tmp_path)
    account = demo.Account.of(tmp_path)
    assert account.warned == tuple(("demo.made-up", percent) for percent in (50, 80, 95, 100))
    signed = sorted((tmp_path / "attestations").iterdir())
    assert len(signed) == len(account.attestations) >= 1
    for file in signed:
        command = ["verify", str(file), "--key", str(tmp_path / "key.pub"), "--ledger", str(tmp_path)]
        assert demo.flopmeter(command) == 0


def test_a_demo_killed_in_the_middle_goes_on_and_says_what_was_lost(demo: ModuleType, tmp_path: Path) -> None:
    """If this failed, a power cut would end a run's evidence, or hide work from it."""
    script = (
        f"import importlib.util, pathlib, sys\n"
        f"spec = importlib.util.spec_from_file_location('flopmeter_demo', {str(DEMO)!r})\n"
        f"demo = importlib.util.module_from_spec(spec); sys.modules['flopmeter_demo'] = demo\n"
        f"spec.loader.exec_module(demo)\n"
        f"demo.Meter = lambda *a, m=demo.Meter, **o: m(*a, **o, interval_s=0.2)\n"
        f"plan = demo.Plan(layers=1, heads=2, width=16, context=8, batch=2, steps=100_000, save_every=20)\n"
        f"demo.train(plan, pathlib.Path({str(tmp_path)!r}))\n"
    )
    victim = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_for(lambda: (tmp_path / "resume.pt").exists() and _lines(tmp_path) > 12)
    finally:
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
    killed = demo.Account.of(tmp_path)
    assert [gap.reason for gap in killed.gaps] == ["not closed"]
    assert killed.upper is None

    step = demo.torch.load(tmp_path / "resume.pt")["step"]
    plan = demo.Plan(layers=1, heads=2, width=16, context=8, batch=2, steps=step + 5, save_every=20)
    demo.train(plan, tmp_path)
    account = demo.Account.of(tmp_path)
    assert account.run == killed.run
    assert account.steps == killed.steps + 5
    assert account.flop > killed.flop
    assert [gap.reason for gap in account.gaps] == ["killed"]
    assert account.gaps[0].upper_flop is not None
    assert account.upper is not None
    assert len(account.heads) == 2


def _wait_for(is_there: object, seconds: float = 120) -> None:
    assert callable(is_there)
    end = time.monotonic() + seconds
    while not is_there():
        assert time.monotonic() < end, "the demo never came this far"
        time.sleep(0.05)


def _lines(run: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in (run / "ledger").glob("*.jsonl"))


def compare(run: Path) -> None:
    """Print the products that a report names beside the sum by hand from the demo's own sizes."""
    report = json.loads((run / "report.json").read_text())
    steps, plan = int(report["steps"]), load_demo().Plan()
    by_hand = products_by_hand(
        layers=plan.layers,
        width=plan.width,
        context=plan.context,
        batch=plan.batch,
        trained=steps * plan.accumulation,
        evaluated=steps // plan.evaluate_every * plan.evaluation_batches,
    )
    print(
        f"counted {report['contraction_flop']}, by hand {by_hand}, equal: {int(report['contraction_flop']) == by_hand}"
    )


if __name__ == "__main__":
    compare(Path(sys.argv[1]))
