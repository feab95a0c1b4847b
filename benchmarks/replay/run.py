"""Run random training programs replayed, counted throughout and without a meter, and compare what comes out.

A program is `equal` where replay gives the tally that counting gives, `held` where its interval holds what counting
gives, `missed` where it does not. It fails, too, where a metered run leaves other bits than one without a meter, leaves
a hook behind, or raises. `seen` are programs of which witnesses can see every change.
"""

import argparse
import json
import logging
import multiprocessing
import platform
import shutil
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from loop import Trace, Unmetered, train
from programs import SEEN, UNSEEN, Program, draw, find_changes, is_seen, shrink
from torch import nn

from flopmeter import Account, FormulaBook, Meter
from flopmeter.sensors.budget import Budget
from flopmeter.tally import Tally

RESULTS = Path(__file__).parents[1] / "results"
# In memory, where there is such a folder: ledgers are made durable line by line.
FAST = Path("/dev/shm")  # noqa: S108
ONE_IN = 4
PLAIN = 4  # one program of so many runs without a meter, too
HOOKS = (
    *("_global_forward_hooks", "_global_forward_pre_hooks"),
    *("_global_backward_hooks", "_global_backward_pre_hooks"),
    *("_global_module_registration_hooks", "_global_parameter_registration_hooks"),
    "_global_buffer_registration_hooks",
)
OWN_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one program.

    `verdict` is equal, held or missed; `faults` are what must never be. `is_silent` says that the tallies differ and
    yet the replayed run called no figure of it a guess, and named no gap. `gaps` are the reasons of its gaps.
    Units: `flop`, `exact_flop`, `lower` and `upper` are FLOP; `width` is a share of `exact_flop`, None where nothing
    bounds the figure.
    """

    index: int
    program: str
    is_seen: bool
    changes: tuple[str, ...]
    words: tuple[str, ...]
    verdict: str
    faults: tuple[str, ...] = ()
    is_silent: bool = False
    gaps: tuple[str, ...] = ()
    flop: int = 0
    exact_flop: int = 0
    lower: int = 0
    upper: int | None = None
    passages: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def is_tight(self) -> bool:
        """Whether its hooks were too dear to look at much."""
        return self.index % 2 == 1

    @property
    def is_good(self) -> bool:
        """Say whether the truth was told, and nothing else was touched."""
        return self.verdict in ("equal", "held") and not self.faults

    @property
    def width(self) -> float | None:
        """How wide the interval is."""
        return None if self.upper is None or not self.exact_flop else (self.upper - self.lower) / self.exact_flop


class Bench:
    """Where programs are run: a folder for ledgers, and a book that is read once."""

    def __init__(self, folder: Path) -> None:
        """Take a folder that exists."""
        self.folder, self.book, self._runs = folder, FormulaBook.installed(), 0

    def metered(self, program: Program, *, is_tight: bool = False, **options: Any) -> tuple[Account, Trace]:
        """Run a program under a meter; `is_tight`, under one whose hooks are too dear to look at much."""
        self._runs += 1
        folder = self.folder / f"run-{self._runs}"
        try:
            with unhurried(is_tight=is_tight), Meter(folder, interval_s=1e9, book=self.book, **options) as meter:
                trace = train(program, meter)
            return meter.account(), trace
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def compare(self, program: Program, *, index: int = 0, has_plain: bool = True) -> Outcome:
        """Run a program counted throughout, replayed and without a meter, and say what differs."""
        begun = time.perf_counter()
        found = Outcome(
            index=index,
            program=repr(program),
            is_seen=is_seen(program),
            changes=tuple(sorted(find_changes(program))),
            words=program.words(),
            verdict="void",
        )
        try:
            exact, of_exact = self.metered(program, exact=True)
            faults = list(_find_leaks(of_exact))
            ours, of_ours = self.metered(program, is_tight=found.is_tight)
            faults += [*_find_leaks(of_ours), *_find_changes_of_bits(of_exact, of_ours, "than counted throughout")]
        except Exception as error:  # noqa: BLE001 # nothing may be raised, whatever it is
            return replace(found, **self._find_culprit(program, error))
        if has_plain:
            faults += _find_changes_of_bits(train(program, Unmetered()), of_ours, "than without a meter")
        faults += _find_oddities(exact, ours)
        is_equal = without_basis(exact.tally) == without_basis(ours.tally)
        lower, upper = ours.interval
        is_held = lower <= exact.flop and (upper is None or exact.flop <= upper)
        return replace(
            found,
            verdict="missed" if not is_held else "equal" if is_equal else "held",
            faults=tuple(faults),
            is_silent=not (is_equal or ours.gaps) and set(ours.passages) <= {"counted", "replayed"},
            gaps=tuple(sorted({gap.detail for gap in ours.gaps})),
            flop=ours.flop,
            exact_flop=exact.flop,
            lower=lower,
            upper=upper,
            passages=dict(ours.passages),
            seconds=round(time.perf_counter() - begun, 3),
        )

    def _find_culprit(self, program: Program, error: Exception) -> dict[str, Any]:
        """Say whether a program that raised does so without a meter, too; then torch refuses it."""
        try:
            train(program, Unmetered())
        except Exception as own:  # noqa: BLE001 # whatever torch refuses is no program
            return {"verdict": "void", "faults": (f"without a meter it raises {own!r}"[:300],)}
        return {"verdict": "raised", "faults": (f"metered it raises {error!r}"[:300],)}


@contextmanager
def unhurried(*, is_tight: bool) -> Iterator[None]:
    """Let no clock decide what is counted: programs this small would be over before the budget has room for audits.

    What should be counted is, and of what may be replayed one passage in `ONE_IN` is drawn. Of every other program the
    hooks are as on a launch-bound step: they look at little, and steps that go on alike are told at a glance.
    """
    with (
        mock.patch.object(Budget, "can_afford", return_value=True),
        mock.patch.object(Budget, "one_in", return_value=ONE_IN),
        mock.patch.object(Budget, "is_ample", new_callable=mock.PropertyMock, return_value=not is_tight, create=True),
    ):
        yield


def without_basis(tally: Tally) -> Tally:
    """Return what was counted, however it was known."""
    return Tally.of((replace(count, basis="counted") for count in tally.counts), tally.uncounted)


def _find_changes_of_bits(one: Trace, replayed: Trace, than: str) -> Iterator[str]:
    if one.digest != replayed.digest:
        yield f"replayed, losses or weights have other bits {than}"


def _find_leaks(trace: Trace) -> Iterator[str]:
    """Name every hook and mode that a closed meter left."""
    for name in HOOKS:
        if getattr(nn.modules.module, name, None):
            yield f"{name} are left"
    for name in ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks"):
        if getattr(import_module("torch.optim.optimizer"), name, None):  # torch.optim forgets its name
            yield f"{name} are left"
    if torch._C._len_torch_dispatch_stack():  # noqa: SLF001 # there is no other way to see the stack
        yield "a dispatch mode is left"
    if any(getattr(module, name, None) for module in trace.modules for name in OWN_HOOKS):
        yield "a hook is left on a module"


def _find_oddities(exact: Account, ours: Account) -> Iterator[str]:
    """Name what a run that counts everything must not show, and what both runs must agree on."""
    if set(exact.passages) - {"counted"}:
        yield f"exact=True did not count everything: {dict(exact.passages)}"
    if not exact.gaps and exact.interval != (exact.flop, exact.flop):
        yield f"counted throughout, {exact.flop} FLOP lie in {exact.interval}"
    if (exact.steps, exact.tokens) != (ours.steps, ours.tokens):
        yield f"steps and tokens differ: {(exact.steps, exact.tokens)} and {(ours.steps, ours.tokens)}"
    if any(gap.reason == "failure" for gap in (*exact.gaps, *ours.gaps)):
        yield "our own code failed: " + "; ".join(sorted({gap.detail for gap in (*exact.gaps, *ours.gaps)}))[:200]


def is_bad_in_the_same_way(bench: Bench, outcome: Outcome, program: Program) -> bool:
    """Say whether a smaller program goes wrong as a larger one did."""
    found = bench.compare(program)
    kinds = (found.verdict, bool(found.faults), found.is_silent, found.is_seen)
    return kinds == (outcome.verdict, bool(outcome.faults), outcome.is_silent, outcome.is_seen)


# Many of them.


@dataclass(frozen=True, slots=True)
class Job:
    """Programs of one seed, for one process."""

    seed: int
    indices: tuple[int, ...]


def work(job: Job, folder: Path) -> list[Outcome]:
    """Run the programs of a job, in a process of its own."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("flopmeter").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir=folder, prefix="flopmeter-programs-") as own:
        bench = Bench(Path(own))
        return [
            bench.compare(draw(f"{job.seed}-{index}"), index=index, has_plain=index % PLAIN == 0)
            for index in job.indices
        ]


