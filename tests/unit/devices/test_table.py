"""The table of devices, checked by how the parts are built, and rows of users."""

import hashlib
import re
import tomllib
from importlib.resources import files

import pytest

from flopmeter.devices.table import CONFIDENCES, PRECISIONS, TERA, PeakTable
from flopmeter.errors import MalformedError

TABLE = PeakTable.standard()
BY_NAME = {part.part: part for part in TABLE.parts}
# How far a published figure is from SMs × clock × rate, in percent, where that is more than 1.
OFF = {("T4", "fp64"): 1.8, ("L40S", "bf16"): 1.3, ("L40S", "fp16"): 1.3, ("RTX PRO 6000 Blackwell", "fp64"): 1.7}

ROW = """
[[device]]
part = "X"
ids = { FFF0 = ["NVIDIA X"] }
source = "its datasheet"
date = "2026"
confidence = "high"
rates = "hopper"
sms = 100
clock_mhz = 1000
dense = { bf16 = "409.6" }
sparse = { bf16 = "819.2" }
"""


def parse(text):
    return PeakTable.parse(text, where="mine.toml", rates=TABLE.rates)


def test_every_figure_follows_from_how_its_part_is_built():
    """Else a slip of the pen, or a sparse figure, is a peak."""
    off = {}
    checked = 0
    for part in TABLE.parts:
        for precision, value in part.dense.items():
            built = part.multiply_out(precision)
            if built is None or precision in part.unsure:
                continue
            checked += 1
            percent = 100 * abs(value - built) / value
            if percent > 1:
                off[part.part, precision] = percent
    assert checked > 180
    assert set(off) == set(OFF)
    assert all(percent < OFF[key] for key, percent in off.items())


def test_every_part_with_figures_says_how_it_is_built_or_that_this_is_unknown():
    bare = {part.part for part in TABLE.parts if part.dense and part.multiply_out("bf16" if part.sms else "") is None}
    assert bare - {"V100 SXM2", "V100 PCIe", "V100S PCIe", "T4"} == {"B100"}


def test_a_figure_that_cannot_be_checked_says_why_it_is_trusted():
    """What no formula bears out is on somebody's word."""
    loose = {
        (part.part, precision)
        for part in TABLE.parts
        for precision in part.dense
        if part.sms and part.multiply_out(precision) is None and precision not in part.unsure
    }
    assert loose == set()


def test_every_row_says_where_it_is_from_and_how_sure_it_is():
    """Else nobody can check a utilisation."""
    for part in TABLE.parts:
        assert part.source
        assert re.fullmatch(r"20\d\d", part.date)
        assert part.confidence in CONFIDENCES
        assert part.capability
        assert set(part.dense) <= set(PRECISIONS)
        assert part.dense or part.note, f"{part.part}: no figure, and no word why"


def test_ids_from_memory_are_not_said_to_be_as_sure_as_their_figures():
    """Else a card with an id that somebody remembered wrongly has a peak of high confidence."""
    unsure = {part.part for part in TABLE.parts if part.ids_confidence != "high"}
    assert unsure == {part.part for part in TABLE.parts if "from memory" in part.note}
    assert unsure == {"V100 SXM2", "V100 PCIe", "V100S PCIe"}


def test_figures_are_decimal_strings():
    """A float has no 989.4; what is signed later must not depend on one."""
    form = tomllib.loads((files("flopmeter.devices") / "peaks.toml").read_text(encoding="utf-8"))
    for row in form["device"]:
        for key in ("dense", "sparse"):
            assert all(type(value) is str for value in row.get(key, {}).values())
    assert BY_NAME["H100 SXM"].dense["bf16"] == 989_400_000_000_000


