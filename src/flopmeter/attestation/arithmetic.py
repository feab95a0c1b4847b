"""What a statement says of itself: sums, bounds, 6ND and relations to thresholds, computed again.

Needs nothing but the statement. Not here: comparison with a ledger (`verifier.py`).
"""

from collections.abc import Mapping
from datetime import datetime

from flopmeter import wire
from flopmeter.attestation.devices import check_devices
from flopmeter.attestation.predicate import BOUNDS, SPLITS
from flopmeter.attestation.statement import Statement, Threshold
from flopmeter.bounds import GUESSES, weigh_unseen
from flopmeter.errors import MismatchError, UnsupportedError
from flopmeter.formulas.book import CONVENTION
from flopmeter.ledger.merge import join_heads
from flopmeter.tally import BASES, CONTRACTIONS, KINDS, PHASES, PURPOSES
from flopmeter.units import NS_PER_S

Fields = Mapping[str, wire.Wire]

_NAMES = {"phase": PHASES, "kind": KINDS, "purpose": PURPOSES, "basis": BASES}


def check_arithmetic(statement: Statement) -> str:
    """Compute every derived figure of a statement again; return in words what was done.

    Raises:
        MismatchError: one does not follow from the others; the message names both values.
        UnsupportedError: none does, and one follows by a rule that this version does not know.
    """
    for part in (
        _check_names,
        _check_dates,
        _check_splits,
        _check_bounds,
        _check_methods,
        _check_model,
        _check_devices,
        _check_unseen,
        _check_record,
        _check_stage,
    ):
        part(statement)
    rules = [_check_threshold(threshold, statement) for threshold in _objects(statement.predicate["thresholds"])]
    _check_reason(statement)
    convention = wire.parse_text(statement.part("compute")["convention"])
    if convention != CONVENTION:
        rules.insert(0, f"compute.convention is {convention[:40]!r}, this version knows {CONVENTION!r}")
    unknown = "; ".join(rule for rule in rules if rule)
    if unknown:  # last, so that what is wrong is a no all the same
        raise UnsupportedError(unknown)
    methods = [
        f"the figure of method {wire.parse_text(method['method'])} was not computed again"
        for method in _objects(statement.part("compute")["methods"])
        if method["method"] not in ("counted", "6nd") and method["flop"] is not None
    ]
    return "; ".join(["sums, bounds, 6ND and thresholds follow from each other", *methods])


def _check_names(statement: Statement) -> None:
    """A part under a name that the contract does not have would be counted, and be nobody's."""
    splits = wire.parse_object(statement.part("compute")["by"])
    for dimension, known in _NAMES.items():
        strange = sorted(set(wire.parse_object(splits[dimension])) - set(known))
        if strange:
            msg = f"compute.by.{dimension} names {strange[0][:60]!r}, not one of {', '.join(known)}"
            raise MismatchError(msg)


def _check_dates(statement: Statement) -> None:
    stage = statement.part("stage")
    started, as_of = (_moment(stage, name) for name in ("startedOn", "asOf"))
    if started > as_of:
        msg = f"stage.startedOn is {stage['startedOn']}, after stage.asOf, {stage['asOf']}"
        raise MismatchError(msg)


def _moment(stage: Fields, name: str) -> tuple[datetime, str]:
    """Return a date so that it compares: to the second, and the digits below."""
    text = wire.parse_text(stage[name])
    whole, _, digits = text.removesuffix("Z").partition(".")
    try:
        return datetime.fromisoformat(whole), digits.rstrip("0")
    except ValueError as error:
        msg = f"stage.{name} is {text[:40]}, which is no date: {error}"
        raise MismatchError(msg) from error


def _check_splits(statement: Statement) -> None:
    compute = statement.part("compute")
    flop = _count(compute, "flop")
    splits = wire.parse_object(compute["by"])
    for dimension in SPLITS:
        parts = wire.parse_object(splits[dimension])
        _agree(
            f"the sum over compute.by.{dimension}", sum(_count(parts, value) for value in parts), "compute.flop", flop
        )
    kinds = wire.parse_object(splits["kind"])
    products = sum(_count(kinds, kind) for kind in kinds if kind in CONTRACTIONS)
    _agree("the sum over kinds of products", products, "compute.contractionFlop", _count(compute, "contractionFlop"))


