"""Products of scaled low-precision operands: fp8, MX and NVFP4 blocks."""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost

FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {}
