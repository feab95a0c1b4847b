"""`flopmeter recount RUN`: every figure again from the operator tables, without torch.

Not here: the counting (`recount.py` one floor down).
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from flopmeter.cli.output import (
    CANNOT_TELL,
    DONE,
    NO,
    WRONG_USAGE,
    build_parser,
    print_failure,
    print_json,
    print_text,
)
from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.ledger.merge import read_run
from flopmeter.recount import Recount
from flopmeter.units import print_flop, print_ratio


def run(argv: Sequence[str]) -> int:
    """Price every kept call again and compare: 0 equal, 1 different, 3 where nothing was kept to price."""
    parser = build_parser("recount", "Compute every figure of a run again from the operator calls its ledger keeps.")
    parser.add_argument("run", metavar="RUN", help="the directory that was given to Meter")
    parser.add_argument(
        "--book",
        metavar="FILE",
        help="a Python file of yours with FORMULAS = {'namespace::op': (kind, formula)}, put over the standard book",
    )
    args = parser.parse_args(argv)
    try:
        book = read_book(Path(args.book)) if args.book else FormulaBook.standard()
        recount = _recount(args.run, book, where=args.book)
    except FormulaError as error:
        print_failure(error)
        return WRONG_USAGE
    if args.json:
        print_json(describe(recount))
    else:
        _print(recount)
    if recount.share == 0:
        return CANNOT_TELL
    return NO if recount.differences else DONE


def read_book(path: Path) -> FormulaBook:
    """Return the standard book with the formulas of a file over it. The file is Python and is run.

    Raises:
        FormulaError: the file has no usable FORMULAS.
    """
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    spec = importlib.util.spec_from_file_location("flopmeter_private_book", path)
    if spec is None or spec.loader is None:
        msg = "is no Python file"
        raise FormulaError(msg, where=str(path))
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        book = FormulaBook.standard().with_table(module.FORMULAS)
    except (Exception, SystemExit) as error:
        msg = f"holds no usable FORMULAS: {type(error).__name__}: {error}"
        raise FormulaError(
            msg, where=str(path), hint="write FORMULAS = {'namespace::op': ('matmul', formula)}"
        ) from error
    return book


def _recount(run: str, book: FormulaBook, *, where: str | None) -> Recount:
    """Recount with formulas that may be somebody's own; where one fails, its calls are uncounted."""
    ledger = read_run(run)
    try:
        recount = Recount.of(ledger, book)
        describe(recount)
    except ValueError as error:
        msg = f"the figures cannot be printed: {error}"
        raise FormulaError(msg, where=where or run) from error
    return recount


def describe(recount: Recount) -> dict[str, object]:
    """Return what `--json` prints."""
    return {
        "run_id": recount.run,
        "book": recount.book,
        "ledger_books": list(recount.ledger_books),
        "same_book": recount.is_same_book,
        "equal": not recount.differences,
        "share": recount.share,
        "flop": str(recount.tally.flop),
        "int_op": str(recount.tally.int_op),
        "masked_flop": str(recount.tally.masked_flop),
        "contraction_flop": str(recount.tally.contraction_flop),
        "recorded": {
            "flop": str(recount.recorded.flop),
            "int_op": str(recount.recorded.int_op),
            "masked_flop": str(recount.recorded.masked_flop),
            "contraction_flop": str(recount.recorded.contraction_flop),
        },
        "uncounted": [seen.to_wire() for seen in recount.tally.uncounted],
        "differences": [difference.to_wire() for difference in recount.differences],
    }


def _name_book(recount: Recount) -> str:
    if recount.is_same_book:
        return f"the book of the ledger ({recount.book[:12]}…)"
    others = ", ".join(f"{book[:12]}…" for book in recount.ledger_books)
    return f"another book ({recount.book[:12]}…) than the ledger's ({others})"


def _print(recount: Recount) -> None:
    print_text(f"recounted {print_flop(recount.tally.flop, digits=6)} with {_name_book(recount)}")
    print_text(f"recorded  {print_flop(recount.recorded.flop, digits=6)}")
    print_text(f"share     {print_ratio(recount.share)} of the recorded operations were priced again, call by call")
    if not recount.differences:
        print_text("equal     every operator, to the last operation")
    for difference in recount.differences:
        print_text(f"differs   {difference.op}: recorded {difference.recorded:,}, recounted {difference.recounted:,}")
