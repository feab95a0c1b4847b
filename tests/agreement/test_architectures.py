"""No real model does floating-point work that the book cannot price: hand-made models, and those of `transformers`.

What `make test` runs is all of the former and a fixed part of the latter; `make sweep` runs every one that builds.
"""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from flopmeter.formulas.book import FormulaBook

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

FOLDER = Path(__file__).parents[2] / "benchmarks" / "agreement"
BOOK = FormulaBook.standard()
BREADTH = frozenset(
    f"transformers/{kind}"
    for kind in (
        *("albert", "bart", "bert+eager", "bloom", "clip", "convnext", "deberta-v2", "deepseek_v3", "deformable_detr"),
        *(
            "depth_anything",
            "dpt",
            "encodec",
            "falcon_mamba",
            "fnet",
            "gemma2",
            "gpt2",
            "gpt_oss",
            "levit",
            "llama",
            "llava",
            "bamba",
        ),
        *("mixtral+eager", "mobilevit", "patchtst", "perceiver", "qwen2_5_vl", "qwen3_moe+batched_mm", "qwen3_next"),
        *("reformer", "rwkv", "segformer", "swinv2", "t5", "vits", "wav2vec2", "whisper", "xlnet", "xlstm"),
    )
)


def load_coverage():
    """The benchmark is a script among scripts: it finds its neighbours by the folder that it lies in."""
    spec = importlib.util.spec_from_file_location("flopmeter_coverage", FOLDER / "coverage.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(FOLDER))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


COVERAGE = load_coverage()


def is_sampled(name, place):
    return name.startswith("torch/") or name in BREADTH or place % 5 == 0


def list_subjects():
    return [
        pytest.param(subject, id=subject.name, marks=() if is_sampled(subject.name, place) else pytest.mark.sweep)
        for place, subject in enumerate(COVERAGE.all_subjects())
    ]


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("subject", list_subjects())
def test_every_floating_point_operator_of_this_model_is_counted(subject):
    """Else work that such a model does is missing from a run's figure."""
    found = COVERAGE.cover(subject, book=BOOK)
    assert (found.refused, found.eval_refused) == ("", "")
    assert [f"{one.op}: {one.reason}: {one.example}" for one in found.missing if one.is_floating] == []


def test_the_sample_is_there():
    """Else a renamed model silently leaves the part that `make test` runs."""
    assert {one.name for one in COVERAGE.all_subjects()} >= BREADTH


def test_most_architectures_are_walked():
    """Else `covered` would be said of a handful."""
    walked = [one for one in COVERAGE.all_subjects() if one.name.startswith("transformers/")]
    assert len(walked) > 250


def test_an_operator_without_an_entry_is_found():
    """Else this whole file could be green because nothing is looked at."""
    subject = next(one for one in COVERAGE.all_subjects() if one.name == "torch/resnet-bottleneck")
    nothing = FormulaBook(entries={}, digest="")
    found = COVERAGE.cover(subject, book=nothing)
    assert {"aten::convolution", "aten::native_batch_norm"} <= {one.op for one in found.missing if one.is_floating}
