"""Callback for Lightning: `Trainer(callbacks=[FlopmeterCallback("runs/tiny")])`.

Works with `lightning` and with `pytorch_lightning`, whichever the program has imported. Not here: figures, and
`validate`, `test` and `predict` outside of a fit, which are not metered.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from flopmeter.errors import MissingExtraError
from flopmeter.meter import Meter

_NAMES = ("lightning.pytorch", "pytorch_lightning")


def _find_package() -> Any:
    """Return the Lightning that the program uses: one already imported, else one that is installed."""
    for name in (*(name for name in _NAMES if name in sys.modules), *_NAMES):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise MissingExtraError("Lightning is not installed; pip install 'flopmeter[lightning]'")


Callback: Any = _find_package().Callback


class FlopmeterCallback(Callback):
    """Meters `Trainer.fit` into `run_dir`; validation in it, the sanity check included, has the purpose `evaluation`.

    Watched are the LightningModule and its children that have parameters, because Lightning calls `training_step` as
    a plain method. A Step ends with the batch in which `global_step` advanced. Checkpoints of ModelCheckpoint are
    recorded; for one saved by hand call `callback.meter.checkpoint(path)`.
    `tokens` says how many tokens a batch trains; `meter_options` are those of `Meter`.
    """

    def __init__(self, run_dir: Path | str, *, tokens: Callable[[Any], int] | None = None, **meter_options: Any):
        self.meter = Meter(run_dir, **meter_options)
        self._tokens_of = tokens or (lambda _batch: 0)
        self._update: int | None = None
        self._recorded: set[str] = set()
        self._evaluation = ExitStack()

    def on_fit_start(self, trainer: Any, pl_module: torch.nn.Module) -> None:
        self._update, self._recorded = trainer.global_step, set()
        self.meter.start().watch([pl_module, *_children_called(pl_module)])

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self._record(trainer, "best_model_path")

    def on_train_batch_end(self, trainer: Any, _module: Any, _out: Any, batch: Any, _index: int) -> None:
        self.meter.trained(tokens=self._tokens_of(batch))
        if trainer.global_step != self._update:
            self._update = trainer.global_step
            self.meter.step()

    def on_validation_start(self, *_: Any) -> None:
        self._evaluation.enter_context(self.meter.purpose("evaluation"))

    def on_validation_end(self, *_: Any) -> None:
        self._evaluation.close()

    def on_fit_end(self, trainer: Any, _module: Any) -> None:
        self.on_exception(trainer, None, None)

    def on_exception(self, trainer: Any, _module: Any, exception: BaseException | None) -> None:
        self._evaluation.close()
        self._record(trainer, "best_model_path", "last_model_path")
        self.meter.close(reason=f"{type(exception).__name__} in the run" if exception else "end")

    def _record(self, trainer: Any, *names: str) -> None:
        for path in sorted(
            {getattr(callback, name, "") for callback in trainer.checkpoint_callbacks for name in names}
        ):
            if trainer.is_global_zero and path not in self._recorded and Path(path).is_file():
                self._recorded.add(path)
                self.meter.checkpoint(path)


def _children_called(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Yield the children that a step may call by themselves; a list of modules is never called, its members are."""
    for child in module.children():
        if isinstance(child, torch.nn.ModuleList | torch.nn.ModuleDict):
            yield from _children_called(child)
        elif any(True for _ in child.parameters()):
            yield child
