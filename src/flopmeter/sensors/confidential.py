"""Where confidential computing is on: have each device sign the head of the ledger, when the last line is written.

A device that answers says which device and which firmware it is, and that it met this head; not what it computed. It
answers once, at the end of a life of the process, in bounded time, and what fails is written down in the place of the
report. Tried with a scripted library only. Not here: the files (`ledger/evidence.py`).
"""

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from flopmeter.ledger.evidence import GpuReport, nonce_of
from flopmeter.sensors.device import BINDING_FAILURES
from flopmeter.sensors.guard import words_of
from flopmeter.sensors.identity import bounded

LIMIT_S = 8.0
"""For all devices of a process together: with the sampler's two seconds no more than the ten of a call that hangs.

NVIDIA's own verifier allows five seconds for each call; what a device takes was never measured.
"""
UNFORESEEN = (*BINDING_FAILURES, RuntimeError, LookupError, ArithmeticError, MemoryError)
"""What else a binding that is another than we know may raise: nobody hears of a thread's error but by its reports."""

_log = logging.getLogger("flopmeter")


def sign_head(
    ledger: Path,
    head: str,
    identities: Mapping[str, Mapping[str, str]],
    *,
    library: Any = None,
    limit_s: float = LIMIT_S,
) -> None:
    """Ask every device of which confidential computing is on, and write what it answers beside the ledger.

    `ledger` is the file whose last line has the digest `head`; `identities` is what each device says it is.
    """
    cards = {bounded(fields.get("mig_parent", uuid)) for uuid, fields in identities.items() if fields.get("cc") == "on"}
    if not cards:
        return
    for report in _Signing(ledger.name, head, cards, library).ask(limit_s):
        try:
            report.write(ledger.parent.parent)
        except OSError as error:
            _log.warning("the report of %s cannot be written: %s", report.device, error)
        if report.why:
            _log.warning("%s did not sign the head of the ledger: %s", report.device, report.why)


class _Signing:
    """Asks devices in a thread of its own, which may be left behind: a call to the driver may never come back."""

    def __init__(self, file: str, head: str, cards: Iterable[str], library: Any) -> None:
        self._library = library
        self._nonce = nonce_of(head)
        self._call = "the driver"
        self._reports = {card: GpuReport(device=card, file=file, head=head, why="not asked") for card in sorted(cards)}

    def ask(self, limit_s: float) -> tuple[GpuReport, ...]:
        """Return an answer or a reason for each device, no later than that."""
        thread = threading.Thread(target=self._ask_all, name="flopmeter-reports", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no room for another
            return self._without(words_of(error))
        thread.join(limit_s)
        if thread.is_alive():
            return self._without(f"NVML did not come back from reading {self._call}")
        return tuple(self._reports.values())

    def _without(self, why: str) -> tuple[GpuReport, ...]:
        """Return what was answered until now, and a reason for the rest."""
        return tuple(replace(one, why=why) if one.why else one for one in dict(self._reports).values())

    def _ask_all(self) -> None:
        try:
            library = self._library if self._library is not None else import_module("pynvml")
        except (ImportError, *UNFORESEEN) as error:
            self._reports.update((one.device, one) for one in self._without(words_of(error)))
            return
        try:
            library.nvmlInit()
        except (library.NVMLError, *UNFORESEEN) as error:
            self._reports.update((one.device, one) for one in self._without(words_of(error)))
            return
        for card in list(self._reports):
            try:
                self._ask_one(library, card)
            except (library.NVMLError, *UNFORESEEN) as error:
                self._reports[card] = replace(self._reports[card], why=f"{self._call}: {words_of(error)}")
        self._call = "the driver"
        try:
            library.nvmlShutdown()
        except (library.NVMLError, *UNFORESEEN):
            return

    def _ask_one(self, library: Any, card: str) -> None:
        self._call = "the device"
        handle = library.nvmlDeviceGetHandleByUUID(card)
        self._call = "its report"
        said = library.nvmlDeviceGetConfComputeGpuAttestationReport(handle, self._nonce)
        cec = said.cecAttestationReport[: said.cecAttestationReportSize] if said.isCecAttestationReportPresent else ()
        report = bytes(said.attestationReport[: said.attestationReportSize])
        self._reports[card] = replace(self._reports[card], report=report, cec_report=bytes(cec))
        self._call = "its certificates"
        chains = library.nvmlDeviceGetConfComputeGpuCertificate(handle)
        found = replace(
            self._reports[card],
            certificates=bytes(chains.certChain[: chains.certChainSize]),
            attestation_certificates=bytes(chains.attestationCertChain[: chains.attestationCertChainSize]),
        )
        why = "" if found.is_of_head else "the report answers another nonce than it was given"
        self._reports[card] = replace(found, why=why)
