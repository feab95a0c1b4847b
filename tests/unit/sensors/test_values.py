"""Integers inside tensors: at once on the host, a step later from a device, never by waiting for it."""

from itertools import pairwise

import pytest
import torch

from flopmeter import Meter
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import TensorSpec
from flopmeter.sensors import torch_ops, values
from flopmeter.sensors.passage import TorchSensor
from flopmeter.sensors.shadows import rows_of
from flopmeter.sensors.torch_ops import OpRecorder
from flopmeter.sensors.values import Late, read_values

OFFSETS = torch.tensor([0, 3, 7], dtype=torch.int32)


def count_segments(call):
    known = call.tensor(1).values
    return 0 if known is None else sum((end - begin) ** 2 for begin, end in pairwise(known))


@pytest.fixture
def segments():
    """An operator whose cost lies in the values of its second argument."""

    @torch.library.custom_op("values_test::segments", mutates_args=())
    def run(x: torch.Tensor, offsets: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor:
        return x.clone()

    return run


def book(reads):
    standard = FormulaBook.standard()
    return standard.with_formula("values_test::segments", count_segments, kind="matmul", reads=reads)


class FakeEvent:
    """Stands for a CUDA event: done when the test says so."""

    def __init__(self):
        self.is_done, self.waited = False, 0

    def query(self):
        return self.is_done

    def synchronize(self):
        self.is_done, self.waited = True, self.waited + 1


@pytest.fixture
def device(monkeypatch):
    """Integers come as from a device: promised now, there when the event is."""
    events = []

    def promise(tensor):
        events.append(FakeEvent())
        return Late(tensor.clone(), events[-1])

    monkeypatch.setattr(torch_ops, "read_values", promise)
    return events


class Sink:
    def __init__(self):
        self.ran, self.failures, self.products = [], [], []

    def passages_ran(self, booking):
        tally = booking.table.tally * booking.times
        self.products.append(tally.contraction_flop)
        self.ran.append((tally.select(op="values_test::segments").flop, booking.basis))

    def passage_lost(self, *, reason, ns):
        self.failures.append(reason)

    def optimizer_steps(self, optimizer_id):
        pass

    def sensor_failed(self, error, *, ns=None):
        self.failures.append(error)

    @property
    def figures(self):
        return [flop for flop, _ in self.ran if flop]


def note(work, reads):
    failures = []
    recorder = OpRecorder(lambda: "other", failures.append, book(reads))
    with recorder:
        work()
    assert failures == []
    has_values = recorder.has_values
    (row,) = [row for row in rows_of(recorder.take()) if row.call.op == "values_test::segments"]
    return row.call, has_values


def test_integers_on_the_host_stand_beside_the_shape(segments):
    call, has_values = note(lambda: segments(torch.rand(4), OFFSETS, []), [1])
    assert call.tensor(1) == TensorSpec((3,), "int32", values=(0, 3, 7))
    assert call.tensor(0) == TensorSpec((4,), "fp32")
    assert has_values


def test_a_path_leads_into_a_list(segments):
    """Else a block mask's long lists of indices would stand in the ledger with its few counts."""
    call, _ = note(lambda: segments(torch.rand(4), OFFSETS, [OFFSETS, OFFSETS + 1]), [(2, 1)])
    assert call.tensor(1).values is None
    assert [spec.values for spec in call.tensor_list(2)] == [None, (1, 4, 8)]


def test_nothing_is_read_that_no_formula_asks_for(segments):
    """Else token ids land in a ledger."""
    call, has_values = note(lambda: segments(torch.rand(4), OFFSETS, []), [])
    assert all(spec.values is None for spec in call.tensors)
    assert not has_values


@pytest.mark.parametrize("tensor", [torch.rand(3), torch.zeros(70_000, dtype=torch.int64)])
def test_fractions_and_long_tensors_are_left_unread(tensor):
    assert read_values(tensor) is None


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_a_sparse_tensor_says_how_much_it_stores():
    """Else a product with a sparse matrix costs what a dense one costs."""
    dense = torch.eye(4)
    for sparse in (dense.to_sparse(), dense.to_sparse_csr(), dense.to_sparse_bsr((2, 2))):
        recorder = OpRecorder(lambda: "other", [].append)
        with recorder:
            torch.mm(sparse, torch.rand(4, 2))
        (row,) = [row for row in rows_of(recorder.take()) if row.call.op.endswith("mm")]
        assert row.call.tensor(0).stored == (8 if sparse.layout is torch.sparse_bsr else 4)


def test_what_is_on_a_device_is_read_when_it_has_come_and_waited_for_only_at_the_end(segments, device):
    """Else the meter makes the host wait for the device in each step."""
    sink = Sink()
    sensor = TorchSensor(sink, book=book([1]))
    sensor.start()
    segments(torch.rand(4), OFFSETS, [])
    sensor.boundary()
    assert sink.figures == []
    segments(torch.rand(4), OFFSETS * 2, [])
    device[0].is_done = True
    sensor.boundary()
    assert sink.figures == [9 + 16]
    sensor.boundary()
    assert sum(event.waited for event in device) == 0
    sensor.stop()
    assert sink.figures == [25, 100]
    assert [event.waited for event in device] == [0, 1]
    assert {basis for _, basis in sink.ran} == {"counted"}
    assert sink.failures == []


def test_a_passage_whose_cost_lies_in_values_is_never_replayed(segments):
    """Else each batch of packed sequences costs what the first one did."""

    class Model(torch.nn.Module):
        offsets = OFFSETS

        def forward(self, x):
            return segments(x, self.offsets, [])

    sink, model = Sink(), Model()
    sensor = TorchSensor(sink, book=book([1]))
    sensor.watch(model)
    sensor.start()
    with torch.no_grad():
        for step, factor in enumerate((1, 1, 2, 1), 1):
            model.offsets = OFFSETS * factor
            model(torch.rand(4))
            sensor.new_step(step)
    sensor.stop()
    assert sink.figures == [25, 25, 100, 25]
    assert {basis for _, basis in sink.ran} == {"counted"}


def test_a_graph_that_is_being_captured_takes_no_copy_with_it(monkeypatch):
    """Else each replay of the graph copies our integers again, into memory that is no longer ours."""

    class OnDevice:
        dtype, layout = torch.int32, torch.strided
        device = torch.device("cuda")

        def numel(self):
            return 3

    monkeypatch.setattr(values.torch.cuda, "is_current_stream_capturing", lambda: True)
    assert read_values(OnDevice()) is None


def test_a_passage_whose_tensors_store_more_or_less_is_never_replayed():
    """Else a graph with twice the edges costs what the first one did."""

    class Model(torch.nn.Module):
        graph = torch.eye(4).to_sparse()

        def forward(self, x):
            return torch.sparse.mm(self.graph, x)

    sink, model = Sink(), Model()
    sensor = TorchSensor(sink, book=FormulaBook.standard())
    sensor.watch(model)
    sensor.start()
    with torch.no_grad():
        for step, edges in enumerate((4, 4, 4, 16, 4), 1):
            model.graph = (torch.eye(4) if edges == 4 else torch.ones(4, 4)).to_sparse()
            model(torch.rand(4, 2))
            sensor.new_step(step)
    sensor.stop()
    assert {basis for _, basis in sink.ran} == {"counted"}
    assert [flop for flop in sink.products if flop] == [16, 16, 16, 64, 16]


def pack(x, lengths):
    return torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.LSTM(4, 5, batch_first=True)

    def forward(self, x, lengths):
        return self.layer(pack(x, lengths))[0].data


class Masked(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 5)

    def forward(self, x, mask):
        return self.layer(x[mask])


LENGTHS = [torch.tensor(lengths) for lengths in ([6, 6, 6], [6, 1, 1])]
MASKS = [torch.arange(10) < kept for kept in (8, 2)]
VARYING = {
    "packed inside": (Recurrent, lambda case: (torch.rand(3, 6, 4), LENGTHS[case])),
    "masked": (Masked, lambda case: (torch.rand(10, 4), MASKS[case])),
}


@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize("name", VARYING)
def test_what_values_made_smaller_is_not_replayed_at_its_old_size(tmp_path, name, with_gradients):
    """Else shorter sequences, or fewer rows behind a mask, go on costing what the first batch did."""
    figures = []
    for exact in (True, False):
        torch.manual_seed(0)
        model_of, batch = VARYING[name]
        model = model_of()
        with Meter(tmp_path / str(exact), model=model, exact=exact) as meter, torch.set_grad_enabled(with_gradients):
            for step in range(12):
                out = model(*batch(int(step > 5)))
                if with_gradients:
                    out.sum().backward()
                meter.step()
        figures.append(meter.account().tally.flop)
    assert figures[0] == figures[1]


def test_indices_that_are_no_mask_leave_a_passage_replayable(tmp_path):
    """Else every model that gathers rows is counted at each step."""

    class Model(torch.nn.Module):
        def forward(self, x):
            return x[torch.tensor([0, 2])] * 2

    model = Model()
    with Meter(tmp_path, model=model) as meter:
        for _ in range(8):
            model(torch.rand(4, 3))
            meter.step()
    assert meter.account().passages["replayed"] > 0