def run_all(seed: int, indices: Sequence[int], *, jobs: int, folder: Path) -> Iterator[Outcome]:
    """Run programs in so many processes, and hand over each outcome as it comes."""
    parts = [Job(seed, tuple(indices[at : at + 16])) for at in range(0, len(indices), 16)]
    if jobs == 1:
        for part in parts:
            yield from work(part, folder)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for outcomes in pool.imap_unordered(partial(work, folder=folder), parts):
            yield from outcomes


def read_progress(path: Path | None, seed: int) -> list[Outcome]:
    """Return the outcomes that an interrupted run has kept."""
    if path is None or not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    lists = ("changes", "words", "faults", "gaps")
    return [
        Outcome(**{name: tuple(value) if name in lists else value for name, value in line["outcome"].items()})
        for line in lines
        if line["seed"] == seed
    ]


def summarize(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Count outcomes, in the words of the result."""
    found = list(outcomes)
    verdicts = Counter(one.verdict for one in found)
    others = [one.width for one in found if one.verdict == "held" and one.width is not None]
    widths = [one.width for one in found if one.width is not None]
    passages: Counter[str] = Counter()
    for one in found:
        passages.update(one.passages)
    return {
        "programs": len(found),
        **{verdict: verdicts.get(verdict, 0) for verdict in ("equal", "held", "missed")},
        "other_faults": sum(bool(one.faults) for one in found),
        "equal_share": round(verdicts["equal"] / len(found), 4) if found else None,
        "right_share": round((verdicts["equal"] + verdicts["held"]) / len(found), 4) if found else None,
        "differ_and_say_so_nowhere": sum(one.is_silent for one in found),
        "with_gaps": sum(bool(one.gaps) for one in found),
        "without_an_upper_end": sum(one.upper is None for one in found),
        "median_width": _median(widths),
        "median_width_of_those_not_equal": _median(others),
        "passages": dict(sorted(passages.items())),
    }


def _median(values: list[float]) -> float | None:
    return float(f"{statistics.median(values):.4g}") if values else None


def by_word(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """Count outcomes by what the programs are made of; a program counts at each of its words."""
    rows: dict[str, Counter[str]] = {}
    for one in outcomes:
        for word in {*one.words, *one.changes}:
            row = rows.setdefault(word, Counter())
            row.update(["programs", one.verdict, *(["silent"] if one.is_silent else [])])
    names = ("programs", "equal", "held", "missed", "silent")
    return {word: {name: rows[word][name] for name in names} for word in sorted(rows)}


def main() -> int:
    """Run, print, write; 1 where a program is a defect."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=FAST if FAST.is_dir() else None, help="for ledgers")
    parser.add_argument("--progress", type=Path, default=None, help="keeps outcomes; a second run goes on from there")
    parser.add_argument("--shrink", action="store_true", help="print failing programs as small as they can be made")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.gettempdir())
    outcomes = [one for one in read_progress(args.progress, args.seed) if one.index < args.programs]
    done = {one.index for one in outcomes}
    left = [index for index in range(args.programs) if index not in done]
    is_whole = False
    begun = time.monotonic()
    try:
        with ExitStack() as stack:
            keep = stack.enter_context(args.progress.open("a", encoding="utf-8")) if args.progress else None
            for outcome in run_all(args.seed, left, jobs=args.jobs, folder=folder):
                outcomes.append(outcome)
                if keep is not None:
                    keep.write(json.dumps({"seed": args.seed, "outcome": asdict(outcome)}) + "\n")
                    keep.flush()
                _show(outcome)
        is_whole = True
    except KeyboardInterrupt:
        print(f"interrupted after {len(outcomes)} of {args.programs}" + ("; run again to go on" if keep else ""))
    outcomes.sort(key=lambda one: one.index)
    result = {name: summarize(part) for name, part in _split(outcomes)}
    print(json.dumps(result, indent=2))
    print(f"{len(left)} programs in {time.monotonic() - begun:.0f} s")
    if args.shrink:
        _shrink(outcomes, folder)
    if is_whole:
        _write(result, outcomes, args)
    return int(any(one.faults or (one.verdict == "missed" and one.is_seen) for one in outcomes))


