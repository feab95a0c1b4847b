"""Products with sparse operands: 2:4, CSR, COO, and what makes them."""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost

FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {}
