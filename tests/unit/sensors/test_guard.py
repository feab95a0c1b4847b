"""What fails on our side stays on our side."""

import pytest

from flopmeter.sensors.guard import guarded, words_of


class Sensor:
    def __init__(self, *, strict: bool = False):
        self.strict, self.heard = strict, []

    def on_failure(self, error: Exception) -> None:
        self.heard.append(error)
        if self.strict:
            raise error

    @guarded
    def work(self, divisor: int, *, error: type[BaseException] | None = None) -> None:
        """Divide."""
        if error:
            raise error
        1 / divisor


def test_an_exception_is_heard_and_not_raised():
    sensor = Sensor()
    sensor.work(0)
    assert [type(error) for error in sensor.heard] == [ZeroDivisionError]
    sensor.work(1)
    assert len(sensor.heard) == 1


def test_in_strict_mode_it_is_raised():
    with pytest.raises(ZeroDivisionError):
        Sensor(strict=True).work(0)


def test_an_interrupt_is_the_users_and_goes_through():
    sensor = Sensor()
    with pytest.raises(KeyboardInterrupt):
        sensor.work(1, error=KeyboardInterrupt)
    assert sensor.heard == []


def test_a_guarded_method_keeps_its_name_and_its_docstring():
    assert (Sensor.work.__name__, Sensor.work.__doc__) == ("work", "Divide.")


@pytest.mark.parametrize(
    ("error", "words"),
    [(ValueError("one\n  two"), "one two"), (ValueError("one; two"), "one, two"), (ValueError(), "ValueError")],
)
def test_what_an_error_says_is_one_note(error, words):
    """Notes are parted by semicolons: an error that has one would be two, and the second without its cause."""
    assert words_of(error) == words
