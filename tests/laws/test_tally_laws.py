"""Laws that sums of counts, usage and their bytes obey, whatever the values."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flopmeter import wire
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec
from flopmeter.tally import BASES, KINDS, PHASES, PURPOSES, OpCount, Tally, Uncounted
from flopmeter.usage import DeviceUsage, Usage

BOOK = FormulaBook.standard()
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

figures = st.integers(min_value=0, max_value=10**40)
names = st.sampled_from(["aten::mm", "aten::add", "mylib::attn"])
counts = st.builds(
    OpCount,
    op=names,
    kind=st.sampled_from(KINDS),
    phase=st.sampled_from(PHASES),
    purpose=st.sampled_from(PURPOSES),
    precision=st.sampled_from(["fp32", "bf16", "fp8_e5m2*fp8_e4m3", "int64"]),
    basis=st.sampled_from(BASES),
    calls=figures,
    flop=figures,
    int_op=figures,
    masked_flop=figures,
)
unknown = st.builds(Uncounted, op=names, calls=figures, elements=figures)
tallies = st.builds(Tally.of, st.lists(counts, max_size=4), st.lists(unknown, max_size=2))

measured = st.none() | figures
devices = st.builds(
    DeviceUsage,
    uuid=st.sampled_from(["GPU-1", "GPU-2"]),
    name=st.just("a device"),
    held_ns=measured,
    busy_ns=measured,
    energy_mj=measured,
    note=st.sampled_from(["", "reset", "no counter", "reset; slow"]),
)
usages = st.builds(Usage.of, st.lists(devices, max_size=4), st.lists(st.text(max_size=5), max_size=2))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
keys = st.text(st.characters(max_codepoint=127), max_size=5)
values = st.recursive(
    st.none() | st.booleans() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
tensors = st.builds(
    TensorSpec,
    # Fewer than 2^63 elements, as any tensor has.
    (st.lists(st.integers(0, 30_000), max_size=4) | st.lists(st.integers(0, 2**63 - 1), max_size=1)).map(tuple),
    st.sampled_from(["fp32", "bf16", "int64", "bool", "fp8_e4m3", "complex64"]),
    stored=st.none() | st.integers(0, 10**18),
    values=st.none() | st.lists(st.integers(-(2**63), 2**63), max_size=4).map(tuple),
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.sampled_from([0.5, -0.5, 0.0, 1.0, 2.0, 3.0, -1.0])
    | texts
    | st.builds(AnyNumber)
)
arguments = st.recursive(tensors | scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
calls = st.builds(
    OpCall,
    op=names,
    args=st.lists(arguments, max_size=4).map(tuple),
    options=st.dictionaries(keys, arguments, max_size=3).map(
        lambda found: tuple(sorted(found.items(), key=lambda i: i[0]))
    ),
    out=st.lists(tensors, max_size=2).map(tuple),
)


@given(tallies, tallies, tallies)
def test_it_does_not_matter_in_which_groups_tallies_are_added(a, b, c):
    """Else ranks or segments merged in another grouping give another account."""
    assert (a + b) + c == a + (b + c)


@given(tallies, tallies)
def test_it_does_not_matter_in_which_order_tallies_are_added(a, b):
    """Else the order in which ledgers are found changes the account."""
    assert a + b == b + a


@given(tallies)
def test_nothing_added_changes_nothing(a):
    assert a + Tally() == a == Tally() + a


@given(tallies, st.integers(0, 6))
def test_n_times_is_n_additions(a, n):
    """Else replaying a passage gives other figures than counting it each time."""
    added = Tally()
    for _ in range(n):
        added = added + a
    assert a * n == added


@given(tallies, tallies, st.integers(0, 10**12))
def test_multiplying_distributes_over_adding(a, b, n):
    assert (a + b) * n == a * n + b * n


@given(tallies, tallies)
def test_figures_of_a_sum_are_sums_of_figures(a, b):
    for figure in ("flop", "int_op", "masked_flop", "contraction_flop", "calls"):
        assert getattr(a + b, figure) == getattr(a, figure) + getattr(b, figure)


@given(tallies)
def test_products_are_never_more_than_everything(a):
    assert 0 <= a.contraction_flop <= a.flop


@given(tallies)
def test_a_tally_comes_back_from_its_bytes(a):
    """Else the account that an auditor reads is not the one that was signed."""
    data = wire.encode(a.to_wire())
    assert Tally.from_wire(wire.decode_canonical(data)) == a
    assert wire.encode(Tally.from_wire(wire.decode(data)).to_wire()) == data


@given(usages, usages, usages)
def test_usage_is_added_in_any_order_and_grouping(a, b, c):
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + Usage() == a


@given(usages)
def test_usage_comes_back_from_its_bytes(a):
    assert Usage.from_wire(wire.decode_canonical(wire.encode(a.to_wire()))) == a


@given(values)
def test_a_value_comes_back_from_its_bytes(value):
    data = wire.encode(value)
    assert wire.decode_canonical(data) == value
    assert wire.encode(wire.decode(data)) == data


@given(st.binary(max_size=60))
def test_bytes_come_back_from_base64_and_no_other_text_gives_them(data):
    text = wire.print_base64(data)
    assert wire.parse_base64(text) == data


@given(calls)
def test_a_call_comes_back_from_its_bytes(call):
    """Else `recount` prices another call than the one that was made."""
    data = wire.encode(call.to_wire())
    assert OpCall.from_wire(wire.decode_canonical(data)) == call


@given(calls, st.sampled_from(sorted(BOOK.entries)), st.integers(1, 10**6))
def test_no_call_whatever_stops_the_book(call, op, times):
    """Else one strange operator call takes the training run down with it."""
    strange = OpCall(op=op, args=call.args, options=call.options, out=call.out)
    tally = BOOK.count(strange, calls=times, phase="forward")
    assert tally.calls + sum(seen.calls for seen in tally.uncounted) == times
    assert tally == BOOK.count(strange, calls=1, phase="forward") * times