@pytest.mark.parametrize("part", [part for part in TABLE.parts if part.sparse], ids=lambda part: part.part)
def test_sparse_figures_are_twice_the_dense_ones_and_stand_apart(part):
    """Elsewhere they are mixed, and half of the utilisation is gone."""
    for precision, value in part.sparse.items():
        ratio = value / part.dense[precision]
        if (part.part, precision) == ("GB300, per GPU", "fp4"):
            assert ratio == pytest.approx(4 / 3)
        else:
            assert ratio == pytest.approx(2, rel=0.015)


def test_volta_and_turing_have_no_sparse_figures_and_no_bf16():
    for name in ("V100 SXM2", "V100 PCIe", "V100S PCIe", "T4"):
        assert not BY_NAME[name].sparse
        assert "bf16" not in BY_NAME[name].dense


def test_ids_and_names_are_found_to_the_letter():
    assert TABLE.find_id("2330") is BY_NAME["H100 SXM"]
    assert TABLE.find_id("2330 ") is None
    assert TABLE.find_name("NVIDIA A10") is BY_NAME["A10"]
    assert TABLE.find_name("NVIDIA A10G") is BY_NAME["A10G"]
    assert TABLE.find_name("A10") is None


def test_a_users_file_adds_a_part(tmp_path):
    """Else whoever has an unknown card waits for us."""
    path = tmp_path / "mine.toml"
    path.write_text(ROW, encoding="utf-8")
    table = TABLE.with_file(path)
    assert table.find_id("FFF0").dense["bf16"] == 4096 * TERA // 10
    assert table.find_id("2330") is TABLE.find_id("2330")
    assert TABLE.find_id("FFF0") is None


def test_a_users_file_may_bring_rates_of_its_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[rates.mine]\ncapability = "9.0"\nbf16 = 2048\n' + ROW.replace('"hopper"', '"mine"').replace("1000", "2000"),
        encoding="utf-8",
    )
    assert TABLE.with_file(path).find_id("FFF0").per_clock == {"bf16": 2048}


