"""Reports that devices signed over the head of a ledger file, as they lie beside the ledger.

A report is NVIDIA's: the request for measurements that the driver sent to the device (37 bytes of SPDM, the nonce at
bytes 4 to 35), and the answer; the device's signature is over both (NVIDIA/nvtrust, `guest_tools/gpu_verifiers`). What
is read here is the nonce. Signatures and certificates are kept, and left to NVIDIA's verifier.
Not here: how one is asked for (`sensors/confidential.py`), what a verifier makes of it (`attestation/evidence.py`).
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flopmeter import wire
from flopmeter.errors import LedgerUnreadableError, MalformedError
from flopmeter.ledger.file import write_whole

FORMAT = "flopmeter-gpu-report/v0.1"
FOLDER = "evidence"
NONCE = slice(4, 36)
_PLAIN = re.compile(r"(GPU|MIG)-[A-Za-z0-9-]{1,60}\Z")
_NAME = re.compile(r"[0-9]+-[0-9]+\.((GPU|MIG)-[A-Za-z0-9-]{1,60}|[0-9a-f]{32})\.json\Z")


def nonce_of(head: str) -> bytes:
    """Return what a device is asked to sign: SHA-256 of a head as it is written, 64 hexadecimal digits in ASCII."""
    return hashlib.sha256(head.encode("ascii")).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReport:
    """What one device answered, asked with the head of one ledger file; `why` says what went wrong, if anything did.

    `report`, `certificates`, `attestation_certificates` and `cec_report` are bytes as the driver gave them, empty
    where it gave none.
    """

    device: str
    file: str
    head: str
    report: bytes = b""
    certificates: bytes = b""
    attestation_certificates: bytes = b""
    cec_report: bytes = b""
    why: str = ""

    @property
    def nonce(self) -> bytes:
        """The nonce that the report answers."""
        return self.report[NONCE]

    @property
    def is_of_head(self) -> bool:
        """Say whether the report answers the nonce that follows from the head; not whether it is signed."""
        return self.nonce == nonce_of(self.head)

    @property
    def digest(self) -> str:
        """SHA-256 of the report."""
        return wire.digest(self.report)

    @property
    def name(self) -> str:
        """What the file is called that holds it."""
        device = (
            self.device
            if _PLAIN.match(self.device)
            else wire.digest(self.device.encode(errors="backslashreplace"))[:32]
        )
        return f"{self.file.removesuffix('.jsonl')}.{device}.json"

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they are kept."""
        return {
            "format": FORMAT,
            "device": self.device,
            "ledger": {"file": self.file, "head": self.head},
            "nonce": nonce_of(self.head).hex(),
            "report": wire.print_base64(self.report),
            "certificates": wire.print_base64(self.certificates),
            "attestation_certificates": wire.print_base64(self.attestation_certificates),
            "cec_report": wire.print_base64(self.cec_report),
            "why": self.why,
        }

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return the report that this object holds; MalformedError where it holds none."""
        fields = wire.parse_object(value, name="report of a device")
        if fields.get("format") != FORMAT:
            msg = f"format is {str(fields.get('format'))[:60]!r}, this version reads {FORMAT!r}"
            raise MalformedError(msg)
        ledger = wire.parse_object(fields.get("ledger"), name="ledger")
        return cls(
            device=wire.parse_text(fields.get("device"), name="device"),
            file=wire.parse_text(ledger.get("file"), name="file"),
            head=wire.parse_digest(ledger.get("head"), name="head"),
            report=wire.parse_base64(fields.get("report"), name="report"),
            certificates=wire.parse_base64(fields.get("certificates"), name="certificates"),
            attestation_certificates=wire.parse_base64(
                fields.get("attestation_certificates"), name="attestation_certificates"
            ),
            cec_report=wire.parse_base64(fields.get("cec_report"), name="cec_report"),
            why=wire.parse_text(fields.get("why"), name="why"),
        )

    def write(self, run_dir: Path) -> Path:
        """Write it to the directory of its run, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        folder = run_dir / FOLDER
        folder.mkdir(exist_ok=True)
        path, data = folder / self.name, wire.encode(self.to_wire()) + b"\n"
        write_whole(path, data)
        return path


def read_reports(run_dir: Path | str) -> tuple[GpuReport, ...]:
    """Read all reports of a run, in the order of their names; what has not the name of one is somebody else's.

    Raises:
        LedgerUnreadableError: a file that has the name of a report cannot be read, or is not the report of that name.
    """
    folder = Path(run_dir) / FOLDER
    found = []
    for path in sorted(path for path in folder.glob("*.json") if _NAME.match(path.name)):
        try:
            if not path.is_file():  # a pipe would keep us waiting for ever
                msg = "it is no regular file"
                raise MalformedError(msg)
            report = GpuReport.from_wire(wire.decode(path.read_bytes()))
            if report.name != path.name:
                msg = f"what is in it belongs into {report.name}"
                raise MalformedError(msg)
        except (OSError, MalformedError) as error:
            said = error.what if isinstance(error, MalformedError) else error.strerror
            msg = f"this is no report of a device that can be read: {said}"
            hint = "move it away, or put back the report of that name"
            raise LedgerUnreadableError(msg, where=str(path), hint=hint) from error
        found.append(report)
    return tuple(found)
