"""The interval and the draws as their page has them, written a second time and from the page alone."""

import hashlib
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.journal import Journal
from flopmeter.sensors.draws import Draws
from flopmeter.step import Chance, Ran
from flopmeter.testing.ledgers import ScriptedSegment, product_table

PAGE = (Path(__file__).parents[2] / "docs" / "spec" / "ledger-v0.1.md").read_text(encoding="utf-8")
U = 2**64
TABLES = [product_table(), product_table(2, 5, 3, unknown=1), product_table(7, 2, 4, phase="backward")]


def up(over: int, under: int) -> int:
    return -(-over // under)


def take(weight: int, stakes: list[tuple[int, int]]) -> int:
    taken = 0
    for rate in sorted({rate for rate, _ in stakes if rate}, reverse=True):
        if weight > 0:
            part = min(sum(amount for other, amount in stakes if other == rate), up(weight * rate, U))
            taken += part
            weight -= part * U // rate
    return taken


class ByThePage:
    """Both ends of the interval of a closed run without gaps."""

    def __init__(self, path: Path) -> None:
        self.lower, self.ends, self.misses = 0, [], 0
        self.audits, self.counted, self.groups = Counter(), Counter(), {}
        self.tables, self.missed = {}, []
        for file in sorted((path / "ledger").glob("*.jsonl")):
            self.life = tuple(file.stem.split("-"))
            for line in map(wire.decode, file.read_bytes().splitlines()):
                self.read(line["kind"], line["body"])

    def read(self, kind, body) -> None:
        if kind == "table":
            self.tables[self.life, body["table"]] = body["tally"]
        elif kind == "miss":
            self.missed.append((self.life, body["booked"], body["family"]))
        elif kind == "steps":
            self.audits[self.life[0]] += int(body["audits"])
            self.misses += int(body["misses"])
            for item in body["ran"]:
                self.add(item, None if body["ceiling_flop_per_s"] is None else int(body["ceiling_flop_per_s"]))

    def add(self, item, ceiling) -> None:
        times, ns = int(item["times"]), int(item["ns"])
        tally = item.get("tally") or self.tables[self.life, item["table"]]
        cost = sum(int(count["flop"]) for count in tally["counts"])
        most = cost if "table" in item else min(int(item.get("most_flop", cost)), cost)
        flop, strange = (cost * times if "table" in item else cost), bool(tally["uncounted"])
        if item["basis"] == "counted":
            self.counted[self.life[0]] += times
            self.lower += flop
            by_time = None if ceiling is None else max(flop, up(ceiling * ns, 10**9))
            self.ends.append(by_time if strange else flop)
            return
        chance = item.get("chance") or {"one_in": "0", "longest_ns": item["ns"]}
        is_guess = item["basis"] in {"modelled", "declared"}
        one_in = 0 if is_guess or chance["one_in"] == "1" else int(chance["one_in"])
        place = item.get("table") or ((*self.life, item["family"]) if "family" in item else None)
        key = (self.life[0], place, item["purpose"], item["basis"], one_in, ceiling, strange)
        group = self.groups.setdefault(key, Counter())
        group.update(times=times, ns=ns, lower=int(chance.get("lower", flop)), upper=int(chance.get("upper", flop)))
        group["longest"] = max(group["longest"], int(chance["longest_ns"]))
        group["most"] = max(group["most"], most)

    def is_missed(self, rank, place) -> bool:
        return any(
            (place is not None and place in (booked, (*life, family)))
            or (place is None and life[0] == rank and bool(booked) and (life, booked) not in self.tables)
            for life, booked, family in self.missed
        )

    def interval(self) -> tuple[int, int | None]:
        ends = [self.of_rank(rank) for rank in {key[0] for key in self.groups}]
        lower = self.lower + sum(low for low, _ in ends)
        if any(key[5] is None for key in self.groups) or None in self.ends:
            return lower, None
        return lower, sum(self.ends) + sum(high for _, high in ends)

    def of_rank(self, rank) -> tuple[int, int]:
        own = {key: group for key, group in self.groups.items() if key[0] == rank}
        number = min(self.audits[rank], self.counted[rank])
        chances = Counter()
        for key, group in own.items():
            chances[key[4]] += group["times"]
        expected = sum(up(times * U, one_in) for one_in, times in chances.items() if one_in)
        weight = (3 + 2 * self.misses) * max(U, up(expected, number)) if number else 0
        lower, upper, below, above = 0, 0, [], []
        for (_, place, _purpose, _basis, one_in, ceiling, strange), group in own.items():
            by_time = max(group["upper"], up((ceiling or 0) * group["ns"], 10**9))
            if not one_in or not number or self.is_missed(rank, place):
                upper += by_time
                continue
            lower += group["lower"]
            below.append((group["most"] * one_in, group["lower"]))
            upper += by_time if strange else group["upper"]
            if not strange:
                above.append((up((ceiling or 0) * group["longest"], 10**9) * one_in, by_time - group["upper"]))
        return lower - take(weight, below), upper + take(weight, above)


@st.composite
def items(draw) -> Ran:
    basis = draw(st.sampled_from(["counted", "replayed", "replayed", "sampled", "interpolated", "modelled"]))
    times, each_ns = draw(st.integers(1, 5) | st.integers(1000, 2000)), draw(st.integers(100, 5000))
    one_in = draw(st.sampled_from([0, 1, 2, 64, 256]))
    table, is_loose = draw(st.sampled_from(TABLES)), basis == "interpolated" or draw(st.integers(0, 4)) == 0
    flop = table.tally.flop * times
    lower, upper = (flop // 2, flop * 2) if basis == "sampled" else (None, None)
    longest = draw(st.integers(each_ns, each_ns * times))
    chance = Chance(one_in=one_in, longest_ns=longest, lower=lower, upper=upper)
    return Ran(
        purpose=draw(st.sampled_from(["pretraining", "evaluation"])),
        basis=basis,
        times=times,
        ns=each_ns * times,
        table=None if is_loose else table.name,
        tally=table.tally * times if is_loose else None,
        most_flop=table.tally.flop if is_loose else None,
        family=draw(st.sampled_from("12")) if basis == "interpolated" else None,
        chance=None if basis == "counted" else chance,
    )


RECORDS = st.tuples(st.integers(0, 1), st.lists(items(), max_size=4), st.integers(0, 900), st.integers(0, 9))
MISSES = st.lists(
    st.fixed_dictionaries(
        {"booked": st.sampled_from([table.name for table in TABLES] + ["0" * 64]), "family": st.none()}
    )
    | st.fixed_dictionaries({"booked": st.none(), "family": st.sampled_from("12")}),
    max_size=2,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(RECORDS, min_size=1, max_size=4),
    st.tuples(MISSES, MISSES),
    st.sampled_from([10**10, 10**10, 10**12, None]),
)
def test_whoever_builds_from_the_page_gets_the_same_interval(tmp_path_factory, records, missed, ceiling):
    """Else two auditors disagree on what is known."""
    run = tmp_path_factory.mktemp("page") / "run"
    for rank in range(2):
        with ScriptedSegment(run, rank=rank, ceiling_flop_per_s=ceiling) as segment:
            for table in TABLES:
                segment.run(table)
            for number, ran, audits, misses in records:
                if number == rank:
                    segment.record(ran, audits=audits, misses=min(audits, misses))
            for body in missed[rank]:
                segment.note("miss", body)
            segment.end()
    assert Account.of(run).interval == ByThePage(run).interval()


def mix(value: int) -> int:
    first, second, third = (int(found, 16) for found in re.findall(r"`([0-9a-f]{16})`", PAGE)[:3])
    value = (value + first) % U
    value = (value ^ (value >> 30)) * second % U
    value = (value ^ (value >> 27)) * third % U
    return value ^ (value >> 31)


@given(st.text("0123456789abcdef", min_size=32, max_size=32), st.integers(0, 10**9), st.integers(1, 5))
def test_whoever_draws_from_the_page_draws_the_same(run, step, passages):
    """Else an auditor finds audits missing that nobody had to make."""
    seed = int(hashlib.sha256(f"audits of {run}".encode()).hexdigest()[:16], 16)
    draws, state = Draws(seed), mix(seed ^ mix(step))
    draws.step = step
    for at in range(1, passages + 1):
        draws.at = at
        state = (state + 0x9E3779B97F4A7C15) % U
        for one_in in (1, 2, 16, 64, 1 << 20):
            assert draws.is_drawn(one_in) == ((mix(state) | 1) * one_in < U or one_in == 1)
        assert not draws.is_drawn(0)


@pytest.mark.parametrize("run", ["51e60b8eaa670b45e0e1544ccbbcd9ff"])
def test_a_run_is_seeded_by_its_id(tmp_path, run):
    """Else nobody can tell which passages had to be drawn."""
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "run").write_text(run + "\n", encoding="utf-8")
    journal = Journal(tmp_path, rank=0, header={"book": "0" * 64, "convention": "fm-1"})
    journal.open()
    assert journal.seed == int(hashlib.sha256(f"audits of {run}".encode()).hexdigest()[:16], 16)
    journal._ledger.close()