def test_a_users_row_may_fill_in_what_is_unknown(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(ROW.replace('FFF0 = ["NVIDIA X"]', '26BA = ["NVIDIA L20"]'), encoding="utf-8")
    table = TABLE.with_file(path)
    assert table.find_name("NVIDIA L20").dense["bf16"] == 4096 * TERA // 10
    assert len(table.parts) == len(TABLE.parts)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (
            '2330 = ["NVIDIA H100 80GB HBM3"]',
            r"row 1 \(X\): dense.bf16 is 409.6, and the table .* has 989.4 of H100 SXM",
        ),
        ('20B0 = ["NVIDIA A100-SXM4-40GB"]', r"row 1 \(X\): ids has some of those of A100, and leaves out 20B1"),
        ('FFF0 = ["NVIDIA L4"]', r"row 1 \(X\): ids has some of those of L4, and leaves out 27B8"),
    ],
)
def test_a_users_row_that_contradicts_ours_is_refused(tmp_path, ids, words):
    """Else a run's ceiling is raised by a file that nobody saw."""
    path = tmp_path / "mine.toml"
    path.write_text(ROW.replace('FFF0 = ["NVIDIA X"]', ids), encoding="utf-8")
    with pytest.raises(MalformedError, match=words) as caught:
        TABLE.with_file(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[[device]]", "[[device", "not TOML"),
        ("[[device]]", "[[devices]]", "'devices' is neither"),
        ("[[device]]", "[device]", "`device` is not a list"),
        ('part = "X"', "", "row 1: 'part' is missing"),
        ('part = "X"', "part = 7", "row 1: part is 7, not text"),
        ('date = "2026"', 'date = "2026"\nsm = 3', r"row 1 \(X\): 'sm' is not a field"),
        ('"high"', '"sure"', r"row 1 \(X\): confidence is 'sure'"),
        ('date = "2026"', 'date = "2026"\nids_confidence = "sure"', r"row 1 \(X\): ids_confidence is 'sure'"),
        ('"409.6"', "409.6", r"row 1 \(X\): dense.bf16 is 409.6, not a figure .* decimal string"),
        ('"409.6"', '"4e2"', r"row 1 \(X\): dense.bf16 is '4e2', not a figure"),
        ('"409.6"', '"-1"', r"row 1 \(X\): dense.bf16 is '-1', not a figure"),
        ('"409.6"', '"0"', r"row 1 \(X\): dense.bf16 is '0', not a figure"),
        ('dense = { bf16 = "409.6" }', 'dense = { bf17 = "409.6" }', r"dense.bf17: 'bf17' is not one of"),
        ('dense = { bf16 = "409.6" }', "dense = 3", r"row 1 \(X\): dense is 3, not a table"),
        ('"409.6"', '"819.2"', r"dense.bf16 is 819.2, and 100 SMs × 1000 MHz × 4096 are 409.6.*sparse"),
        ('"819.2"', '"1638.4"', r"sparse.bf16 is 1638.4, not between"),
        ("clock_mhz = 1000", "clock_mhz = 1000\nmax_clock_mhz = 900", "max_clock_mhz is 900, below the clock"),
        ("sms = 100", "sms = 0", r"sms is 0, not a whole number"),
        ("sms = 100", "sms = true", r"sms is True, not a whole number"),
        ('rates = "hopper"', 'rates = "hoppler"', r"rates is 'hoppler', not one of"),
        ('rates = "hopper"', 'rates = "hopper"\ncapability = "9.0"', "capability stands with the rates"),
        ('rates = "hopper"', "rates = { bf16 = 4096 }", "rates: capability is None, not text"),
        ("FFF0", "0xFFF0", "ids: '0xFFF0' is not a PCI device id"),
        ('["NVIDIA X"]', '"NVIDIA X"', "ids.FFF0 is 'NVIDIA X', not a list"),
        ('["NVIDIA X"]', "[]", r"ids.FFF0 is \[\], not a list"),
    ],
)
def test_a_malformed_row_is_one_sentence_with_file_row_and_field(old, new, words):
    """Else people guess which of fifty lines is wrong."""
    assert old in ROW
    with pytest.raises(MalformedError, match=words) as caught:
        parse(ROW.replace(old, new))
    assert str(caught.value).startswith("mine.toml")


def test_two_rows_of_one_file_with_the_same_id_are_refused():
    with pytest.raises(MalformedError, match=r"row 2 \(Y\): ids: 'FFF0' stands in row 1 \(X\) as well"):
        parse(ROW + ROW.replace('"X"', '"Y"').replace("NVIDIA X", "NVIDIA Y"))


@pytest.mark.parametrize(
    "text", ["rates = 3", "[rates]\nx = 3", '[rates.x]\ncapability = "9.0"\nbf16 = "4"', "device = [3]"]
)
def test_rates_and_rows_that_are_none_are_refused(text):
    with pytest.raises(MalformedError, match=r"^mine\.toml"):
        parse(text)


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(MalformedError, match="cannot be read"):
        TABLE.with_file(tmp_path / "nowhere.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(MalformedError, match="cannot be read"):
        TABLE.with_file(tmp_path / "bytes.toml")


def test_a_table_knows_which_files_are_in_it(tmp_path):
    """Else nobody can tell which figures a ceiling was made with."""
    assert TABLE.files == ()
    path = tmp_path / "mine.toml"
    path.write_text(ROW, encoding="utf-8")
    (file,) = TABLE.with_file(path).files
    assert (file.name, file.sha256) == ("mine.toml", hashlib.sha256(ROW.encode()).hexdigest())
    assert file.words == f"mine.toml sha256:{file.sha256}"


def test_a_row_that_its_author_doubts_need_not_fit():
    """A maker's figure that contradicts the number of SMs is kept, and said to."""
    doubted = ROW.replace('"409.6"', '"500"').replace('"819.2"', '"1000"') + 'unsure = { bf16 = "by hearsay" }\n'
    assert parse(doubted).parts[0].unsure == {"bf16": "by hearsay"}
