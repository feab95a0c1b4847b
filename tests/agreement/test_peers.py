"""Other counters beside ours: equal to torch's own wherever that one is right, and where it is wrong, a count by hand.

`make test` takes a part of the models, `make sweep` all of them; the other counters are not needed for either.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

FOLDER = Path(__file__).parents[2] / "benchmarks" / "agreement"
sys.path.insert(0, str(FOLDER))  # scripts find their neighbours by the folder that they lie in
import compare  # noqa: E402
import counting  # noqa: E402
import peers  # noqa: E402
import table  # noqa: E402
from isolation import Failed, isolated, reason_of  # noqa: E402
from specimens import SPECIMENS  # noqa: E402

SUBJECTS = {one.name: one for one in compare.subjects()}
sys.path.remove(str(FOLDER))

BOOK = FormulaBook.standard()
SAMPLE = frozenset(
    [f"transformers/{kind}" for kind in ("bert", "bert+eager", "clip", "convnext", "deepseek_v3", "encodec", "gemma2")]
    + [f"transformers/{kind}" for kind in ("gpt2", "llama", "llama+eager", "mamba", "mixtral", "mixtral+batched_mm")]
    + [f"transformers/{kind}" for kind in ("mobilenet_v2", "patchtst", "segformer", "t5", "vit", "whisper")]
    + [f"torch/{name}" for name in ("resnet-bottleneck", "regnet-grouped", "mobilenet", "video-3d")]
    + [f"torch/{name}" for name in ("lstm", "gru", "transformer-encoder", "block-experts", "gcn", "gnn-sparse-csr")]
    + [f"torch/{name}" for name in ("complex-network", "fourier-operator", "optimizer-muon", "double-backward")]
)

# What torch's counter says where it is wrong, from the sizes in the specimens and from what it does wrong.
GROUPED, DEPTHWISE, TRANSPOSED = 2 * 2 * 8 * 2 * 9 * 16, 2 * 2 * 8 * 3 * 10, 2 * 2 * 4 * 25 * 3 * 4
ROWS, SQUARE = 2 * 5, 2 * 2 * 5 * 5 * 8
WRONG = {
    ("grouped convolution", "step"): GROUPED + 4 * GROUPED,
    ("depthwise convolution", "step"): DEPTHWISE + 8 * DEPTHWISE,
    ("transposed convolution", "step"): TRANSPOSED + 2 * TRANSPOSED,
    ("attention", "forward"): 0,
    ("attention", "step"): 0,
    ("causal attention", "forward"): 0,
    ("causal attention", "step"): 0,
    ("encoder layer", "forward"): 0,
    # All but the attention: two products forward, five backward.
    ("encoder layer", "step"): 3 * 2 * ROWS * 8 * (4 * 8 + 2 * 12) - 2 * ROWS * 8 * 3 * 8,
    ("multihead attention", "forward"): 0,
    ("multihead attention", "step"): 3 * 2 * ROWS * 8 * 4 * 8 - 2 * ROWS * 8 * 3 * 8,
    ("lstm", "forward"): 0,
    ("lstm", "step"): 0,
    ("vectors", "forward"): 0,
    ("addbmm", "forward"): 0,
    ("in place", "forward"): 0,
    ("int8", "forward"): 0,
    ("complex numbers", "forward"): 2 * 4 * 5 * 6,
    ("complex numbers", "step"): 3 * 2 * 4 * 5 * 6,
    ("sparse", "forward"): 2 * 4 * 6 * 5,
    ("sparse and trained", "forward"): 0,
    # The backward's product of the transposed matrix, as if it were dense.
    ("sparse and trained", "step"): 2 * 6 * 4 * 5,
    ("bilinear", "forward"): 0,
    ("experts", "forward"): 0,
    ("experts", "step"): 0,
    ("packed weights", "forward"): 0,
    # One product before, then it again with the branch of two, with the branch of one merged into that.
    ("branch", "forward"): 4 * 2 * 4 * 4 * 4,
    ("split layer", "forward"): 2 * 5 * 8 * 6,
    ("split layer", "step"): 2 * 2 * 5 * 8 * 6,
}
BREAKS = {("flex attention", "forward"): TypeError, ("gradients by name", "step"): RuntimeError}
RUNS = [(name, way) for name in SPECIMENS for way in compare.WAYS]


@pytest.fixture(autouse=True)
def left_as_found():
    """One thread, because tiny models are slower on several; no group of ranks stays behind."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def fail(text):
    raise ValueError(text)


def run_of(name, way):
    case = SPECIMENS[name].make()
    if getattr(case, way) is None:
        pytest.skip("has no such run")
    return case, case.run_step if way == "step" else case.run_forward


@pytest.mark.parametrize(("name", "way"), RUNS)
def test_products_are_what_the_hand_counts(name, way):
    """Else a figure of ours is wrong, and the tables say that it is the others'."""
    case, run = run_of(name, way)
    ours = counting.count_ours(run, BOOK)
    figure = sum(ours.products.values()) - ours.masked
    assert (figure, dict(ours.uncounted)) == (getattr(case, way), {})


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="other releases say other things")
@pytest.mark.parametrize(("name", "way"), RUNS)
def test_torch_is_wrong_where_we_say_so_and_by_as_much(name, way):
    """Else the page accuses a counter of what it does not do, or has stopped doing."""
    case, run = run_of(name, way)
    if (name, way) in BREAKS:
        with pytest.raises(BREAKS[name, way]):
            counting.count_theirs(run)
        return
    assert sum(counting.count_theirs(run).values()) == WRONG.get((name, way), getattr(case, way))


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="other releases say other things")
def test_torch_fails_where_a_module_is_given_a_view_of_a_parameter_without_gradients():
    """Else the page accuses a counter of what it has stopped doing; ours counts it."""
    layer, parameter = nn.Linear(3, 4), nn.Parameter(torch.rand(1, 3))

    @torch.no_grad()
    def work():
        layer(parameter.expand(2, 3))

    with pytest.raises(AssertionError, match="gradient function"):
        counting.count_theirs(work)
    assert sum(counting.count_ours(work, BOOK).products.values()) == 2 * 2 * 3 * 4


