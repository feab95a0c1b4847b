"""Alarm: from a passed level to a signed attestation, while training goes on.

Joins the monitor (who compares), the clerk (who works in a thread) and issuance (who signs) for one meter. A level is
first a durable line of the ledger; only then is anything signed. One attestation is made at a time, for all levels
passed since the last, so that their numbering has no gap. Not here: each of the three.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self, TypeAlias

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.attestation.issuance import issue
from flopmeter.attestation.signers.signer import Signer, open_signer
from flopmeter.attestation.statement import Threshold
from flopmeter.errors import LedgerError, MalformedError
from flopmeter.ledger.chain import find_last
from flopmeter.ledger.merge import RunLedger
from flopmeter.monitor import Clerk, Monitor, ThresholdWarning
from flopmeter.regimes.regime import Regime, find
from flopmeter.step import Totals

_log = logging.getLogger("flopmeter")

Event: TypeAlias = tuple[str, Mapping[str, wire.Wire]]

SETTLE_S = 20.0
CROSSED_PERCENT = 100


class Alarm:
    """What a meter keeps of laws and keys; every method returns at once but `settle`."""

    def __init__(self, run_dir: Path, regimes: Sequence[Regime], signer: Signer | None) -> None:
        """Hold what was looked up; without a signer, warnings are ledger lines alone."""
        self._run_dir = run_dir
        self._regimes = tuple(regimes)
        self._signer = signer
        self._monitor = Monitor(self._regimes)
        self._clerk: Clerk[dict[str, wire.Wire]] = Clerk()
        self._due: list[ThresholdWarning] = []
        self._in_hand: list[ThresholdWarning] = []
        self._is_at_work = False
        self._before = Totals()
        self._known: frozenset[str] = frozenset()
        self._retry: list[ThresholdWarning] = []

    @classmethod
    def of(cls, run_dir: Path, regimes: Sequence[Regime | Path | str], signer: "Signer | Path | str | None") -> Self:
        """Look regimes and key up.

        Raises:
            UnknownRegimeError: no such regime, or a file that says what cannot be meant.
            UnknownSignerError: a key whose URI scheme is not known.
            SigningError: a key that cannot be read.
        """
        found = [regime if isinstance(regime, Regime) else find(regime) for regime in regimes]
        key = open_signer(str(signer)) if isinstance(signer, str | Path) else signer
        return cls(run_dir, found, key)

    def start(self, former: RunLedger | None, *, own_file: Path) -> None:
        """Take over what earlier segments of the run did and said; other ranks may have begun their next already."""
        segments = former.segments if former else ()
        last = {segment.rank: segment for segment in segments}
        growing = {segment.path for rank, segment in last.items() if not own_file.name.startswith(f"{rank}-")}
        ended = tuple(segment for segment in segments if segment.path not in growing)
        self._known = frozenset([own_file.name, *(segment.path.name for segment in ended)])
        if former is not None and ended:
            self._before = Totals.of(Account.of(replace(former, segments=ended), live=True).tally)
        already = Account.of(former, live=True).warned if former is not None else ()
        self._monitor = Monitor(self._regimes, already=already)

    def look(self, total: Totals) -> Iterator[Event]:
        """Return ledger lines for levels newly passed by the run, and for work that was finished.

        `total` is this segment's; what the other ranks did since the start is read from their files.
        """
        yield from self._finished()
        so_far = self._before + total
        for other in self._other_ranks():
            so_far += other
        for warning in self._monitor.observe(flop=so_far.flop, int_op=so_far.int_op):
            self._due.append(warning)
            _log.warning("%s", warning.message)
            yield ("threshold", warning.to_wire())

    def _other_ranks(self) -> Iterator[Totals]:
        for file in sorted((self._run_dir / "ledger").glob("*.jsonl")):
            if file.name not in self._known:
                try:
                    last = find_last(file, kind="steps")
                    if last is not None:
                        yield Totals.from_wire(last.body.get("total"))
                except (LedgerError, MalformedError) as error:
                    _log.warning("%s cannot be read, so its work is missing from the watch: %s", file, error)

    def raise_now(self) -> None:
        """Have an attestation made of the levels whose lines are durable now."""
        if self._signer is None or self._is_at_work or not self._due:
            return
        signer, due = self._signer, [*self._retry, *self._due]
        self._due, self._retry, self._in_hand = [], [], due
        self._is_at_work = True
        last = due[-1]
        self._clerk.submit(lambda: self._issue(signer, due), about=f"{last.regime} {last.percent} %")

    def settle(self) -> list[Event]:
        """Wait for the work in hand, for a while, and return its ledger lines; what failed becomes due once more."""
        if self._is_at_work:
            self._clerk.close(timeout_s=SETTLE_S)
        events = list(self._finished())
        self._clerk = Clerk()
        self._is_at_work = False
        self._due, self._retry = [*self._retry, *self._due], []
        return events

    def _finished(self) -> Iterator[Event]:
        for outcome in self._clerk.collect():
            self._is_at_work = False
            if outcome.is_done and outcome.value is not None:
                yield ("attestation", outcome.value)
            else:
                self._retry = self._in_hand
                _log.warning("no attestation for %s, the run goes on: %s", outcome.about, outcome.reason)
                detail = f"no attestation for {outcome.about}: {outcome.reason}"[:500]
                yield ("gap", {"reason": "unsigned", "detail": detail, "ns": "0", "ceiling_flop_per_s": None})

    def _issue(self, signer: Signer, due: Sequence[ThresholdWarning]) -> dict[str, wire.Wire]:
        """Make one attestation; runs in the clerk's thread and reads files only."""
        last = due[-1]
        is_crossed = any(warning.percent >= CROSSED_PERCENT for warning in due)
        out = self._run_dir / "attestations" / f"{last.regime}-{last.percent}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        attestation = issue(
            self._run_dir,
            signer,
            out=out,
            live=True,
            reason="threshold-crossed" if is_crossed else "threshold-near",
            thresholds=[
                Threshold(id=regime.id, flop=regime.threshold, figure="flop+intOp" if regime.counts_int_op else "flop")
                for regime in self._regimes
            ],
        )
        return {
            "payload": attestation.id,
            "file": out.relative_to(self._run_dir).as_posix(),
            "warnings": [{"regime": warning.regime, "percent": str(warning.percent)} for warning in due],
        }
