"""The report as a person reads it in a terminal.

Not here: figures; every number is one of the account's, only rounded and lined up.
"""

from collections.abc import Iterable, Sequence
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from flopmeter.account import Account
from flopmeter.attestation.plausibility import check_physics
from flopmeter.devices.table import PeakTable
from flopmeter.estimate.estimate import Estimate
from flopmeter.formulas.book import FormulaBook
from flopmeter.reconciliation import Reconciliation, unseen_devices
from flopmeter.regimes.regime import Finding
from flopmeter.report.devices import render_namers, render_physics, render_usage, strip_controls
from flopmeter.tally import BASES, KINDS, PHASES, Tally
from flopmeter.units import print_flop, print_ratio

MAX_LISTED = 10
WORDS = {"modelled": "assumed"}
COLOURS = {"above": "red", "cannot-tell": "yellow", "will-exceed": "yellow", "near": "yellow", "below": "green"}


def print_account(
    account: Account,
    console: Console,
    *,
    name: str,
    findings: Sequence[Finding] = (),
    table: PeakTable | None = None,
) -> None:
    """Print everything that one run used, and what that means; `table` has the peaks of devices."""
    reconciliation = Reconciliation.of(account, table=table)
    for part in (
        *_head(account, name),
        _split(account.tally, "phase", PHASES),
        _split(account.tally, "kind", KINDS),
        *_estimates(account, reconciliation),
        *render_usage(account.usage, ranks=account.ranks),
        *render_namers(account.usage, account.devices),
        *render_physics(check_physics(account, table=table)),
        *_findings(account, findings),
        *_ranks(account),
        *_unknowns(account, table),
        *_record(account),
    ):
        if isinstance(part, Table):
            console.print()
        elif isinstance(part, Text):
            part.plain = strip_controls(part.plain)  # ledgers hold what programs and drivers call themselves
        console.print(part)


def render_account(account: Account, *, name: str, findings: Sequence[Finding] = (), width: int = 100) -> str:
    """Return the same as plain text of a given width, for files and documents."""
    stream = StringIO()
    print_account(account, Console(file=stream, width=width, color_system=None), name=name, findings=findings)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _head(account: Account, name: str) -> Iterable[RenderableType]:
    yield Text.assemble(("run ", "dim"), (name, "bold"), f"  {account.run[:12]}  {account.started} to {account.ended}")
    tokens = f"{account.tokens:,} tokens" if account.tokens else "tokens not told"
    counts = f"{account.steps:,} steps, {tokens}, {account.ranks} {_plural('rank', account.ranks)}"
    if account.model is not None:
        counts += f", {account.model.parameters:,} parameters"
    yield Text(counts)
    yield Text()
    yield Text.assemble(("FLOP executed ", "bold"), (print_flop(account.flop, digits=4), "bold cyan"))
    yield Text(f"  {_sureness(account)}")
    for line in _counting(account):
        yield Text(f"  {line}")
    if account.int_op:
        yield Text(
            f"  besides {account.int_op:,} integer operations; masked products left out:"
            f" {print_flop(account.tally.masked_flop)}"
        )


def _sureness(account: Account) -> str:
    counted = account.tally.select(basis="counted").flop
    lower = print_flop(account.lower) + (" (counted)" if account.lower == counted else "")
    if account.upper is None:
        return f"known to be at least {lower}; nothing bounds the rest"
    if account.lower == account.upper:
        return "known exactly: everything was counted"
    return f"known to lie between {lower} and {print_flop(account.upper)}"


def _counting(account: Account) -> Iterable[str]:
    """Say how many passages were counted, what the others are, and how far that can be trusted."""
    words = ((basis, WORDS.get(basis, basis)) for basis in BASES)
    parts = [f"{account.passages[basis]:,} {word}" for basis, word in words if account.passages.get(basis)]
    yield f"passages: {', '.join(parts) or 'none'}"
    yield f"metering took {print_ratio(account.overhead_fraction)} of the metered time; {_chosen(account)}"
    others = sum(number for basis, number in account.passages.items() if basis != "counted")
    if not others:
        return
    found = f"{account.audits:,} {_plural('audit', account.audits)}"
    if account.audits:
        found += f", {account.misses:,} with another result" if account.misses else " without a miss"
    if account.unsure_passages >= others:
        yield f"{found}: too few to say how many of the {others:,} passages that were not counted are as booked"
    else:
        yield (
            f"{found}: with 95 % confidence, no more than {account.unsure_passages:,} of the {others:,} passages that"
            " were not counted cost something else than was booked"
        )


def _chosen(account: Account) -> str:
    """Say what whoever started the run chose; a life may have chosen otherwise than the one before."""
    said = [
        "everything to be counted (exact)" if budget == "exact" else f"counting within {_percent(budget)} of the time"
        for budget in account.budgets
    ]
    return "chosen was " + ", then ".join(said) if said else "what was chosen is not known"


def _percent(share: str) -> str:
    try:
        return print_ratio(float(share))
    except ValueError:
        return repr(share[:20])


def _split(tally: Tally, dimension: str, order: Sequence[str]) -> Table:
    table = _table(dimension, "FLOP", "share", "of it products")
    parts = tally.by(dimension)
    for value in sorted(parts, key=order.index):
        part = parts[value]
        if part.flop:
            products = print_flop(part.contraction_flop) if part.contraction_flop else "none"
            table.add_row(value, print_flop(part.flop), print_ratio(part.flop / tally.flop), products)
    return table