MODELS = [
    pytest.param(subject, id=name, marks=() if name in SAMPLE else pytest.mark.sweep)
    for name, subject in SUBJECTS.items()
]


@pytest.mark.parametrize("subject", MODELS)
def test_no_product_of_this_model_differs_from_torch_without_a_reason(subject):
    """Else one of both is wrong and nobody knows which."""
    try:
        first, second = subject.build(), subject.build()
        second.step()
    except Exception as error:  # noqa: BLE001 # that models build and run is asked elsewhere
        pytest.skip(reason_of(error))
    second = subject.build()
    row = {"name": subject.name, "step": compare.beside_torch(first, "step", second, BOOK)}
    if first.eval_step is not None:
        row["forward"] = compare.beside_torch(first, "forward", second, BOOK)
    assert list(compare.faults_of(row)) == []


def test_the_sample_is_there():
    """Else a renamed model silently leaves the part that `make test` runs."""
    assert set(SUBJECTS) >= SAMPLE


def test_a_difference_without_a_reason_is_a_fault():
    """Else the benchmark can only ever agree."""
    ours = counting.Ours()
    counting.add(ours, OpCall.of("aten::mm", (2, 3), (3, 5)), 1, "forward", BOOK)
    found = counting.compare(ours, counting.Counter({"aten::mm": 61}))
    assert found.unexplained == {"aten::mm": (60, 61)}
    row = {"name": "x", "step": {"unexplained": found.unexplained}}
    assert list(compare.faults_of(row)) == ["x, step: aten::mm is 60, torch says 61, and nobody knows why"]
    assert counting.compare(ours, counting.Counter({"aten::mm": 60})).equal == {"aten::mm": 60}


def test_a_weight_gradient_is_counted_by_looking_at_each_product():
    """Else `times the groups` explains a difference by the formula that it should judge."""
    x, weight = torch.rand(2, 4, 6), torch.rand(8, 2, 3)
    dy = functional.conv1d(x, weight, groups=2)
    products = sum(
        1
        for _ in range(x.shape[0])
        for _ in range(weight.shape[0])
        for _ in range(weight.shape[1])
        for _ in range(weight.shape[2])
        for _ in range(dy.shape[2])
    )
    args = (tuple(dy.shape), tuple(x.shape), tuple(weight.shape), None, [1], [0], [1], False, [0], 2)
    call = OpCall.of("aten::convolution_backward", *args, [True, True, False])
    assert counting.weight_gradient(call) == 2 * products


def test_a_model_is_found_by_running_it():
    """Else counters of modules are shown something else than what runs."""
    outer, other = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2)
    assert peers.models_of(lambda: other(outer(torch.rand(1, 2)))) == [outer, other]
    assert peers.models_of(lambda: other(outer[0](outer(torch.rand(1, 2))))) == [outer, other]


def test_what_a_counter_leaves_in_torch_is_put_back():
    """Else the second counter counts what the first one does."""
    before = functional.linear, torch.bmm, torch.Tensor.matmul
    with peers.unpatched():
        functional.linear = torch.bmm = torch.Tensor.matmul = lambda *_: None
    assert (functional.linear, torch.bmm, torch.Tensor.matmul) == before


def test_what_ends_a_run_is_written_down():
    """Else one model that dies takes the whole comparison with it."""
    assert isolated(lambda: 7, seconds=60) == 7
    with pytest.raises(Failed, match="ValueError: no"):
        isolated(lambda: fail("no"), seconds=60)
    with pytest.raises(Failed, match="died"):
        isolated(lambda: __import__("os")._exit(3), seconds=60)


def test_a_reason_names_no_place_on_a_disk():
    """Else a result says whose machine made it."""
    assert reason_of(OSError("no file " + "/home" + "/x/y.py at 0xdeadbeef")) == "OSError: no file … at …"


def test_an_older_reading_is_kept_only_of_the_same_model():
    """Else the page sets what a counter said of one model beside what we say of another."""
    row = {"step": {"torch": 5}, "forward": {"torch": 2}}
    old = {**row, "others": {"fvcore": {"forward": [2, 2]}}}
    assert compare.is_same(row, old)
    assert not compare.is_same({**row, "step": {"torch": 6}}, old)
    assert not compare.is_same(row, {**old, "others": {"fvcore": {"forward": "RuntimeError: no"}}})
    assert not compare.is_same(row, {})


def test_a_cell_says_how_often_and_how_far():
    """Else one model that a counter gets wrong is lost among many, or a failure is taken for zero."""
    assert table.cell([(2, 2), (3, 3)]) == "all 2 equal"
    assert table.cell([(2, 2), (0, 4), (None, 7), (3, 0)]) == "1 of 2; 0.50 (0.00–1.00)"
    assert table.cell([(None, 7)]) == "–"


def test_the_page_shows_the_newest_result():
    """Else people read numbers that nobody measured. To mend it, run benchmarks/agreement/table.py."""
    result = json.loads(table.newest().read_text(encoding="utf-8"))
    page = table.PAGE.read_text(encoding="utf-8")
    assert page == table.fill(page, result)
    assert {found["name"] for found in table.BLOCK.finditer(page)} == set(table.BLOCKS)


def test_the_newest_result_has_no_faults():
    """Else the page shows an agreement that is none."""
    assert json.loads(table.newest().read_text(encoding="utf-8"))["faults"] == []
