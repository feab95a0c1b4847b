"""Our peaks beside those of other tools: where they differ, and why, and nowhere else."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "peaks"
sys.path.insert(0, str(FOLDER))  # scripts find their neighbours by the folder that they lie in
shadowed = {name: sys.modules.pop(name) for name in ("compare", "peers", "table") if name in sys.modules}
import compare  # noqa: E402
import peers  # noqa: E402
import table  # noqa: E402

for name in ("compare", "peers", "table"):  # those of another benchmark have the same names
    del sys.modules[name]
sys.modules.update(shadowed)
sys.path.remove(str(FOLDER))

RESULT = table.newest()
IDS = """
1DB1 1DB5 1DB4 1DB6 1EB8 20B0 20B2 20F1 20B5 20B3 20F3 20B7 2235 2236 2237 2230 2204 2684 2685 2B85 2B87 27B8 26B5 26B9
26BA 27B6 2330 2331 2339 2321 2324 2322 233A 2329 230E 2335 233B 2342 2348 2901 2941 3182 31C2 2E12 2BB1 2BB4 2BB5
"""
"""The devices that people train on, as the open driver lists them."""


def test_every_device_that_people_train_on_is_compared():
    known = {device_id for part in compare.PeakTable.standard().parts for device_id in part.names}
    assert set(IDS.split()) <= known
    assert len(IDS.split()) == 47


def test_the_result_has_every_tool_and_a_reason_for_each_difference():
    """Else a difference may be our own mistake."""
    assert set(RESULT["peers"]) == set(peers.PEERS)
    reasons = [row["reason"] for one in RESULT["peers"].values() for row in one["differences"]]
    assert set(reasons) == set(compare.REASONS)


@pytest.mark.parametrize("peer", peers.PEERS)
def test_an_installed_tool_differs_exactly_where_the_result_says(peer):
    """A mistake of theirs that they mend, or one that we make, changes what the page says."""
    found = peers.find(peer)
    if found is None:
        pytest.skip(f"{peer} is not installed; benchmarks/peaks/compare.py --folder takes one from any folder")
    version, ask = found
    listed = RESULT["peers"][peer]
    if version != listed["version"]:
        pytest.skip(f"{peer} {version} is installed, and {listed['version']} was compared")
    assert compare.compare(peer, version, ask) == listed


def test_a_reason_is_true_or_there_is_none():
    """Else it is a guess about somebody else's code."""
    ours = compare.PeakTable.standard()
    l40s = ours.find_name("NVIDIA L40S")
    tera = 10**12
    assert compare.explain("x", l40s, "bf16", 733 * tera, ours) == ("sparse", "")
    assert compare.explain("x", l40s, "bf16", 121 * tera, ours) == ("other part", "L4")
    assert compare.explain("x", l40s, "bf16", 500 * tera, ours) == ("", "")
    assert compare.explain("x", l40s, "bf16", 312 * tera, ours) == ("", "")


def test_a_look_up_is_cut_out_of_a_file_and_imports_nothing(tmp_path):
    """A test that needed mosaicml would be skipped everywhere."""
    path = tmp_path / "speed_monitor.py"
    path.write_text(
        "import nowhere\n"
        "_HSERIES_SXM = {'bf16': 1e15}\n"
        "GPU_AVAILABLE_FLOPS: dict[nowhere.X, float] = {'h100': _HSERIES_SXM}\n"
        "def get_gpu_flops_available(state: nowhere.State) -> nowhere.X:\n"
        "    from nowhere import y\n"
        "    return int(GPU_AVAILABLE_FLOPS[torch.cuda.get_device_name()].get(state.precision.value, 0))\n",
        encoding="utf-8",
    )
    ask = peers.ask_composer(path)
    assert ask("h100", "bf16") == 10**15
    assert ask("h100", "fp8") is None


def test_a_tool_that_is_not_there_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert peers.find("composer", tmp_path) is None


def test_the_page_is_made_of_the_table_and_the_result():
    """Else people read figures that are nowhere. To mend it, run benchmarks/peaks/table.py."""
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.fill(page, RESULT) == page
    assert {found["name"] for found in table.BLOCK.finditer(page)} == set(table.BLOCKS)


def test_the_result_is_what_the_script_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compare.py", "--out", str(tmp_path)])
    monkeypatch.setattr(compare, "find", lambda peer, folder: None)
    assert compare.main() == 0
    (path,) = tmp_path.glob("peaks_peers_*.json")
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written.keys() == RESULT.keys()
    assert written["absent"] == list(peers.PEERS)
