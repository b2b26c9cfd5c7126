"""The loop over epochs: validation, early stopping, a progress bar, a line an epoch, and what is called after each."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tqdm import tqdm

from fastopt.demo.trainer import Epoch, Trainer

Callback = Callable[[Trainer], object]
"""Called after each epoch."""

HEADINGS = ("              training             validation\n"
            "epoch       loss  accuracy        loss  accuracy   seconds  * best so far")


def fit(trainer: Trainer, *, epochs: int | None = None, validation_freq: int = 1, patience: int | None = None,
        callbacks: Iterable[Callback] = (), label: str = "fastopt", lines: bool = True) -> None:
    """Train until the last epoch, or until early stopping, from wherever the trainer is.

    Parameters
    ----------
    trainer : Trainer
    epochs : int, optional
        The last epoch; by default the settings'.
    validation_freq : int
        Epochs from one validation to the next. The last epoch is always validated.
    patience : int, optional
        Stop after so many validations without one that is better than the best.
    callbacks : iterable of callables
        Each is called with the trainer after each epoch.
    label : str
        Of the progress bar, which is shown on a terminal only.
    lines : bool
        Whether to print a line an epoch.

    Raises
    ------
    Diverged
        The loss is inf or NaN.
    """
    last = trainer.settings.epochs if epochs is None else epochs
    callbacks = list(callbacks)
    if lines and not finished(trainer, last, patience):
        print(HEADINGS)
    with tqdm(total=last * trainer.steps_per_epoch, initial=len(trainer.history) * trainer.steps_per_epoch, desc=label,
              bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}", leave=False,
              disable=None) as bar:

        def advance(_loss: float) -> None:
            if not bar.disable:
                loss, accuracy = trainer.running
                bar.set_postfix_str(f"loss {loss:.4f}, accuracy {accuracy:.2%}", refresh=False)
                bar.update()

        while not finished(trainer, last, patience):
            number = len(trainer.history) + 1
            epoch = trainer.run_epoch(validate=number % validation_freq == 0 or number == last, each_step=advance)
            for callback in callbacks:
                callback(trainer)
            if lines:
                tqdm.write(line(epoch) + ("  *" if epoch is trainer.best else ""))


def finished(trainer: Trainer, epochs: int, patience: int | None) -> bool:
    """Whether the training is over: a question to its history alone, so that a training that goes on stops alike."""
    return len(trainer.history) >= epochs or stopped_early(trainer, patience)


def stopped_early(trainer: Trainer, patience: int | None) -> bool:
    """Whether the last `patience` validations were no better than the best one before them."""
    if patience is None or trainer.best is None:
        return False
    later = trainer.history[trainer.best.epoch:]
    return sum(epoch.validation_loss is not None for epoch in later) >= patience


def line(epoch: Epoch) -> str:
    """A row under HEADINGS."""
    validation = " " * 20
    if epoch.validation_loss is not None:
        validation = f"{epoch.validation_loss:10.4f}{epoch.validation_accuracy:10.2%}"
    return f"{epoch.epoch:5}{epoch.loss:11.4f}{epoch.accuracy:10.2%}  {validation}{epoch.seconds:10.3f}"
