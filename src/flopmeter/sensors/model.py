"""The size of a model as 6ND wants it: logical parameters, trainable ones, embedding tables.

Not here: what it costs.
"""

from collections.abc import Iterable

import torch

from flopmeter.account import Model

_EMBEDDINGS = (torch.nn.Embedding, torch.nn.EmbeddingBag)


def measure_model(modules: Iterable[torch.nn.Module]) -> Model:
    """Count the parameters of the modules, each tensor once however many names it has.

    Units: parameters. `embedding` are look-up tables, a table tied to an output layer included.
    Is not: the size of a shard; a sharded tensor tells its logical size.
    """
    parameters: dict[int, torch.nn.Parameter] = {}
    tables: dict[int, torch.Tensor] = {}
    for module in modules:
        parameters.update((id(parameter), parameter) for parameter in module.parameters())
        for part in module.modules():
            if isinstance(part, _EMBEDDINGS):
                tables[id(part.weight)] = part.weight
    return Model(
        parameters=sum(parameter.numel() for parameter in parameters.values()),
        trainable=sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad),
        embedding=sum(table.numel() for table in tables.values()),
    )
