"""Optimizer updates that one kernel does for a list of parameters.

Each costs, element for element, what torch's loop over parameters (`_single_tensor_…`) costs in separate operators,
scaled updates included. The step counters are advanced by an operator of their own.
Not here: optimizers in foreach or loop form, which are counted as the operators they call.
"""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall, is_exactly
from flopmeter.formulas.cost import Cost

# n elements of all parameters together


def count_adam(call: OpCall) -> int:
    """Cost of a fused Adam step, in which weight decay is added to the gradient.

    Shapes: lists of parameters, gradients, two moments, n elements in all.
    Counts: 13·n: lerp 3, scale the second moment 1, add the squared gradient 3 (2 where beta2 is 0), square root 1,
        divide 1, add eps 1, update 3; n to unscale the gradient, n to negate it (`maximize`), 2·n for weight decay.
    Ignores: the maximum of amsgrad (compares), numbers made on the host, checks for infinities.
    Source: docs/spec/fm-1.md#optimizer; torch.optim.adam `_single_tensor_adam`.

    Example:
        >>> p = [(2, 3), (4,)]
        >>> call = OpCall.of("aten::_fused_adam_", p, p, p, p, [], [(1,), (1,)], beta2=0.5, weight_decay=0.0,
        ...                  amsgrad=False, maximize=False)
        >>> count_adam(call)
        130
    """
    decay = 0 if is_exactly(call.option("weight_decay"), 0) else _scaled_add(call, "weight_decay")
    return (_prepared(call) + decay + _adam_update(call)) * _elements(call)


def count_adamw(call: OpCall) -> int:
    """Cost of a fused AdamW step, in which weight decay scales the parameter.

    Shapes: lists of parameters, gradients, two moments, n elements in all.
    Counts: as Adam, but n for weight decay.
    Ignores: what Adam ignores.
    Source: docs/spec/fm-1.md#optimizer; torch.optim.adam `_single_tensor_adam`.

    Example:
        >>> p = [(2, 3), (4,)]
        >>> call = OpCall.of("aten::_fused_adamw_", p, p, p, p, [], [(1,), (1,)], beta2=0.5, weight_decay=0.01,
        ...                  amsgrad=False, maximize=False)
        >>> count_adamw(call)
        140
    """
    decay = 0 if is_exactly(call.option("weight_decay"), 0) else 1
    return (_prepared(call) + decay + _adam_update(call)) * _elements(call)


def count_sgd(call: OpCall) -> int:
    """Cost of a fused SGD step.

    Shapes: lists of parameters, gradients and momentum buffers, n elements in all.
    Counts: 2·n for the update; n to unscale the gradient, n to negate it; 2·n for weight decay; with momentum, but on
        the first step, n to scale the buffer and 2·n to add the gradient (n without dampening); 2·n for Nesterov.
        A factor of exactly 1 is not multiplied.
    Ignores: checks for infinities.
    Source: docs/spec/fm-1.md#optimizer; torch.optim.sgd `_single_tensor_sgd`.

    Example:
        >>> p = [(2, 3), (4,)]
        >>> call = OpCall.of("aten::_fused_sgd_", p, p, p, weight_decay=0.0, momentum=0.9, dampening=0.0,
        ...                  nesterov=False, maximize=False, is_first_step=False)
        >>> count_sgd(call)
        40
    """
    rate = 2 + _prepared(call)
    if not is_exactly(call.option("weight_decay"), 0):
        rate += _scaled_add(call, "weight_decay")
    if not is_exactly(call.option("momentum"), 0):
        if call.option("is_first_step") is not True:
            rate += 2 if is_exactly(call.option("dampening"), 0) else 3
        if call.option("nesterov") is True:
            rate += _scaled_add(call, "momentum")
    return rate * _elements(call)


def count_adagrad(call: OpCall) -> int:
    """Cost of a fused Adagrad step.

    Shapes: lists of parameters, gradients and sums, n elements in all.
    Counts: 7·n: add the squared gradient 2, square root 1, add eps 1, update 3; n to unscale the gradient, n to
        negate it, 2·n for weight decay.
    Ignores: checks for infinities, numbers made on the host.
    Source: docs/spec/fm-1.md#optimizer; torch.optim.adagrad `_single_tensor_adagrad`.

    Example:
        >>> p = [(2, 3), (4,)]
        >>> count_adagrad(OpCall.of("aten::_fused_adagrad_", p, p, p, [(1,), (1,)], weight_decay=0.0, maximize=False))
        70
    """
    decay = 0 if is_exactly(call.option("weight_decay"), 0) else _scaled_add(call, "weight_decay")
    return (7 + _prepared(call) + decay) * _elements(call)


def _elements(call: OpCall) -> int:
    return sum(spec.size for spec in call.tensor_list(0))


def _prepared(call: OpCall) -> int:
    """Take the loss scale off the gradient, and turn it round."""
    return (call.option("grad_scale") is not None) + (call.option("maximize") is True)


def _adam_update(call: OpCall) -> int:
    return 12 if is_exactly(call.option("beta2"), 0) else 13


def _scaled_add(call: OpCall, factor: str) -> int:
    """Add factor·y to x: one add, and a multiply unless the factor is 1."""
    return 1 if is_exactly(call.option(factor), 1) else 2


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "aten::_fused_adam": ("pointwise", count_adam),
    "aten::_fused_adamw": ("pointwise", count_adamw),
    "aten::_fused_sgd": ("pointwise", count_sgd),
    "aten::_fused_adagrad": ("pointwise", count_adagrad),
}
