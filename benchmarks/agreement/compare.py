"""Our counts beside those of other counters, model by model and operator by operator.

`python benchmarks/agreement/compare.py` runs every subject of this folder and every specimen; `--only WORD` those whose
names hold the word. It ends with 1 where a product differs from torch's own counter without a known reason, or from a
count by hand.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import oddities  # noqa: F401 # its specimens put themselves on the list
import peers
import torch
from counting import compare, count_ours, count_theirs
from families import family_of
from isolation import Failed, isolated, reason_of
from specimens import SPECIMENS, Specimen
from subject import Built, Subject

from flopmeter.formulas.book import FormulaBook

RESULTS = Path(__file__).parents[1] / "results"
WAYS = ("forward", "step")
SECONDS = 300.0

Row = dict[str, Any]


def versions() -> dict[str, str]:
    """Return the versions of all that takes part; empty where something is not installed."""
    found = {"python": platform.python_version()}
    for name in ("flopmeter", "transformers", *(peer.package for peer in peers.PEERS)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    found["torch"] = torch.__version__
    return found


def beside_torch(work: Built, way: str, again: Built, book: FormulaBook) -> Row:
    """Return our figures of a run, and where torch's differ. Both draw the same, for what is drawn may be a length."""
    run = (lambda built: built.step) if way == "step" else (lambda built: built.eval_step or built.step)
    torch.manual_seed(1)
    ours = count_ours(run(work), book)
    row: Row = {
        "products": sum(ours.products.values()),
        "masked": ours.masked,
        "integer": ours.integer,
        "total": ours.flop,
        "optimizer": ours.optimizer,
    }
    if ours.uncounted:
        row["uncounted"] = dict(sorted(ours.uncounted.items()))
    torch.manual_seed(1)
    try:
        theirs = count_theirs(run(again))
    except Exception as error:  # noqa: BLE001 # whatever their counter does to a model is the outcome
        return row | {"torch": reason_of(error)}
    found = compare(ours, theirs)
    row["torch"] = sum(theirs.values())
    for name in ("equal", "explained", "missed", "unexplained", "not_ours"):
        value = getattr(found, name)
        if value:
            row[name] = value
    return row


def ask(peer: peers.Peer, way: str, built: Built) -> list[int] | str:
    """Return products and total as a counter says them, or why it says nothing."""
    torch.manual_seed(1)
    try:
        with peers.quiet():
            reading = getattr(peer, way)(built)
    except Exception as error:  # noqa: BLE001 # as above
        return reason_of(error)
    return [reading.products, reading.total]


def ask_all(subject: Subject, chosen: Iterable[peers.Peer]) -> Row:
    """Return what counters say of a subject's forward and of its step, as far as they count them."""
    built = subject.build()
    ways = WAYS if built.eval_step is not None else ("step",)
    return {
        peer.name: {way: ask(peer, way, built) for way in ways if getattr(peer, way) is not None} for peer in chosen
    }


def ask_others(subject: Subject) -> Row:
    """Return what the other counters say, in a process of their own; each in its own where one ends it."""
    others = peers.present()[1:]
    try:
        return dict(isolated(partial(ask_all, subject, others), seconds=SECONDS))
    except Failed:
        pass
    found: Row = {}
    for peer in others:
        try:
            found |= isolated(partial(ask_all, subject, [peer]), seconds=SECONDS)
        except Failed as error:
            found[peer.name] = {way: str(error) for way in WAYS if getattr(peer, way) is not None}
    return found


def measure(subject: Subject, book: FormulaBook) -> Row:
    """Return our figures of a subject beside torch's, on models built anew."""
    first, second = subject.build(), subject.build()
    row: Row = {"name": subject.name, "family": family_of(subject.name), "parameters": first.parameters}
    if first.eval_step is not None:
        row["forward"] = beside_torch(first, "forward", second, book)
    row["step"] = beside_torch(first, "step", second, book)
    return row


def is_same(row: Row, old: Row) -> bool:
    """Say whether an older row is of the same model, for torch's counter says the same, and lacks nothing."""
    readings = [reading for said in old.get("others", {}).values() for reading in said.values()]
    is_whole = bool(readings) and all(isinstance(reading, list) for reading in readings)
    return is_whole and all(row.get(way, {}).get("torch") == old.get(way, {}).get("torch") for way in WAYS)


