"""Whatever bit changes in an attestation, a ledger or a subject, the command notices.

Exit 1 while the file still reads as ours, 3 when it no longer does (2 for a key that cannot be read or a ledger that
is gone); never 0, never a traceback. The whole sweep is behind the marker `slow`; a stride through it runs always.
"""

import contextlib
import io

import pytest

from flopmeter.cli.main import main

NOTICED = {1, 3}
STRIDE = 131


def ask(case) -> tuple[int, str]:
    """Exit code and what was said on standard error."""
    words = [
        "verify",
        str(case.file),
        "--key",
        str(case.key),
        "--ledger",
        str(case.run),
        "--subject",
        str(case.weights),
    ]
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = main(words)
    return code, said.getvalue()


def sweep(case, path, *, expected, stride):
    """Flip every `stride`-th bit of a file, and always those of its last two bytes."""
    data = path.read_bytes()
    bits = range(8 * len(data))
    wrong = []
    for bit in sorted({*bits[::stride], *bits[-16:]}):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        code, said = ask(case)
        if code not in expected or "fault in flopmeter" in said or "Traceback" in said:
            wrong.append((bit, code, said))
    path.write_bytes(data)
    assert wrong == []
    assert ask(case)[0] == 0


def ledger_files(case):
    return sorted([*(case.run / "ledger").glob("*.jsonl"), case.run / "ledger" / "run"])


def tear(case):
    """Leave half a line at the end of the last life of rank 0, as a killed process does, and attest again."""
    torn = case.run / "ledger" / "0-1.jsonl"
    torn.write_bytes(torn.read_bytes() + b'{"at":"2026-01-01T00:00')


@pytest.mark.parametrize("stride", [STRIDE, pytest.param(1, marks=pytest.mark.sweep)])
def test_a_flipped_bit_of_the_attestation_is_noticed(attested, stride):
    """Else a statement could be changed after it was signed, or have many spellings."""
    sweep(attested, attested.file, expected=NOTICED, stride=stride)


@pytest.mark.parametrize("stride", [STRIDE, pytest.param(1, marks=pytest.mark.sweep)])
@pytest.mark.parametrize("changes", [{}, {"lives": 2, "is_closed": False}], ids=["finished", "killed twice"])
def test_a_flipped_bit_of_any_ledger_file_is_noticed(tmp_path, attest_run, changes, stride):
    """Else the record could be changed while its signature still holds."""
    case = attest_run(tmp_path, **changes)
    for path in ledger_files(case):
        sweep(case, path, expected=NOTICED, stride=stride)


def test_a_flipped_bit_of_a_torn_line_is_noticed(tmp_path, attest_run):
    """Else the last trace of a killed process could be changed."""
    from flopmeter.attestation.issuance import issue
    from flopmeter.attestation.subjects import hash_subjects
    from flopmeter.testing.keys import throwaway_signer

    case = attest_run(tmp_path, lives=2, is_closed=False)
    tear(case)
    issue(case.run, throwaway_signer(), out=case.file, live=False, subjects=hash_subjects([case.weights]))
    path = case.run / "ledger" / "0-1.jsonl"
    assert path.read_bytes()[-1:] != b"\n"
    sweep(case, path, expected=NOTICED, stride=STRIDE)
    data = path.read_bytes()
    for bit in range(8 * (len(data) - 23), 8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert ask(case)[0] in NOTICED, bit


def test_a_flipped_bit_of_the_subject_is_noticed(attested):
    """Else the attestation of one model would pass for that of another."""
    sweep(attested, attested.weights, expected={1}, stride=1)


def test_a_flipped_bit_of_the_key_is_noticed(attested):
    """Else a damaged key would still say yes, and nobody could tell which key was meant."""
    sweep(attested, attested.key, expected={1, 2}, stride=1)


def test_a_ledger_file_under_another_name_is_noticed(tmp_path, attest_run):
    """Else the lives of a process could be swapped or hidden."""
    case = attest_run(tmp_path, ranks=2, lives=2)
    for path in sorted((case.run / "ledger").glob("*.jsonl")):
        for bit in range(8 * len(path.name)):
            name = bytearray(path.name.encode())
            name[bit // 8] ^= 1 << bit % 8
            if 0 in name or ord("/") in name:
                continue
            other = path.parent / name.decode("latin-1")
            if other.exists():
                continue
            path.rename(other)
            code, said = ask(case)
            other.rename(path)
            assert code in NOTICED, (path.name, other.name)
            assert "fault in flopmeter" not in said
    assert ask(case)[0] == 0


def test_a_ledger_cut_anywhere_or_added_to_is_noticed(attested):
    """Else what does not suit could be left out, or something put in."""
    path = attested.run / "ledger" / "0-0.jsonl"
    data = path.read_bytes()
    for changed in (*(data[:size] for size in range(0, len(data), STRIDE)), data[:-1], data + b"x", data + b"\n"):
        path.write_bytes(changed)
        assert ask(attested)[0] in NOTICED, len(changed)


def test_two_bytes_swapped_in_the_attestation_are_noticed(attested):
    """Else a change that keeps the sum of bits would pass."""
    data = attested.data
    for place in range(0, len(data) - 1, STRIDE):
        changed = data[:place] + data[place + 1 : place + 2] + data[place : place + 1] + data[place + 2 :]
        if changed != data:
            attested.file.write_bytes(changed)
            assert ask(attested)[0] in NOTICED, place
