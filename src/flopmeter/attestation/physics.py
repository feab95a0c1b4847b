"""What a verifier makes of physics: the devices of a statement, or of the ledger behind it, against what was counted.

A statement knows less than a ledger: names of devices and no ids, no clocks, no pipes; so it alone can show that a
count is impossible by time, and else little. Not here: the questions (`plausibility.py`).
"""

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.attestation.plausibility import (
    KINDS,
    Limit,
    Plausibility,
    bound_host,
    check_ceiling,
    check_physics,
    without_no,
)
from flopmeter.attestation.statement import Statement
from flopmeter.devices.peaks import identify, most_flop_per_s
from flopmeter.devices.table import PeakTable
from flopmeter.errors import CannotVerifyError, MismatchError
from flopmeter.reconciliation import unseen_devices
from flopmeter.units import print_flop

UNMETERED = "unmetered"
"""The one question whose `no` says nothing against the count: what else ran may be another's."""

LEDGERS = ("energy", "tensor-activity", UNMETERED + " (for want of the ledger)")
"""The questions that a statement alone does not answer."""


def judge_physics(statement: Statement, account: Account | None, *, table: PeakTable | None = None) -> str:
    """Say in words that the devices could have done what is claimed; `account` is the ledger's, where one was brought.

    Raises:
        MismatchError: no program could have done it.
        CannotVerifyError: it cannot be told, or the devices did so much more that something ran unmetered.
    """
    answers = check_stated(statement, table=table) if account is None else check_physics(account, table=table)
    refuse_impossible(answers)
    if not answers:
        raise CannotVerifyError("not checked: no device was measured")
    possible = [answer.detail for answer in answers if answer.verdict == "yes"]
    strange = [answer.detail for answer in answers if answer.verdict == "no"]
    if not strange and not possible:
        raise CannotVerifyError("; ".join(dict.fromkeys(answer.detail for answer in answers)))
    left = [f"{answer.name} ({answer.why})" for answer in answers if answer.verdict == "cannot-tell"]
    left += list(LEDGERS) if account is None else []
    silent = [f"not answered: {', '.join(left)}"] if left else []
    if strange:
        raise CannotVerifyError("; ".join([*strange, *silent]))
    unlike = [] if account is None else _compare_unseen(statement, account, table)
    return "; ".join([*possible, *unlike, *silent])


def _compare_unseen(statement: Statement, account: Account, table: PeakTable | None) -> list[str]:
    """Say where a device that was not seen is bounded otherwise than by the peaks here; no lie: tables differ."""
    here = {one.uuid: one.most_flop for one in unseen_devices(account, table=table)}
    stated = [wire.parse_object(one) for one in wire.parse_list(statement.part("coverage").get("devicesNotSeen", []))]
    said = {wire.parse_text(one.get("uuid")): wire.parse_known(one.get("mostFlop"), name="mostFlop") for one in stated}
    return [
        f"{uuid[:12]} while it was not seen did at most {print_flop(most)} by the statement,"
        f" {print_flop(here[uuid])} by the peaks here"
        for uuid, most in said.items()
        if uuid in here and most != here[uuid]
    ]


def refuse_impossible(answers: tuple[Plausibility, ...]) -> None:
    """Refuse a count that no program could have made.

    Raises:
        MismatchError: it is one; the message has the numbers.
    """
    impossible = [one.detail for one in answers if one.verdict == "no" and one.name != UNMETERED]
    if impossible:
        msg = f"the count is not what these devices can have done: {'; '.join(impossible)}"
        raise MismatchError(msg)


def check_stated(statement: Statement, *, table: PeakTable | None = None) -> tuple[Plausibility, ...]:
    """Put the one question that a statement can answer by itself; none where it names no device."""
    usage = statement.part("usage")
    devices = [wire.parse_object(device) for device in wire.parse_list(usage["devices"])]
    if not devices:
        return ()
    kinds = wire.parse_object(wire.parse_object(statement.part("compute")["by"])["kind"])
    products = sum(wire.parse_count(kinds[kind], name=kind) for kind in KINDS if kind in kinds)
    limits = []
    for device in devices:
        name = wire.parse_text(device["name"])
        part = None if name == "unknown" else identify(name=name, table=table).part
        spans = [wire.parse_known(device.get(span), name=span) or 0 for span in ("heldNs", "unseenNs", "edgeNs")]
        limits.append(
            Limit(
                uuid=wire.parse_text(device["uuid"]),
                may_have_held_ns=sum(spans) or None,
                most_flop_per_s=None if part is None else most_flop_per_s(part),
            )
        )
    host = wire.parse_object(usage.get("host") or {}, name="host")
    cpu_ns = wire.parse_known(host.get("cpuNs"), name="cpuNs")
    answer = check_ceiling(products, limits, host_flop=0 if cpu_ns is None else bound_host(cpu_ns))
    has_holes = wire.parse_list(usage["notes"]) or wire.parse_list(statement.part("coverage")["gaps"])
    if cpu_ns is None or has_holes or statement.status == "running":
        answer = without_no(answer)
    return (answer,)
