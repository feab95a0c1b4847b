"""flopmeter: metered, reconciled and signed compute of PyTorch training runs.

Names are fetched on first use, so that `import flopmeter` costs nothing and an auditor never loads torch.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flopmeter.account import Account as Account
    from flopmeter.errors import FlopmeterError as FlopmeterError
    from flopmeter.formulas.book import FormulaBook as FormulaBook
    from flopmeter.formulas.call import OpCall as OpCall
    from flopmeter.formulas.cost import Cost as Cost
    from flopmeter.formulas.cost import Part as Part
    from flopmeter.meter import Meter as Meter
    from flopmeter.reconciliation import Reconciliation as Reconciliation
    from flopmeter.tally import OpCount as OpCount
    from flopmeter.tally import Tally as Tally
    from flopmeter.usage import Usage as Usage

_HOMES = {
    "Account": "flopmeter.account",
    "Cost": "flopmeter.formulas.cost",
    "FlopmeterError": "flopmeter.errors",
    "FormulaBook": "flopmeter.formulas.book",
    "Meter": "flopmeter.meter",
    "OpCall": "flopmeter.formulas.call",
    "OpCount": "flopmeter.tally",
    "Part": "flopmeter.formulas.cost",
    "Reconciliation": "flopmeter.reconciliation",
    "Tally": "flopmeter.tally",
    "Usage": "flopmeter.usage",
}

__all__ = sorted([*_HOMES, "__version__"])  # noqa: PLE0605


def __dir__() -> list[str]:
    return list(__all__)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            return version("flopmeter")
        if name in _HOMES:
            from importlib import import_module

            return getattr(import_module(_HOMES[name]), name)
        msg = f"module 'flopmeter' has no attribute {name!r}"
        raise AttributeError(msg)
