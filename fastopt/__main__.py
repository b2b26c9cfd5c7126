"""The command line: `fastopt`, or `python -m fastopt`."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence

import fastopt

# Modules of the demo extra and the packages that contain them.
EXTRA = {"sklearn": "scikit-learn", "tqdm": "tqdm", "matplotlib": "matplotlib"}


def whole(smallest: int, largest: int | None = None) -> Callable[[str], int]:
    """An argparse type: an int within the limits, both inclusive."""
    limits = f"of at least {smallest}" if largest is None else f"in [{smallest}, {largest}]"

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < smallest or (largest is not None and number > largest):
            raise argparse.ArgumentTypeError(f"expected an int {limits}, got {text!r}")
        return number
    return parse


def positive(text: str) -> float:
    """An argparse type: a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text!r}")
    return number


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastopt", description=fastopt.__doc__)
    parser.add_argument("--version", action="version", version=f"fastopt {fastopt.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True)

    info = commands.add_parser("info", help="version, ISA level, threads and why, compiler flags")
    info.set_defaults(run=run_info)

    train = commands.add_parser(
        "train", help="train a network on real data, with the kernels and with the plain NumPy reference",
        description="Train a network on scikit-learn's digits (1797 real images, no download), first with the "
                    "kernels, then with fastopt.reference.")
    train.add_argument("--network", choices=("pixels", "tokens"), default="pixels",
                       help="pixels: fully connected layers with BatchNorm and ReLU (default); tokens: an embedding of "
                            "each pixel's grey level, dropout, BatchNorm, GELU and LayerNorm")
    train.add_argument("--epochs", type=whole(1), default=20, metavar="N",
                       help="passes over the training images (default: 20)")
    train.add_argument("--batch-size", type=whole(2), default=32, metavar="N",
                       help="images per update (default: 32)")
    train.add_argument("--optimizer", choices=("adam", "momentum", "sgd"), default="adam",
                       help="(default: adam)")
    train.add_argument("--lr", type=positive,
                       help="peak learning rate (default: tuned for each optimizer)")
    train.add_argument("--seed", type=whole(0), default=0,
                       help="for initial weights and batches (default: 0)")
    train.add_argument("--threads", type=whole(1, 1024), default=1, metavar="N",
                       help="threads of the kernels (default: 1, the fastest for a network of this size)")
    train.add_argument("--plot", metavar="FILE", help="draw the learning curves")
    train.set_defaults(run=run_train, parser=train)

    bench = commands.add_parser(
        "bench", help="how fast the kernels are on this machine",
        description="Time the kernels beside the memory roof, NumPy, and torch and numba where installed: a quick "
                    "look, which takes about 20 seconds. Results are compared before they are timed.")
    bench.add_argument("--threads", type=whole(1, 1024), metavar="N",
                       help="threads of the kernels and of torch and numba (default: what fastopt info says)")
    bench.add_argument("--quick", action="store_true", help="only small arrays, which stay in the cache")
    bench.add_argument("--seconds", type=positive, default=0.4, help="of timing for each row (default: 0.4)")
    bench.add_argument("--json", metavar="FILE", help="write all figures to a file")
    bench.set_defaults(run=run_bench)
    return parser


def run_info(arguments: argparse.Namespace) -> int:
    fastopt.show_config()
    return 0


def run_train(arguments: argparse.Namespace) -> int:
    fail = arguments.parser.error       # prints the usage and the message and exits with code 2
    try:
        from fastopt.demo import data, train
        if arguments.plot is not None:
            from fastopt.demo import plot
    except ModuleNotFoundError as error:
        missing = EXTRA.get((error.name or "").partition(".")[0])
        if missing is None:
            raise
        print(f'fastopt train: {missing} is not installed; run: pip install "fastopt[demo]"', file=sys.stderr)
        return 2
    if arguments.plot is not None and (problem := plot.problem(arguments.plot)):
        fail(f"argument --plot: {problem}")
    digits = data.digits()
    if arguments.batch_size > len(digits.train_x):
        fail(f"argument --batch-size: expected at most {len(digits.train_x)}, the number of training images, "
             f"got {arguments.batch_size}")
    try:
        with fastopt.num_threads(arguments.threads):
            kernels, reference = train.compare(
                digits, network=arguments.network, optimizer=arguments.optimizer, lr=arguments.lr,
                epochs=arguments.epochs, batch_size=arguments.batch_size, seed=arguments.seed)
    except train.Diverged as error:
        print(f"fastopt train: {error}", file=sys.stderr)
        return 1
    if arguments.plot is not None:
        plot.learning_curves(arguments.plot, {"fastopt": kernels, "fastopt.reference": reference})
        print(f"Learning curves: {arguments.plot}")
    return 0


def run_bench(arguments: argparse.Namespace) -> int:
    from fastopt.bench import command
    from fastopt.bench.contenders import WrongResultError
    threads = fastopt.get_num_threads() if arguments.threads is None else arguments.threads
    try:
        with fastopt.num_threads(threads):
            command.run(quick=arguments.quick, seconds=arguments.seconds, path=arguments.json)
    except (OSError, WrongResultError) as error:
        print(f"fastopt bench: {error}", file=sys.stderr)
        return 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; an invalid option raises SystemExit(2) after a message."""
    arguments = make_parser().parse_args(argv)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
