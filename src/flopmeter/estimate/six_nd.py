"""6ND: six operations per parameter and trained token.

Source: European Commission, Guidelines on the scope of obligations for general-purpose AI models (C(2025) 5045),
Annex A.2, after Kaplan et al. 2020 (arXiv 2001.08361). Not here: what was counted (`account.py`).
"""

from flopmeter.estimate.estimate import Estimate


def estimate_six_nd(*, parameters: int | None, tokens: int | None) -> Estimate:
    """Return 6·N·D.

    Units: FLOP, from logical parameters (a tied weight once) and trained tokens.
    Ignores: attention, recomputation, frozen weights, experts not used, evaluation, the optimizer.
    Basis: `modelled`; no figure where an input is unknown.
    Source: Annex A.2 of the Commission's guidelines; the module's docstring.

    Example:
        >>> estimate_six_nd(parameters=600_000_000, tokens=36 * 10**12).flop
        129600000000000000000000
    """
    if not parameters or not tokens:
        missing = " and ".join(name for name, value in (("parameters", parameters), ("tokens", tokens)) if not value)
        return Estimate(method="6nd", flop=None, note=f"unknown: {missing}")
    inputs = {"parameters": str(parameters), "tokens": str(tokens)}
    return Estimate(method="6nd", flop=6 * parameters * tokens, inputs=inputs)
