"""A fake machine entered for one test, and what a call of pynvml returns."""

import pynvml
import pytest

from flopmeter.testing.fake_clusters import h100
from flopmeter.testing.fake_devices import FakeDriver, FakeMachine
from flopmeter.testing.fake_nvml import FakeNvml


@pytest.fixture
def enter():
    """Enter a machine of one device, initialise, and return the fake and the device's handle."""
    entered = []

    def start(device=None, driver=None):
        fake = FakeNvml(FakeMachine((device or h100(),), driver or FakeDriver())).__enter__()
        entered.append(fake)
        pynvml.nvmlInit()
        return fake, pynvml.nvmlDeviceGetHandleByIndex(0)

    yield start
    for fake in reversed(entered):
        fake.__exit__(None, None, None)


@pytest.fixture
def code_of():
    """Call, and return the code of NVML: 0 where it answers."""

    def ask(call):
        try:
            call()
        except pynvml.NVMLError as error:
            return error.value
        return 0

    return ask
