"""`flopmeter doctor`: what can be measured here and what cannot, with a known-answer self-test of the counter.

Torch and NVML are looked for here and missed politely. Not here: measuring a run (`meter.py`).
"""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from flopmeter.cli.output import CANNOT_TELL, DONE, NO, build_parser, print_json, print_text
from flopmeter.devices.peaks import bound_cpu, identify, print_device_id
from flopmeter.formulas.book import CONVENTION, FormulaBook
from flopmeter.sensors.driver import probe_driver
from flopmeter.units import print_flop


def run(argv: Sequence[str]) -> int:
    """Look, test, print: 0 the counter is right, 1 it is wrong on this torch build, 3 there is no torch."""
    parser = build_parser("doctor", "What can be measured on this machine, with a known-answer test of the counter.")
    args = parser.parse_args(argv)
    book = FormulaBook.standard()
    cores = os.cpu_count() or 1
    found: dict[str, object] = {
        "flopmeter": _version("flopmeter"),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "convention": CONVENTION,
        "multiply_add": "2",
        "book": book.digest,
        "operators": str(len(book.entries)),
        "self_test": _test(book),
        "nvml": _probe(),
        "cpu": {"cores": str(cores), "ceiling_flop_per_s": str(bound_cpu(cores))},
    }
    if args.json:
        print_json(found)
    else:
        _print(found)
    test = found["self_test"]
    if not isinstance(test, dict):
        return CANNOT_TELL
    return DONE if test["passed"] else NO


def _test(book: FormulaBook) -> dict[str, object] | None:
    """Run the self-test; None where there is no torch."""
    try:
        from flopmeter.sensors.self_test import run_self_test
    except ImportError:
        return None
    return dict(run_self_test(book).to_wire())


def _probe() -> dict[str, object]:
    """Return what the driver tells, with the row of the table of peaks that each device has."""
    nvml = probe_driver()
    for device in nvml["devices"]:
        says = device.pop("identity")  # what is printed here gets pasted somewhere, and a serial is nobody's business
        number = says.get("pci", "")
        device_id = print_device_id(int(number, 16)) if number.startswith("0x") else ""
        name = says.get("parent_name", says.get("name", ""))
        part = identify(device_id=device_id, name=name).part if device["tells"] else None
        peak = None if part is None or not part.dense else part.part
        device["peak"] = f"a slice of {peak}" if peak and "parent_name" in says else peak
    return nvml


def _print(found: dict[str, object]) -> None:
    print_text(f"flopmeter  {found['flopmeter']}, Python {found['python']}")
    print_text(f"counting   convention {found['convention']}: a multiply-add is two operations")
    print_text(f"book       {found['operators']} operators, {str(found['book'])[:12]}…")
    print_text(
        f"torch      {found['torch'] or 'not installed: runs cannot be metered here, attestations can be verified'}"
    )
    test = found["self_test"]
    if isinstance(test, dict):
        for answer in test["answers"]:
            right = answer["expected_flop"] == answer["counted_flop"]
            verdict = "right" if right else f"WRONG, {answer['expected_flop']} was expected"
            print_text(f"self-test  {answer['name']}: {answer['counted_flop']} FLOP, {verdict}")
    nvml = found["nvml"]
    if isinstance(nvml, dict):
        _print_nvml(nvml)
    cpu = found["cpu"]
    if isinstance(cpu, dict):
        ceiling = print_flop(int(cpu["ceiling_flop_per_s"]))
        print_text(f"CPU        {cpu['cores']} cores; bound for what is not counted: {ceiling}/s (a stated bound)")


def _print_nvml(nvml: dict[str, Any]) -> None:
    said = [f"driver {nvml['driver']}" if nvml["driver"] else "", nvml["note"]]
    print_text(f"NVML       {'; '.join(filter(None, said)) or 'the driver answers, and does not say which it is'}")
    for device in nvml["devices"]:
        print_text(f"device     {device['name']} {device['uuid']}".rstrip())
        if device["tells"]:
            told = ", ".join(f"{name} {'yes' if is_told else 'no'}" for name, is_told in device["tells"].items())
            print_text(f"           {told}, peak: {device['peak'] or 'unknown'}")
        for note in device["notes"]:
            print_text(f"           {note}")
    visible = nvml["visible"]
    if visible is None and nvml["visible_note"]:
        print_text(f"visible    unknown: {nvml['visible_note']}")
    if visible is not None and nvml["devices"]:
        told = f"{len(visible)} of them to this process: {', '.join(visible) or 'none'}"
        print_text(f"visible    {'; '.join(filter(None, (told, nvml['visible_note'])))}")
    if not any(device["tells"] for device in nvml["devices"]):
        print_text("           device time and energy cannot be measured here; they will be unknown, not zero")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