def _check_bounds(statement: Statement) -> None:
    compute = statement.part("compute")
    lower, flop, upper = (_known(compute, name) for name in ("lower", "flop", "upper"))
    if lower is None or flop is None or lower > flop or (upper is not None and flop > upper):
        msg = f"compute.flop {flop} does not lie between its bounds {lower} and {upper}"
        raise MismatchError(msg)
    _check_lower(compute, lower, flop)
    gaps = _objects(statement.part("coverage")["gaps"])
    if upper is not None:
        bounded = sum(_known(gap, "upperFlop") or 0 for gap in gaps)
        if any(gap["upperFlop"] is None for gap in gaps) or bounded > upper:
            msg = f"compute.upper is {upper}, though the gaps are bounded by more than that, or by nothing"
            raise MismatchError(msg)


def _check_lower(compute: Fields, lower: int, flop: int) -> None:
    """Work that was not counted is only as sure as audits make it; the ledger alone says exactly how sure."""
    replay = wire.parse_object(compute["replay"])
    audits, misses = (_count(replay, name) for name in ("audits", "mismatches"))
    basis = wire.parse_object(wire.parse_object(compute["by"])["basis"])
    counted = _count(basis, "counted") if "counted" in basis else 0
    if misses > audits:
        msg = f"compute.replay has {misses} mismatches in {audits} audits: more than there were"
        raise MismatchError(msg)
    guessed = sum(_count(basis, name) for name in GUESSES & set(basis))
    unsure = flop - counted - guessed
    most = flop - guessed - 1 if unsure else counted
    if audits <= weigh_unseen(misses):
        most = counted
    if lower > most:
        msg = (
            f"compute.lower is {lower}; with {counted} counted, {guessed} guessed, and {audits} audits of which"
            f" {misses} found something else, no more than {most} is known to have run"
        )
        raise MismatchError(msg)


def _check_methods(statement: Statement) -> None:
    compute, model = statement.part("compute"), statement.part("model")
    for method in _objects(compute["methods"]):
        if method["method"] == "counted":
            for figure in BOUNDS:
                _agree(f"{figure} of method counted", method[figure], f"compute.{figure}", compute[figure])
        elif method["method"] == "6nd" and method["flop"] is not None:
            inputs = wire.parse_object(method["inputs"])
            for name in ("parameters", "tokens"):
                _agree(f"{name} of method 6nd", inputs.get(name), f"model.{name}", model[name])
            expected = 6 * _count(inputs, "parameters") * _count(inputs, "tokens")
            _agree("flop of method 6nd", _known(method, "flop"), "6 × parameters × tokens", expected)


def _check_model(statement: Statement) -> None:
    model = statement.part("model")
    parameters = _known(model, "parameters")
    for name in ("trainable", "embedding"):
        some = _known(model, name)
        if parameters is not None and some is not None and some > parameters:
            msg = f"model.{name} is {some}, more than the {parameters} parameters there are"
            raise MismatchError(msg)
    usage = statement.part("usage")
    devices = _objects(usage["devices"])
    for name in ("heldNs", "busyNs", "energyMj"):
        values = [_whole(device, name) for device in devices]
        total = sum(value or 0 for value in values) if values and None not in values else None
        _agree(f"usage.{name}", _known(usage, name), "the sum over its devices", total)


def _check_devices(statement: Statement) -> None:
    check_devices(_objects(statement.part("usage")["devices"]))
    for method in _objects(statement.part("compute")["methods"]):
        lower, upper = _known(method, "lower"), _known(method, "upper")
        if lower is not None and upper is not None and lower > upper:
            msg = f"method {wire.parse_text(method['method'])} has bounds {lower} and {upper}"
            raise MismatchError(msg)