def measure_specimen(specimen: Specimen, book: FormulaBook, *, with_others: bool = True) -> Row:
    """Return what everybody says of a specimen; each in a process of its own, since some break torch for the next."""
    case = specimen.make()
    row: Row = {"name": specimen.name, "shows": specimen.shows, "known": specimen.known}
    for way in WAYS:
        hand = getattr(case, way)
        if hand is None:
            continue
        row[way] = {"hand": hand}
        for name, work in askers(specimen, way, book, with_others=with_others):
            try:
                row[way][name] = isolated(work, seconds=SECONDS)
            except Failed as error:
                row[way][name] = str(error)
    return row


def askers(specimen: Specimen, way: str, book: FormulaBook, *, with_others: bool) -> Iterator[tuple[str, Any]]:
    """Return who is asked about a specimen, and how."""

    def ours() -> Row:
        return beside_torch(specimen.make().built(), way, specimen.make().built(), book)

    yield "flopmeter", ours
    for peer in peers.present() if with_others else ():
        if getattr(peer, way) is not None:
            yield peer.name, lambda peer=peer: ask(peer, way, specimen.make().built())


def faults_of(row: Row) -> Iterator[str]:
    """Say what of a row must not be: a product that differs for no known reason, or from a count by hand."""
    for way in WAYS:
        ours = row.get(way, {})
        hand, name = ours.get("hand"), f"{row['name']}, {way}"
        if hand is not None:
            ours = ours["flopmeter"]
            if isinstance(ours, str):
                yield f"{name}: {ours}"
                continue
            if not ours.get("uncounted") and ours["products"] - ours["masked"] != hand:
                yield f"{name}: {ours['products'] - ours['masked']} products, by hand {hand}"
        if not row.get("known"):
            for op, (mine, other) in ours.get("unexplained", {}).items():
                yield f"{name}: {op} is {mine}, torch says {other}, and nobody knows why"


def subjects() -> list[Subject]:
    """Return every subject of this folder, the hand-made ones first."""
    import architectures  # transformers is slow to import, and may be absent
    import models

    return [*models.subjects(), *architectures.subjects()]


def run_all(chosen: Iterable[Subject], book: FormulaBook, old: dict[str, Row]) -> Iterator[Row]:
    """Measure subjects one after the other, each in processes of its own.

    Where an older row is of the same model, what the other counters said of it is taken over.
    """
    for subject in chosen:
        begun = time.monotonic()
        try:
            row = isolated(partial(measure, subject, book), seconds=SECONDS)
        except Failed as error:
            yield {"name": subject.name, "failed": str(error)}
            continue
        before = old.get(subject.name, {})
        row["others"] = before["others"] if is_same(row, before) else ask_others(subject)
        yield row | {"seconds": round(time.monotonic() - begun, 1)}


def write(result: Row, path: Path) -> None:
    """Write a result, one subject and one specimen a line."""
    rows = {name: result[name] for name in ("specimens", "subjects")}
    text = json.dumps({**result, "specimens": [], "subjects": []}, indent=2, ensure_ascii=False)
    for name, items in rows.items():
        lines = ",\n".join("    " + json.dumps(item, separators=(",", ":"), ensure_ascii=False) for item in items)
        text = text.replace(f'"{name}": []', f'"{name}": [\n{lines}\n  ]' if items else f'"{name}": []')
    path.write_text(text + "\n", encoding="utf-8")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names that hold this word")
    parser.add_argument("--specimens", action="store_true", help="specimens alone")
    parser.add_argument(
        "--old", type=Path, default=None, help="a result whose readings of the others may be taken over"
    )
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    peers.warm_up()
    book = FormulaBook.standard()

    read = json.loads(args.old.read_text(encoding="utf-8")) if args.old else {"specimens": [], "subjects": []}
    old = {row["name"]: row for row in read["subjects"]}
    now = datetime.now(UTC)
    result: Row = {
        "command": "python benchmarks/agreement/compare.py" + (" --old AGREEMENT.json" if old else ""),
        "date": now.date().isoformat(),
        "device": f"CPU, {platform.machine()}, one thread",
        "versions": versions(),
        "book": book.digest,
        "faults": [],
        "specimens": [],
        "subjects": [],
    }
    out = args.out or RESULTS / f"agreement_cpu_{now:%Y%m}.json"
    for specimen in SPECIMENS.values():
        if args.only in specimen.name:
            result["specimens"].append(measure_specimen(specimen, book))
    chosen = [] if args.specimens else [one for one in subjects() if args.only in one.name]
    for row in run_all(chosen, book, old):
        result["subjects"].append(row)
        print(row["name"], row.get("failed") or f"{row['seconds']} s", flush=True)
        write(result, out)
    for row in (*result["specimens"], *result["subjects"]):
        result["faults"] += faults_of(row)
    write(result, out)
    print(*result["faults"], f"{len(result['faults'])} faults; written to {out.name}", sep="\n")
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
