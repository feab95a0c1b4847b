"""Which operators of real models have no formula: each model of the collection takes one step under the recorder.

An operator that is not counted is missing from a run's figure; this says which, how often, and with what shapes.
"""

import argparse
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

import architectures
import models
import torch
from subject import Step, Subject

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import COMPLEX, FLOATS, OpCall
from flopmeter.sensors.shadows import rows_of
from flopmeter.sensors.torch_ops import OpRecorder


@dataclass(frozen=True, slots=True)
class Missing:
    """One operator that a book could not price, with an example of its calls."""

    op: str
    reason: str
    calls: int
    elements: int
    dtypes: tuple[str, ...]
    example: OpCall

    @property
    def is_floating(self) -> bool:
        """Say whether numbers that a figure is about go in or come out."""
        return not (FLOATS | COMPLEX).isdisjoint(self.dtypes)


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was seen of one subject; `refused` says why it could not be run, where it could not."""

    name: str
    ops: frozenset[str] = frozenset()
    missing: tuple[Missing, ...] = ()
    parameters: int = 0
    refused: str = ""
    eval_refused: str = ""
    seconds: float = field(default=0.0, compare=False)


def record(step: Step, *, book: FormulaBook) -> list[tuple[OpCall, int]]:
    """Return the operator calls of a step; an exception in the recorder is not swallowed."""
    failures: list[Exception] = []
    recorder = OpRecorder(lambda: "forward", failures.append, book)
    with recorder:
        step()
    if failures:
        raise failures[0]
    return [(row.call, row.calls) for row in rows_of(recorder.take())]


def find_missing(calls: Iterable[tuple[OpCall, int]], *, book: FormulaBook) -> tuple[Missing, ...]:
    """Return what the book cannot price, operators and reasons apart."""
    found: dict[tuple[str, str], Missing] = {}
    for call, times in calls:
        reason = ask(call, book=book)
        if not reason:
            continue
        key = (call.op, reason)
        old = found.get(key, Missing(call.op, reason, 0, 0, (), call))
        seen = (spec.dtype for spec in (*call.tensors, *call.out))
        found[key] = Missing(
            *key,
            old.calls + times,
            old.elements + times * call.out_size,
            tuple(dict.fromkeys([*old.dtypes, *seen])),
            old.example,
        )
    return tuple(found.values())


def ask(call: OpCall, *, book: FormulaBook) -> str:
    """Return why a call has no price; nothing where it has one."""
    try:
        if book.cost(call) is not None:
            return ""
    except FormulaError as error:
        return f"refused: {error.__cause__ or error}"
    return "no entry" if book.find(call.op) is None else "no price for these operands"


def cover(subject: Subject, *, book: FormulaBook) -> Coverage:
    """Build a subject, take a step and an evaluation, and say what was seen; a failure to build or run is an answer."""
    begun = time.perf_counter()
    calls, eval_refused = [], ""
    try:
        built = subject.build()
        calls += record(built.step, book=book)
        if built.eval_step is not None:
            try:
                calls += record(built.eval_step, book=book)
            except Exception as error:  # noqa: BLE001  # whatever a model of somebody's raises
                eval_refused = describe(error)
    except Exception as error:  # noqa: BLE001  # likewise
        return Coverage(subject.name, refused=describe(error), seconds=time.perf_counter() - begun)
    return Coverage(
        subject.name,
        frozenset(call.op for call, _ in calls),
        find_missing(calls, book=book),
        built.parameters,
        eval_refused=eval_refused,
        seconds=time.perf_counter() - begun,
    )


def describe(error: Exception) -> str:
    """Return an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def all_subjects() -> list[Subject]:
    """Return every subject of the collection."""
    return [*models.subjects(), *architectures.subjects()]


def choose(subjects: list[Subject], *, only: str = "", sample: str = "1/1") -> list[Subject]:
    """Return the subjects whose name holds `only`, and of those each Nth beginning at the Kth."""
    start, stride = map(int, sample.split("/"))
    return [one for one in subjects if only in one.name][start - 1 :: stride]


def print_summary(found: list[Coverage]) -> None:
    """Print the operators that are missing, those of most subjects first, and what could not be run."""
    by_op: dict[tuple[str, str], list[tuple[str, Missing]]] = {}
    for one in found:
        for missing in one.missing:
            by_op.setdefault((missing.op, missing.reason), []).append((one.name, missing))
    ran = [one for one in found if not one.refused]
    print(f"\n{len(ran)} subjects ran, {len(frozenset().union(*(one.ops for one in ran)))} operators seen")
    for (op, reason), places in sorted(by_op.items(), key=lambda item: (-len(item[1]), item[0])):
        calls = sum(missing.calls for _, missing in places)
        kinds = sorted({dtype for _, missing in places for dtype in missing.dtypes})
        sort = "floating" if any(missing.is_floating for _, missing in places) else "integers only"
        print(f"\n{op}: {reason}; {len(places)} subjects, {calls} calls, {sort} ({', '.join(kinds)})")
        print(f"    e.g. {places[0][1].example.to_wire()}")
        print(f"    in {', '.join(name for name, _ in places[:6])}{' …' if len(places) > 6 else ''}")
    for one in found:
        if one.refused or one.eval_refused:
            print(f"not run: {one.name}: {one.refused or 'evaluation: ' + one.eval_refused}")


def main() -> None:
    """Walk the collection and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="subjects whose name holds this")
    parser.add_argument("--sample", default="1/1", metavar="K/N", help="each Nth subject, beginning at the Kth")
    parser.add_argument("--list", action="store_true", help="names alone, and what is known not to build")
    args = parser.parse_args()
    subjects = choose(all_subjects(), only=args.only, sample=args.sample)
    if args.list:
        print("\n".join(one.name for one in subjects))
        for name, why in sorted(architectures.refused().items()):
            print(f"refused: {name}: {why}")
        return
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    book, found = FormulaBook.standard(), []
    for subject in subjects:
        one = cover(subject, book=book)
        found.append(one)
        gaps = ", ".join(sorted({missing.op for missing in one.missing})) or "all counted"
        print(f"{one.name:<48} {len(one.ops):>4} ops {one.parameters:>10} parameters {one.seconds:6.2f} s  ", end="")
        print(f"not run: {one.refused}" if one.refused else gaps, flush=True)
    print_summary(found)


if __name__ == "__main__":
    main()