def _check_unseen(statement: Statement) -> None:
    """Time in which a device was not seen stands there as a gap with a bound: its time × what it can do at most."""
    listed = _objects(statement.part("coverage").get("devicesNotSeen", []))
    if "devicesNotSeen" in statement.part("coverage"):
        devices = _objects(statement.part("usage")["devices"])
        gaps = [(device["uuid"], device.get("unseenNs")) for device in devices if _known(device, "unseenNs")]
        _agree("coverage.devicesNotSeen", [(one.get("uuid"), one.get("ns")) for one in listed], "usage.devices", gaps)
    for one in listed:
        rate = _known(one, "mostFlopPerS")
        most = None if rate is None else -(-_count(one, "ns") * rate // NS_PER_S)
        _agree("mostFlop of coverage.devicesNotSeen", _known(one, "mostFlop"), "ns × mostFlopPerS", most)


def _check_record(statement: Statement) -> None:
    ledger = statement.part("ledger")
    heads = statement.heads
    _agree("ledger.entries", _count(ledger, "entries"), "the sum over its heads", sum(head.entries for head in heads))
    _agree("ledger.head", ledger["head"], "the digest of its heads", join_heads(heads))
    if not heads or len({head.file for head in heads}) != len(heads):
        msg = "ledger.heads names no file, or one file twice"
        raise MismatchError(msg)


def _check_stage(statement: Statement) -> None:
    predicate, stage = statement.predicate, statement.part("stage")
    expected = stage["asOf"] if stage["status"] == "finished" else None
    _agree("stage.finishedOn", stage["finishedOn"], f"what status {statement.status} asks for", expected)
    if (predicate["sequence"] == "0") != (predicate["previous"] is None):
        number, previous = predicate["sequence"], predicate["previous"]
        msg = f"sequence is {number}, previous is {previous}: the first has none, the others one"
        raise MismatchError(msg)
    listed = wire.parse_object(predicate["subjects"])
    digests = sorted({subject.sha256 for subject in statement.subjects})
    named = sorted([*_texts(listed["recorded"]), *_texts(listed["unrecorded"])])
    if named != digests:
        msg = "subjects.recorded and subjects.unrecorded are not, together, the subjects of the statement"
        raise MismatchError(msg)


def _check_threshold(fields: Fields, statement: Statement) -> str:
    """Compute a relation again; return what could not be, in words, or nothing."""
    rule = wire.parse_object(fields["rule"])
    if rule["counts"] != "all":
        return f"threshold {wire.parse_text(fields['id'])} counts by a rule that this version does not know"
    figure = wire.parse_text(rule["figure"])
    threshold = Threshold(
        id=wire.parse_text(fields["id"]),
        flop=_count(fields, "flop"),
        figure=figure,
        near_percent=_count(rule, "nearPercent"),
    )
    expected = threshold.relate(statement.part("compute"))
    _agree(f"relation to {threshold.id}", fields["relation"], f"compute.{figure}", expected)
    return ""


def _check_reason(statement: Statement) -> None:
    """A warning that warns of nothing would be a statement against itself."""
    relations = {threshold["relation"] for threshold in _objects(statement.predicate["thresholds"])}
    wanted = {"threshold-near": {"near", "atOrAbove"}, "threshold-crossed": {"atOrAbove"}}
    reason = wire.parse_text(statement.predicate["reason"])
    if reason in wanted and not relations & wanted[reason]:
        msg = f"reason is {reason}, and no threshold stands so"
        raise MismatchError(msg)


def _agree(name: str, value: object, other_name: str, other: object) -> None:
    if value != other:
        msg = f"{name} is {_show(value)}, {other_name} gives {_show(other)}"
        raise MismatchError(msg)


def _show(value: object) -> str:
    return "unknown" if value is None else str(value)[:80]


def _count(fields: Fields, name: str) -> int:
    return wire.parse_count(fields.get(name), name=name)


def _known(fields: Fields, name: str) -> int | None:
    return None if fields.get(name) is None else _count(fields, name)


def _whole(device: Fields, name: str) -> int | None:
    """Return a figure of a device that was measured for all the time that it was held; else None."""
    missing = wire.parse_object(device.get("missingNs", {}), name="missingNs")
    if (_known(device, "unseenNs") or 0) or (_known(missing, name) or 0):
        return None
    return _known(device, name)


def _objects(value: wire.Wire) -> list[Fields]:
    return [wire.parse_object(item) for item in wire.parse_list(value)]


def _texts(value: wire.Wire) -> list[str]:
    return [wire.parse_text(item) for item in wire.parse_list(value)]
