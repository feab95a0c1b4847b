"""Callback for the Trainer of transformers: `Trainer(…, callbacks=[FlopmeterCallback("runs/tiny")])`.

Not here: figures, and `evaluate` and `predict` outside of `train`, which are not metered.
"""

import atexit
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from flopmeter.errors import MissingExtraError
from flopmeter.meter import Meter

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtraError("transformers is not installed; pip install 'flopmeter[transformers]'") from error

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")


class FlopmeterCallback(TrainerCallback):
    """Meters `Trainer.train` into `run_dir`; evaluations that the Trainer makes in it have the purpose `evaluation`.

    A Step is one optimizer update. Tokens are those that the Trainer counts (`include_num_input_tokens_seen`), over
    all ranks, and stand with rank 0; else they are unknown. Weight files are recorded as they are saved. The Trainer
    tells nobody of an exception: the meter closes when the interpreter exits, or at the end of
    `with FlopmeterCallback(…) as callback:` around it. `meter_options` are those of `Meter`.
    """

    def __init__(self, run_dir: Path | str, **meter_options: Any) -> None:
        self.meter = Meter(run_dir, **meter_options)
        self._evaluation = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close(f"{kind.__name__} in the run" if kind else "end")

    def on_train_begin(self, args: Any, state: Any, _control: Any, **given: Any) -> None:
        self._close("training began anew")
        self.meter.start().watch(given["model"])
        atexit.register(self._close, "exit before the training ended")
        self.meter.trained(tokens_so_far=state.num_input_tokens_seen)
        if args.eval_on_start:
            self._begin_evaluation()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._evaluation.close()

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.meter.trained(tokens_so_far=state.num_input_tokens_seen)
        self.meter.step()
        self.on_epoch_end(None, None, control)

    def on_epoch_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
        if control.should_evaluate:
            self._begin_evaluation()

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        self._begin_evaluation()

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self._evaluation.close()

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for path in sorted(path for name in WEIGHTS for path in folder.glob(name)) if args.should_save else ():
            self.meter.checkpoint(path)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._close("end")

    def _begin_evaluation(self) -> None:
        self._evaluation.close()
        self._evaluation.enter_context(self.meter.purpose("evaluation"))

    def _close(self, reason: str) -> None:
        atexit.unregister(self._close)
        self._evaluation.close()
        self.meter.close(reason=reason)
