"""The recipe of docs/recipe.md: its command is read from the page, and its training judged as `fastopt train` does."""

import shlex

import pages

PROMISED = 0.985
"""Part of the test images that is classified rightly, with each seed of the page."""


def arguments(seed):
    """Those of the page's command, with this seed."""
    from fastopt.__main__ import make_parser
    (command,) = [command for command in pages.commands("docs/recipe.md") if command.startswith("fastopt train ")]
    _, *words = shlex.split(command)
    assert "--seed" not in words
    return make_parser().parse_args([*words, "--seed", str(seed)])


def accuracy(seed):
    """Of the test images."""
    from threadpoolctl import threadpool_limits

    import fastopt
    from fastopt.demo import data
    from fastopt.demo.arguments import settings_from
    from fastopt.demo.fit import fit
    from fastopt.demo.trainer import Trainer
    given = arguments(seed)
    with fastopt.num_threads(1), threadpool_limits(1, "blas"):
        trainer = Trainer(settings_from(given), data.digits())
        fit(trainer, validation_freq=given.validation_freq, lines=False)
        trainer.load_best()
        return trainer.network.evaluate(trainer.data.test)[1]
