"""Arithmetic on complex numbers."""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost

FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {}
