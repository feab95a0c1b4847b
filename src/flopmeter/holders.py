"""Holders: what several ranks tell of the same devices, so that no device is counted for each of them.

One process of a run reads each device (`sensors/claims.py`), and another may take over from it. Where two read at the
same time after all, because they could not see each other's lock, what each tells is true of the device, and their sum
is not. Not here: usage itself (`usage.py`).
"""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime

from flopmeter.errors import MalformedError
from flopmeter.units import NS_PER_S
from flopmeter.usage import DeviceUsage, Usage

SLACK, SLACK_NS = (101, 100), NS_PER_S
"""So much more than the time that went by may be told of a device, and by each rank: records are dated when they are
written, by a clock that is set now and then."""
JOINED_NS = 5 * NS_PER_S
"""Spans no farther apart than this are one."""
TWICE = "several ranks told of this device at the same time: what one of them told is taken, the rest is not seen"


@dataclass(slots=True)
class _Told:
    """What one rank told of one device, and when.

    Units: the ends of each span in nanoseconds since 1970; spans that touch are one.
    """

    usage: DeviceUsage
    spans: list[tuple[int, int]] = field(default_factory=list)

    def add(self, usage: DeviceUsage, begun_ns: int, ended_ns: int) -> None:
        self.usage += usage
        self.cover(begun_ns, ended_ns)

    def cover(self, begun_ns: int, ended_ns: int) -> None:
        if self.spans and begun_ns <= self.spans[-1][1] + JOINED_NS and begun_ns >= self.spans[-1][0]:
            self.spans[-1] = self.spans[-1][0], max(ended_ns, self.spans[-1][1])
        else:
            self.spans.append((begun_ns, ended_ns))


class Holders:
    """Takes what ranks tell of devices, record by record."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._told: defaultdict[str, dict[int, _Told]] = defaultdict(dict)
        self._rest = Usage()

    def add(self, rank: int, usage: Usage, *, begun: str, ended: str) -> None:
        """Take a record of one rank, between the dates of the entry before it and of its own.

        Raises:
            MalformedError: what is no date.
        """
        self._rest += replace(usage, devices=())
        if not usage.devices:
            return
        span = _ns(begun), _ns(ended)
        for device in usage.devices:
            told = self._told[device.uuid].get(rank)
            if told is None:
                self._told[device.uuid][rank] = _Told(device, [span])
            else:
                told.add(device, *span)

    def usage(self) -> Usage:
        """Return what all devices spent; where ranks told of one at the same time, what one of them told."""
        devices = [_one_of(list(told.values())) for told in self._told.values()]
        return Usage.of(devices, self._rest.notes, host=self._rest.host)


def _one_of(told: list[_Told]) -> DeviceUsage:
    whole = told[0].usage
    for other in told[1:]:
        whole += other.usage
    if len(told) == 1:
        return whole
    passed_ns = _length(sorted(span for one in told for span in one.spans))
    more, than = SLACK
    if _told_ns(whole) * than <= (passed_ns + SLACK_NS * len(told)) * more:
        return whole
    longest = max((one.usage for one in told), key=_told_ns)
    notes = {*filter(None, whole.note.split("; ")), TWICE}
    unseen_ns = longest.unseen_ns + max(0, passed_ns - _told_ns(longest))
    return replace(longest, unseen_ns=unseen_ns, note="; ".join(sorted(notes)))


def _told_ns(usage: DeviceUsage) -> int:
    return (usage.held_ns or 0) + usage.unseen_ns + usage.edge_ns


def _length(spans: list[tuple[int, int]]) -> int:
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
