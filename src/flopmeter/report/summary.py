"""The report as one JSON object: the fields of the contract, filled from an account.

Not here: how a person sees it (`terminal.py`).
"""

from collections.abc import Iterable, Mapping

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.attestation.plausibility import check_physics
from flopmeter.devices.table import PeakTable
from flopmeter.formulas.book import FormulaBook
from flopmeter.reconciliation import Reconciliation, unseen_devices
from flopmeter.report.devices import Total
from flopmeter.tally import Tally
from flopmeter.units import NS_PER_S

SPLITS = ("phase", "kind", "precision", "purpose", "basis")


def summarize(
    account: Account,
    *,
    name: str,
    findings: Iterable[Mapping[str, wire.Wire]] = (),
    table: PeakTable | None = None,
) -> dict[str, object]:
    """Return the fields of `flopmeter report --json`; `table` has the peaks of devices."""
    reconciliation = Reconciliation.of(account, table=table)
    passages = {
        basis: str(account.passages.get(basis, 0)) for basis in ("counted", "replayed", "interpolated", "sampled")
    }
    return {
        "run": name,
        "run_id": account.run,
        "started": account.started,
        "ended": account.ended,
        "steps": str(account.steps),
        "tokens": str(account.tokens),
        "samples": str(account.samples),
        "ranks": str(account.ranks),
        "flop": str(account.flop),
        "lower": str(account.lower),
        "upper": None if account.upper is None else str(account.upper),
        "int_op": str(account.int_op),
        "masked_flop": str(account.tally.masked_flop),
        "contraction_flop": str(account.tally.contraction_flop),
        "by": {split: _by(account.tally, split) for split in SPLITS},
        "uncounted": [seen.to_wire() for seen in account.tally.uncounted],
        "logical": _logical(account),
        "contradictions": [found.to_wire() for found in account.contradictions],
        "coordinates": {str(rank): place.to_wire() for rank, place in sorted(account.coordinates.items())},
        "coverage": account.tally.coverage(),
        "replay": {
            **{f"{basis}_passages": count for basis, count in passages.items()},
            "modelled_passages": str(account.passages.get("modelled", 0)),
            "audits": str(account.audits),
            "mismatches": str(account.misses),
            "unsure_passages": str(account.unsure_passages),
            "budgets": list(account.budgets),
            "overhead_fraction": account.overhead_fraction,
        },
        "usage": _usage(account),
        "plausibility": [answer.to_wire() for answer in check_physics(account, table=table)],
        "peaks": [{"file": file.name, "sha256": file.sha256} for file in (table.files if table else ())],
        "model": None if account.model is None else account.model.to_wire(),
        "estimates": [estimate.to_wire() for estimate in reconciliation.estimates],
        "differences": [term.to_wire() for term in reconciliation.terms],
        "findings": list(findings),
        "warnings": [{"regime": regime, "percent": str(percent)} for regime, percent in account.warned],
        "gaps": [gap.to_wire() for gap in account.gaps],
        "devices_not_seen": [one.to_wire() for one in unseen_devices(account, table=table)],
        "self_tests": [{"passed": passed} for passed in account.self_tests],
        "subjects": [{"name": path, "sha256": digest} for digest, path in account.subjects.items()],
        "books": list(account.books),
        "is_standard_book": account.books == (FormulaBook.standard().digest,),
        "foreign_formulas": dict(account.foreign_formulas),
        "ledger": {
            "entries": str(account.entries),
            "head": account.head,
            "files": [head.to_wire() for head in account.heads],
        },
    }


def _by(tally: Tally, split: str) -> dict[str, str]:
    return {value: str(part.flop) for value, part in tally.by(split).items()}


def _logical(account: Account) -> dict[str, object] | None:
    logical = account.logical
    if logical is None:
        return None
    return {
        "flop": None if logical.flop is None else str(logical.flop),
        "lower": str(logical.lower),
        "upper": str(logical.upper),
        "repeated": [repeated.to_wire() for repeated in logical.repeated],
    }


def _usage(account: Account) -> dict[str, object]:
    held, busy, energy = (account.usage.total(figure) for figure in ("held_ns", "busy_ns", "energy_mj"))
    return {
        "held_s": None if held is None else held / NS_PER_S,
        "busy_s": None if busy is None else busy / NS_PER_S,
        "energy_mj": None if energy is None else str(energy),
        "all_devices": Total.of(account.usage).to_wire() if account.usage.devices else None,
        "devices": [
            {
                **device.to_wire(),
                "held_ns": wire.print_known(device.known_held_ns),
                "identity": dict(account.devices.get(device.uuid, {})),
            }
            for device in account.usage.devices
        ],
        "notes": list(account.usage.notes),
        "host": None if account.usage.host is None else account.usage.host.to_wire(),
    }
