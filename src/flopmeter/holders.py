"""Holders: what several ranks tell of the same devices, so that no device is counted for each of them.

One process of a run reads each device (`sensors/claims.py`), and another may take over from it. Where two read at the
same time after all, because they could not see each other's lock, what each tells is true of the device, and their sum
is not. Not here: usage itself (`usage.py`).
"""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeAlias

from flopmeter.errors import MalformedError
from flopmeter.units import NS_PER_S
from flopmeter.usage import DeviceUsage, Usage

Span: TypeAlias = tuple[int, int]

SLACK_NS = NS_PER_S // 4
"""So much more than the time that went by may be told of a device by each rank: records are dated when they are
written. Of what a rank left to others, as much may be read by none for each of them: they sample at their own times."""
LEAST_LEFT_NS = 2 * NS_PER_S
JOINED_NS = 5 * NS_PER_S
"""Spans no farther apart than this are one."""
TWICE = "several ranks told of this device at the same time: what one of them told is taken, the rest is not seen"
KILLED = "a process that held it ended without a last record: what it did since the one before is not in here"
LEFT = "a rank left this device to another, which did not read it all that time"


@dataclass(slots=True)
class _Told:
    """What one rank told of one device, and when: by the clock of the wall, and by the one since the machine started.

    Units: the ends of each span in nanoseconds; spans that touch are one.
    """

    usage: DeviceUsage
    spans: tuple[list[Span], list[Span]] = field(default_factory=lambda: ([], []))

    def cover(self, by_wall: Span, by_machine: Span) -> None:
        for spans, (begun_ns, ended_ns) in zip(self.spans, (by_wall, by_machine), strict=True):
            if spans and spans[-1][0] <= begun_ns <= spans[-1][1] + JOINED_NS:
                spans[-1] = spans[-1][0], max(ended_ns, spans[-1][1])
            else:
                spans.append((begun_ns, ended_ns))


class Holders:
    """Takes what ranks tell of devices, record by record."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._told: defaultdict[str, dict[int, _Told]] = defaultdict(dict)
        self._rest = Usage()

    def add(self, rank: int, usage: Usage, *, dates: tuple[str, str], machine_ns: Span) -> None:
        """Take a record of one rank, between the dates of the record before it and of its own.

        Units: `machine_ns` is the same by the monotonic clock, in nanoseconds.

        Raises:
            MalformedError: what is no date.
        """
        self._rest += replace(usage, devices=())
        for device in usage.devices:
            told = self._told[device.uuid].get(rank)
            if told is None:
                told = self._told[device.uuid][rank] = _Told(device)
            else:
                told.usage += device
            told.cover((_ns(dates[0]), _ns(dates[1])), machine_ns)

    def break_off(self, rank: int) -> None:
        """Hear that a life of a rank ended without a last record."""
        for told in self._told.values():
            if rank in told:
                told[rank].usage = _with(told[rank].usage, KILLED, unseen_ns=0)

    def usage(self) -> Usage:
        """Return what all devices spent; where ranks told of one at the same time, what one of them told."""
        devices = [_one_of(list(told.values())) for told in self._told.values()]
        return Usage.of(devices, self._rest.notes, host=self._rest.host)


def _one_of(told: list[_Told]) -> DeviceUsage:
    whole = told[0].usage
    for other in told[1:]:
        whole += other.usage
    held_ns = max(_told_ns(one.usage) + one.usage.left_ns for one in told)  # by one of them, at the least
    whole = _once(whole, [one for one in told if _told_ns(one.usage)])
    if held_ns - _told_ns(whole) > LEAST_LEFT_NS:
        whole = _with(whole, LEFT, unseen_ns=held_ns - _told_ns(whole))
    return replace(whole, left_ns=0)


def _once(whole: DeviceUsage, told: list[_Told]) -> DeviceUsage:
    """Return what one rank told, if several told of the same time."""
    if len(told) < 2:
        return whole
    # A clock that is set back makes spans overlap that do not, and so does a machine that starts anew: never both.
    passed_ns = max(_length(sorted(span for one in told for span in one.spans[clock])) for clock in (0, 1))
    if _told_ns(whole) <= passed_ns + SLACK_NS * len(told):
        return whole
    longest = max((one.usage for one in told), key=_told_ns)
    return _with(replace(longest, note=whole.note), TWICE, unseen_ns=max(1, passed_ns - _told_ns(longest)))


def _with(usage: DeviceUsage, note: str, *, unseen_ns: int) -> DeviceUsage:
    notes = {*filter(None, usage.note.split("; ")), note}
    return replace(usage, unseen_ns=usage.unseen_ns + unseen_ns, note="; ".join(sorted(notes)))


def _told_ns(usage: DeviceUsage) -> int:
    return (usage.held_ns or 0) + usage.unseen_ns + usage.edge_ns


def _length(spans: list[Span]) -> int:
    total, until = 0, 0
    for begun, ended in spans:
        total += max(0, ended - max(begun, until))
        until = max(until, ended)
    return total


def _ns(date: str) -> int:
    try:
        return round(datetime.fromisoformat(date).timestamp() * NS_PER_S)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"{date!r} is no date"
        raise MalformedError(msg) from error
