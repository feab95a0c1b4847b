"""Private keys in files."""

import shutil
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from flopmeter.attestation.keys import PublicKey
from flopmeter.attestation.signers.file import FileSigner, write_key_pair
from flopmeter.errors import SigningError


def test_a_pair_is_written_and_fits_together(tmp_path):
    signer = write_key_pair(tmp_path / "key")
    public = PublicKey.from_pem((tmp_path / "key.pub").read_bytes())
    again = FileSigner.from_file(tmp_path / "key")
    assert signer.public_key == public == again.public_key
    assert public.accepts(again.sign(b"message"), b"message")


def test_only_the_owner_can_read_the_private_key(tmp_path):
    """Else whoever shares the machine can sign as someone else."""
    write_key_pair(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


@pytest.mark.parametrize("taken", ["key", "key.pub"])
def test_a_key_is_never_overwritten(tmp_path, taken):
    """Else one wrong word loses a key that signed everything so far."""
    (tmp_path / taken).write_bytes(b"precious")
    with pytest.raises(SigningError, match="never overwritten"):
        write_key_pair(tmp_path / "key")
    assert (tmp_path / taken).read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == [taken]


def test_a_key_that_others_can_read_is_warned_of(tmp_path, caplog):
    write_key_pair(tmp_path / "key")
    (tmp_path / "key").chmod(0o640)
    FileSigner.from_file(tmp_path / "key")
    assert "chmod 600" in caplog.text


def test_a_key_of_the_owner_alone_is_read_without_a_word(tmp_path, caplog):
    write_key_pair(tmp_path / "key")
    FileSigner.from_file(tmp_path / "key")
    assert caplog.text == ""


OTHER = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
LOCKED = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))


@pytest.mark.parametrize("data", [b"", b"nonsense", OTHER, LOCKED, b"-----BEGIN PRIVATE KEY-----\n"])
def test_what_is_no_readable_ed25519_key_is_refused(tmp_path, data):
    (tmp_path / "key").write_bytes(data)
    with pytest.raises(SigningError):
        FileSigner.from_file(tmp_path / "key")


def test_a_missing_key_is_said_to_be_missing(tmp_path):
    with pytest.raises(SigningError, match="cannot be read"):
        FileSigner.from_file(tmp_path / "key")


def test_a_signer_does_not_show_its_key(tmp_path):
    """Else a log line gives the key away."""
    signer = write_key_pair(tmp_path / "key")
    assert repr(signer) == f"FileSigner({signer.key_id[:12]}…)"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_reads_both_halves(tmp_path):
    """Else a key made here is of no use anywhere else."""
    write_key_pair(tmp_path / "key")
    command = ["openssl", "pkey", "-in", "key", "-pubout"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=60)
    assert done.stdout == (tmp_path / "key.pub").read_bytes()
