"""Weight files by their digests."""

import os
from pathlib import Path

import pytest

from flopmeter import wire
from flopmeter.attestation.statement import Subject
from flopmeter.attestation.subjects import hash_subjects


def test_a_file_is_named_by_its_name(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    assert hash_subjects([tmp_path / "model.bin"]) == (Subject(name="model.bin", sha256=wire.digest(b"weights")),)


def test_a_directory_stands_for_every_file_in_it(tmp_path):
    """Else a shard could be swapped while the others are checked."""
    folder = tmp_path / "checkpoint"
    (folder / "shards").mkdir(parents=True)
    (folder / "shards" / "2").write_bytes(b"two")
    (folder / ".hidden").write_bytes(b"hidden")
    (folder / "1").write_bytes(b"one")
    names = [subject.name for subject in hash_subjects([folder])]
    assert names == ["checkpoint/.hidden", "checkpoint/1", "checkpoint/shards/2"]


def test_a_directory_named_from_within_keeps_its_name(tmp_path, monkeypatch):
    """Else the same files have other names than those the meter recorded."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "1").write_bytes(b"one")
    monkeypatch.chdir(folder)
    assert [subject.name for subject in hash_subjects(["."])] == ["checkpoint/1"]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_missing_file_or_an_empty_directory_is_an_error(tmp_path, make):
    """Else checking nothing would look like checking something."""
    make(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        hash_subjects([tmp_path / "x"])


def test_a_name_that_is_no_text_is_told_as_a_meter_tells_it(tmp_path):
    """If this failed, a weight file with a strange name could be recorded and never attested."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/model-\xff.pt"))
    path.write_bytes(b"weights")
    (subject,) = hash_subjects([path])
    assert subject.name == "model-\\xff.pt"
    assert subject.to_wire() == wire.decode(wire.encode(subject.to_wire()))
