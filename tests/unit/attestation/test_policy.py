"""Whose signatures count."""

import pytest

from flopmeter.attestation.keys import PublicKey
from flopmeter.attestation.policy import Policy
from flopmeter.testing.keys import throwaway_signer

ONE, TWO = (throwaway_signer(name).public_key for name in ("one", "two"))


def test_a_policy_finds_its_own_keys_and_no_others():
    policy = Policy((ONE,))
    assert policy.find(ONE.key_id) == ONE
    assert policy.find(TWO.key_id) is None


@pytest.mark.parametrize(("keys", "threshold"), [((), 1), ((ONE,), 0), ((ONE,), 2), ((ONE, PublicKey(ONE.raw)), 2)])
def test_a_policy_that_nothing_or_everything_satisfies_is_refused(keys, threshold):
    """Else one key named twice would count as two signers, or no key as enough."""
    with pytest.raises(ValueError, match="never be asked for"):
        Policy(keys, threshold)
