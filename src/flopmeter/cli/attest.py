"""`flopmeter attest RUN --key KEY --out FILE`: a signed attestation of what the ledgers hold.

Not here: reading, stating and signing (`attestation/issuance.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flopmeter import wire
from flopmeter.attestation.issuance import issue, refuse_place
from flopmeter.attestation.signers.signer import open_signer
from flopmeter.attestation.statement import Statement
from flopmeter.attestation.subjects import hash_subjects
from flopmeter.cli.output import DONE, build_parser, print_json, print_text
from flopmeter.cli.peaks import add_peaks_option, read_table
from flopmeter.ledger.file import is_being_written
from flopmeter.units import print_duration, print_flop

FIGURES = {"heldNs": "time", "busyNs": "utilisation", "energyMj": "energy"}


def run(argv: Sequence[str]) -> int:
    """Sign, write and say what was signed."""
    parser = build_parser("attest", "Sign an attestation of what the ledgers of a run hold.")
    parser.add_argument("run", metavar="RUN", help="the directory that was given to Meter")
    parser.add_argument("--key", metavar="KEY", required=True, help="private key: a path, or a signer's URI")
    parser.add_argument("--out", metavar="FILE", required=True, help="where the attestation goes")
    parser.add_argument(
        "--subject",
        metavar="PATH",
        action="append",
        default=[],
        help="weight file, or directory of them, that it is about",
    )
    parser.add_argument(
        "--allow-unrecorded-subject",
        action="store_true",
        help="attest a file that the ledger never saw; the statement says so",
    )
    parser.add_argument("--issuer", metavar="NAME", help="who you are, in your own words")
    add_peaks_option(parser)
    args = parser.parse_args(argv)
    table = read_table(args.peaks)
    key = args.key.removeprefix("file:")
    spared = [args.key, key, f"{key}.pub", *args.subject, *([args.peaks] if args.peaks else [])]
    refuse_place(Path(args.out), run_dir=Path(args.run), spared=map(Path, spared))  # before anything large is read
    signer = open_signer(args.key)
    attestation = issue(
        args.run,
        signer,
        out=args.out,
        live=is_being_written(args.run),
        subjects=hash_subjects(args.subject),
        allow_unrecorded=args.allow_unrecorded_subject,
        issuer=args.issuer,
        spared=spared,
        table=table,
    )
    statement = Statement.from_bytes(attestation.payload)
    if args.json:
        print_json(
            {
                "attestation": args.out,
                "id": attestation.id,
                "key_id": signer.key_id,
                "reason": statement.predicate["reason"],
                "status": statement.status,
                "sequence": statement.predicate["sequence"],
                "flop": wire.print_count(statement.flop),
                "unmeasured": list(describe_unmeasured(statement)),
                "subjects": [{"name": s.name, "sha256": s.sha256} for s in statement.subjects],
            }
        )
        return DONE
    print_text(f"signed   {print_flop(statement.flop)} of a run that is {statement.status}")
    subjects = ", ".join(subject.name for subject in statement.subjects)
    print_text(f"about    {subjects if args.subject else 'the run itself; --subject names weight files'}")
    print_text(f"by       key {signer.key_id[:12]}…")
    print_text(f"in       {args.out}")
    for sentence in describe_unmeasured(statement):
        print_text(f"without  {sentence}")
    return DONE


def describe_unmeasured(statement: Statement) -> Iterator[str]:
    """Yield what the statement holds no figure of, and why, in a sentence for each reason."""
    usage = statement.part("usage")
    devices = [wire.parse_object(device) for device in wire.parse_list(usage["devices"])]
    notes = "; ".join(wire.parse_text(note) for note in wire.parse_list(usage["notes"]))
    if notes or not devices:
        yield f"device time and energy: {notes or 'no device was measured'}"
    bounds = _bounds(statement)
    for device in devices:
        uuid = wire.parse_text(device["uuid"])
        lacking = [words for name, words in FIGURES.items() if device[name] is None]
        missing = wire.parse_object(device["missingNs"])
        lacking += [f"{FIGURES[name]} for {_span(missing, name)}" for name in missing]
        if unseen := _span(device, "unseenNs"):
            lacking.append(f"whatever it did in {unseen}, between nothing and {bounds.get(uuid, 'what nobody knows')}")
        why = wire.parse_text(device["note"]) or "it was not measured"
        if lacking and why not in notes:
            yield f"{uuid[:12]}: {', '.join(lacking)} ({why})"


def _bounds(statement: Statement) -> dict[str, str]:
    """Return what each device that was not seen may have done at most, in words, where that is known."""
    listed = wire.parse_list(statement.part("coverage").get("devicesNotSeen", []))
    known = ((one["uuid"], one["mostFlop"]) for one in map(wire.parse_object, listed) if one["mostFlop"] is not None)
    return {wire.parse_text(uuid): print_flop(wire.parse_count(flop)) for uuid, flop in known}


def _span(fields: Mapping[str, wire.Wire], name: str) -> str:
    ns = wire.parse_count(fields[name], name=name)
    return print_duration(ns) if ns else ""
