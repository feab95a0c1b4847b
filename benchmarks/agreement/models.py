"""Models built by hand in torch alone, of every family that we know of, as subjects."""

from graphs import GRAPHS
from sequences import SEQUENCES
from signals import SIGNALS
from subject import Subject
from training import TRAINING
from vision import VISION


def subjects() -> list[Subject]:
    """Return them all."""
    return [*VISION, *SEQUENCES, *GRAPHS, *SIGNALS, *TRAINING]
