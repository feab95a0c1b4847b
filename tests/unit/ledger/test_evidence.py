"""Reports of devices as files: written whole, read back, and refused where they are none."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from flopmeter.errors import LedgerUnreadableError
from flopmeter.ledger.evidence import FOLDER, GpuReport, nonce_of, read_reports

HEAD = "8ab9ac4189b469d750b2f7b169e838d931163ab9a432ae9528aeb3ef7c3b41b4"


def report(**changes):
    fields = {
        "device": "GPU-1",
        "file": "0-0.jsonl",
        "head": HEAD,
        "report": b"\x11\xe0\x01\xff" + nonce_of(HEAD) + b"\x00answer",
        "certificates": b"chain",
        "attestation_certificates": b"other chain",
    }
    return GpuReport(**(fields | changes))


def test_the_nonce_is_the_digest_of_the_head_as_it_is_written():
    """Whoever has the ledger and no flopmeter must find the same: `printf HEAD | sha256sum`."""
    assert nonce_of(HEAD).hex() == hashlib.sha256(HEAD.encode()).hexdigest()
    assert len(nonce_of(HEAD)) == 32


def test_only_a_report_at_whose_place_the_nonce_stands_is_of_the_head():
    assert report().is_of_head
    for wrong in (b"", b"\x11\xe0\x01\xff", b"\x00" + report().report, nonce_of(HEAD), report().report[:35]):
        assert not report(report=wrong).is_of_head


def test_a_report_comes_back_as_it_was_written(tmp_path):
    for one in (report(cec_report=b"\xff\x00"), report(device="GPU-2", report=b"", why="Not Supported")):
        path = one.write(tmp_path)
        assert GpuReport.from_wire(json.loads(path.read_bytes())) == one
    assert [one.device for one in read_reports(tmp_path)] == ["GPU-1", "GPU-2"]
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == ["0-0.GPU-1.json", "0-0.GPU-2.json"]


def test_a_device_whose_name_is_a_path_is_kept_in_the_folder(tmp_path):
    """A name comes from the driver: it may not choose a place."""
    path = report(device="../../GPU-1\x00").write(tmp_path)
    assert path.parent == tmp_path / FOLDER
    assert read_reports(tmp_path)[0].device == "../../GPU-1\x00"


def test_without_reports_there_are_none_and_what_else_lies_there_is_left_alone(tmp_path):
    assert read_reports(tmp_path) == ()
    (tmp_path / FOLDER).mkdir()
    for name in ("attestation.json", ".0-0.GPU-1.json.12.new", "notes.txt"):
        (tmp_path / FOLDER / name).write_text("something")
    assert read_reports(tmp_path) == ()


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"format":"flopmeter-gpu-report/v9"}'])
def test_what_is_no_report_is_said_with_its_place(tmp_path, data):
    path = report().write(tmp_path)
    path.write_bytes(data)
    with pytest.raises(LedgerUnreadableError, match=r"0-0\.GPU-1\.json"):
        read_reports(tmp_path)


def test_what_has_not_the_name_of_a_report_is_left_alone_whatever_it_is(tmp_path):
    """Else a stray file, directory or pipe beside the reports keeps a finished run from being attested."""
    report().write(tmp_path)
    folder = tmp_path / FOLDER
    (folder / "0-0.zzz.json").write_text("hi")
    (folder / "0-0.a-directory.json").mkdir()
    os.mkfifo(folder / "0-0.a-pipe.json")
    assert [one.device for one in read_reports(tmp_path)] == ["GPU-1"]


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_has_the_name_and_is_no_file_is_said_and_never_read(tmp_path, make):
    """A pipe that nobody writes to would keep whoever reads it waiting for ever."""
    report().write(tmp_path)
    make(tmp_path / FOLDER / "0-0.GPU-2.json")
    with pytest.raises(LedgerUnreadableError, match="no regular file"):
        read_reports(tmp_path)


def test_a_report_under_another_s_name_is_none(tmp_path):
    """Else a copy under another device's name is a second report."""
    path = report().write(tmp_path)
    path.with_name("0-0.GPU-2.json").write_bytes(path.read_bytes())
    with pytest.raises(LedgerUnreadableError, match=r"belongs into 0-0\.GPU-1\.json"):
        read_reports(tmp_path)


def test_a_device_whose_name_is_no_text_has_a_file_and_cannot_be_written(tmp_path):
    strange = report(device="GPU-\ud800")
    assert strange.name.endswith(".json")
    with pytest.raises(UnicodeEncodeError):
        strange.write(tmp_path)
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_a_report_that_cannot_be_put_in_place_leaves_nothing_behind(tmp_path):
    (tmp_path / FOLDER / report().name).mkdir(parents=True)
    with pytest.raises(OSError, match="irectory"):
        report().write(tmp_path)
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == [report().name]
