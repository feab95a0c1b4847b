"""What a test asks of torch: on an older one it is skipped, and says why."""

import pytest
import torch

_VERSION = tuple(map(int, torch.__version__.split(".")[:2]))
IS_BEFORE_2_10 = _VERSION < (2, 10)
IS_SINCE_2_14 = _VERSION >= (2, 14)


def since_2_10(why: str) -> pytest.MarkDecorator:
    """Skip where torch is older than 2.10, for this reason."""
    return pytest.mark.skipif(IS_BEFORE_2_10, reason=f"torch before 2.10: {why}")
