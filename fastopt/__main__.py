"""The command line: `fastopt`, or `python -m fastopt`."""

import argparse
import io
import sys
from collections.abc import Sequence

import fastopt
from fastopt.demo import train_command
from fastopt.demo.arguments import Parser, Refused, positive, whole
from fastopt.demo.lessons import command as lessons_command
from fastopt.demo.search import command as search_command


def make_parser() -> Parser:
    parser = Parser(prog="fastopt", description=fastopt.__doc__)
    parser.add_argument("--version", action="version", version=f"fastopt {fastopt.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True)
    add_info(commands)
    train_command.add(commands)
    search_command.add(commands)
    lessons_command.add(commands)
    add_bench(commands)
    return parser


def add_info(commands: "argparse._SubParsersAction[Parser]") -> None:
    info = commands.add_parser("info", help="version, ISA level, threads and why, compiler flags")
    info.set_defaults(run=run_info)


def add_bench(commands: "argparse._SubParsersAction[Parser]") -> None:
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


def run_info(arguments: argparse.Namespace) -> int:
    fastopt.show_config()
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
    """Run the command line and return the exit status; an option that no parser takes raises SystemExit(2)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")        # β, × and → where the terminal's encoding has none
    arguments = make_parser().parse_args(argv)
    arguments.argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return int(arguments.run(arguments))
    except Refused as refused:
        print(f"fastopt {arguments.command}: {refused}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