def _estimates(account: Account, reconciliation: Reconciliation) -> Iterable[RenderableType]:
    table = _table("estimate", "FLOP", "at least", "at most", "from")
    for estimate in reconciliation.estimates:
        table.add_row(
            estimate.method,
            print_flop(estimate.flop),
            "" if estimate.lower is None else print_flop(estimate.lower),
            "" if estimate.upper is None else print_flop(estimate.upper),
            Text(strip_controls(_origin(estimate))),  # not markup, whatever it says
        )
    yield table
    six_nd = reconciliation.modelled.flop
    if six_nd is None:
        return
    table = _table("counted − 6ND", "FLOP", "of 6ND")
    for term in reconciliation.terms:
        table.add_row(term.name, _signed(term.flop), print_ratio(term.flop / six_nd))
    table.add_row("all", _signed(account.flop - six_nd), print_ratio((account.flop - six_nd) / six_nd), style="bold")
    yield table


def _origin(estimate: Estimate) -> str:
    if estimate.note:
        return estimate.note
    if estimate.method == "6nd":
        return f"6 × {int(estimate.inputs['parameters']):,} parameters × {int(estimate.inputs['tokens']):,} tokens"
    return "operators that ran"


def _findings(account: Account, findings: Sequence[Finding]) -> Iterable[RenderableType]:
    if findings:
        table = _table("regime", "verdict", "counts here", "its line", "duty")
        for finding in findings:
            line = f"{finding.regime.operator} {print_flop(finding.regime.threshold)}"
            verdict = Text(finding.verdict, style=COLOURS[finding.verdict])
            table.add_row(finding.regime.id, verdict, print_flop(finding.flop), line, finding.duty)
        yield table
    for regime, percent in account.warned:
        yield Text(f"warned in time: {regime} at {percent} %", style="yellow")


def _ranks(account: Account) -> Iterable[RenderableType]:
    """Say what several ranks did alike, and what one process would have run instead."""
    logical = account.logical
    if logical is None or (account.ranks == 1 and not account.coordinates):
        return
    repeated = [one for one in logical.repeated if one.flop]
    if repeated:
        table = _table("repeated", "phase", "kind", "FLOP beyond once")
        for one in sorted(repeated, key=lambda one: -one.flop)[:MAX_LISTED]:
            table.add_row("over " + ", ".join(one.over), one.phase, one.kind, print_flop(one.flop))
        yield table
    yield Text()
    if logical.flop is not None:
        yield Text(f"logical FLOP, with work that ranks did alike taken once: {print_flop(logical.flop, digits=4)}")
    else:
        ends = f"{print_flop(logical.lower)} and {print_flop(logical.upper)}"
        yield Text(f"logical FLOP, with work that ranks did alike taken once: not known, between {ends}")
    for found in account.contradictions[:MAX_LISTED]:
        yield Text(
            f"contradiction: {found.detail}, and say {found.flop:,} and {found.other_flop:,} FLOP of products",
            style="red",
        )


def _unknowns(account: Account, table: PeakTable | None) -> Iterable[RenderableType]:
    uncounted = account.tally.uncounted
    yield Text()
    if uncounted:
        have = "operator has" if len(uncounted) == 1 else "operators have"
        yield Text(f"uncounted: {len(uncounted)} {have} no formula; never zero, listed", style="yellow")
        for seen in uncounted[:MAX_LISTED]:
            yield Text(f"  {seen.op}: {seen.calls:,} calls, {seen.elements:,} output elements")
    else:
        yield Text("uncounted: nothing; every operator that was seen has a formula")
    for gap in account.gaps[:MAX_LISTED]:
        bound = "unbounded" if gap.upper_flop is None else f"at most {print_flop(gap.upper_flop)}"
        often = f", {gap.times:,} times" if gap.times > 1 else ""
        yield Text(f"gap ({gap.reason}, segment {gap.segment}{often}, {bound}): {gap.detail}", style="yellow")
    for title, items in (("operators", uncounted), ("gaps", account.gaps)):
        if len(items) > MAX_LISTED:
            yield Text(f"  and {len(items) - MAX_LISTED} more {title}; --json lists all")
    if not account.gaps:
        yield Text("gaps in the count: none")
    unseen = unseen_devices(account, table=table)
    if unseen:
        said = "; ".join(one.words for one in unseen[:MAX_LISTED])
        more = f"; and {len(unseen) - MAX_LISTED} more" if len(unseen) > MAX_LISTED else ""
        yield Text(f"devices not seen: {said}{more}", style="yellow")
        yield Text("  that is no gap in the count: what was counted while they were not seen is counted all the same")


def _record(account: Account) -> Iterable[RenderableType]:
    tests = account.self_tests
    failed = tests.count(False)
    answer = "passed" if tests and not failed else f"{failed} failed" if failed else "not run"
    yield Text(f"self-test of the counter: {answer} ({len(tests)} {_plural('start', len(tests))})")
    yield Text(
        f"ledger: {account.entries:,} lines in {len(account.heads)} {_plural('file', len(account.heads))},"
        f" head {account.head[:16]}…, convention fm-1, book {', '.join(book[:12] for book in account.books)}"
    )
    if account.books != (FormulaBook.standard().digest,):
        yield Text("formulas: another book than the standard one of this version; `flopmeter recount` compares them")
    for op, name in list(account.foreign_formulas.items())[:MAX_LISTED]:
        yield Text(f"  {op} is priced by {name}")


def _table(first: str, *rest: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    table.add_column(first, overflow="fold")
    for title in rest:
        table.add_column(title, justify="right" if title not in ("from", "", "verdict", "duty") else "left")
    return table


def _signed(flop: int) -> str:
    return ("−" if flop < 0 else "+") + print_flop(abs(flop))


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
