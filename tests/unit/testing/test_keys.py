"""Keys of no value."""

from flopmeter.testing.keys import throwaway_signer


def test_the_same_name_gives_the_same_key_and_signature():
    """Else vectors made yesterday could not be made again today."""
    one, two = throwaway_signer("a"), throwaway_signer("a")
    assert one.key_id == two.key_id
    assert one.sign(b"x") == two.sign(b"x")
    assert throwaway_signer("b").key_id != one.key_id