def _split(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, list[Outcome]]]:
    yield "all", list(outcomes)
    yield "seen", [one for one in outcomes if one.is_seen and not one.is_tight]
    yield "unseen", [one for one in outcomes if not one.is_seen and not one.is_tight]
    yield "dear_hooks", [one for one in outcomes if one.is_tight]


def _show(outcome: Outcome) -> None:
    if not outcome.is_good or (outcome.is_seen and outcome.is_silent and not outcome.is_tight):
        sort = "seen" if outcome.is_seen else "unseen"
        print(f"{outcome.verdict} ({sort}) {outcome.index}: {outcome.program}")
        print(f"    {outcome.flop} for {outcome.exact_flop} in {outcome.lower} … {outcome.upper}; {outcome.passages}")
        for fault in outcome.faults:
            print(f"    {fault}")


def _shrink(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Print the first of each sort of failure, as small as it can be made."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(dir=folder) as own:
        bench = Bench(Path(own))
        for outcome in outcomes:
            if not outcome.is_good or (outcome.is_seen and outcome.is_silent and not outcome.is_tight):
                program: Program = eval(outcome.program, {"Program": Program})  # noqa: S307 # our own repr
                print(f"{outcome.index}: {shrink(program, partial(is_bad_in_the_same_way, bench, outcome))!r}")


def _write(result: dict[str, Any], outcomes: Sequence[Outcome], args: argparse.Namespace) -> None:
    now = datetime.now(UTC)
    whole = {
        "command": f"python {Path(__file__).name} --programs {args.programs} --seed {args.seed} --jobs {args.jobs}",
        "date": now.date().isoformat(),
        "device": f"CPU, {platform.machine()}, one thread",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "flopmeter")}},
        "widths": "of the interval, as shares of what counting gives",
        **result,
        "changes_that_witnesses_see": dict(SEEN),
        "changes_that_none_sees": dict(UNSEEN),
        "by_word": by_word(outcomes),
        "wrong": [
            {"program": one.program, "verdict": one.verdict, "seen": one.is_seen, "faults": list(one.faults)}
            for one in outcomes
            if not one.is_good
        ],
    }
    out = args.out or RESULTS / f"replay-programs_cpu_{now:%Y%m}.json"
    out.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    print(f"written to {out}")


if __name__ == "__main__":
    raise SystemExit(main())
