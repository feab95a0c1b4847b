"""flopmeter keygen."""

import stat


def test_a_pair_is_made_and_said_where(call, tmp_path):
    done = call("keygen", "key", "--json")
    assert done.code == 0
    assert done.json == {"private": "key", "public": "key.pub", "key_id": done.json["key_id"]}
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_key_is_not_overwritten(call, tmp_path):
    """Else a slip of the hand ends every signature to come."""
    call("keygen", "key")
    before = (tmp_path / "key").read_bytes()
    done = call("keygen", "key")
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert (tmp_path / "key").read_bytes() == before


def test_the_words_say_which_half_is_which(call):
    said = call("keygen", "key").out
    assert "keep it to yourself" in said
    assert "key.pub" in said
