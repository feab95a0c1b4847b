"""From a word on the command line to a signer."""

import pytest

from flopmeter.attestation.signers.file import write_key_pair
from flopmeter.attestation.signers.signer import SCHEMES, open_signer
from flopmeter.errors import SigningError, UnknownSignerError


def test_a_path_is_a_file_with_and_without_its_scheme(tmp_path):
    made = write_key_pair(tmp_path / "key")
    for uri in (str(tmp_path / "key"), f"file:{tmp_path / 'key'}"):
        assert open_signer(uri).key_id == made.key_id


def test_a_file_whose_name_looks_like_a_scheme_is_still_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = write_key_pair("lab:key")
    assert open_signer("lab:key").key_id == made.key_id


def test_a_scheme_that_nobody_knows_is_not_guessed_at():
    """Else a mistyped HSM becomes a file that is not there."""
    with pytest.raises(UnknownSignerError, match="pkcs12"):
        open_signer("pkcs12:token")


def test_a_missing_file_is_said_to_be_missing():
    with pytest.raises(SigningError):
        open_signer("no-such-key")


def test_the_table_holds_strings_alone():
    """Else asking for one signer would load them all."""
    assert all(isinstance(module, str) for module in SCHEMES.values())
