"""The command `mirrorlib`. Listing and checking never import torch."""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mirrorlib
from mirrorlib.errors import RecipeError, UserError
from mirrorlib.plugins import Row, installed

INTERRUPTED = 130
KEPT = "interrupted; what was recorded or trained is kept, train.resume=true continues a run"
PIPE_CLOSED = 141
OVERRIDE_HELP = "values to change, such as objective.temperature=0.2"
DEFAULT = "default: %(default)s"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code, see `guarded`."""
    return guarded(lambda: _command(argv))


def guarded(function: Callable[[], object]) -> int:
    """Call a function and return the exit code.

    0: done. 2: the user's to mend, one line on stderr for each problem. 130: Ctrl-C, or a SIGTERM,
    as clusters send it before they take a machine away. 141: what read our output has gone. 1: a
    defect of ours, with its traceback.
    """
    try:
        with terminating_like_ctrl_c():
            function()
        sys.stdout.flush()
        return 0
    except UserError as error:
        prefix = "" if isinstance(error, RecipeError) else "mirrorlib: "
        print("\n".join(prefix + line for line in error.lines), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mirrorlib: {KEPT}", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as exit_:  # argparse has said why
        return exit_.code if isinstance(exit_.code, int) else 0
    except BrokenPipeError:
        if _output_closed():
            return PIPE_CLOSED
        traceback.print_exc()
        return 1
    except Exception:
        traceback.print_exc()
        return 1


@contextmanager
def terminating_like_ctrl_c() -> Iterator[None]:
    """Within the block SIGTERM raises KeyboardInterrupt, so that workers end and MLflow is told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE [a.b=c ...], as every command that takes a recipe has them."""
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file")
    parser.add_argument("overrides", metavar="a.b=c", nargs="*", help=OVERRIDE_HELP)


def _command(argv: Sequence[str] | None) -> None:
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if any(word.startswith("-") for word in rest) or (rest and "overrides" not in arguments):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # overrides after an option
        arguments.overrides += rest
    arguments.command(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("mirrorlib", description=__doc__.partition(".")[0] + ".")
    parser.add_argument("--version", action="version", version=f"mirrorlib {mirrorlib.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        added.set_defaults(command=command)
        return added

    add_recipe_arguments(add("check", _check))
    plugins = add("plugins", _plugins)
    plugins.add_argument("--json", action="store_true", help="for programs")
    plugins.add_argument("--no-plugins", action="store_true", help="load none")
    add("doctor", _doctor)
    record = add("record", _record)
    add_recipe_arguments(record)
    record.add_argument("--rebuild", action="store_true", help="record damaged files anew, too")
    data = add("data", _data).add_subparsers(metavar="check", required=True).add_parser("check")
    data.add_argument("target", metavar="TARGET", help="a recipe, or a folder of demonstrations")
    data.add_argument("overrides", metavar="a.b=c", nargs="*", help=OVERRIDE_HELP)
    data.add_argument("--source", metavar="NAME", help="what reads the folder, of several")
    evaluate = add("evaluate", _evaluate)
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT", help="its folder, or its run's")
    evaluate.add_argument("overrides", metavar="a.b=c", nargs="*", help=OVERRIDE_HELP)
    suite = add("suite", _suite)
    suite.add_argument("suite", metavar="SUITE", help="a YAML file")
    suite.add_argument("overrides", metavar="a.b=c", nargs="*", help=OVERRIDE_HELP)
    suite.add_argument("--arms", metavar="A,B", help="these alone")
    suite.add_argument("--seeds", metavar="0,1|0-4", help="these instead of the suite's")
    suite.add_argument("--records", metavar="FOLDER", help="default: records/ and the suite's name")
    suite.add_argument("--print", action="store_true", help="a launch line for each run to do")
    _add_compare(add("compare", _compare))
    figures = add("figures", _figures)
    figures.add_argument("run", metavar="RUN", help="the folder of a run")
    figures.add_argument("--format", choices=("png", "pdf", "svg"), default="png", help=DEFAULT)
    figures.add_argument("--out", metavar="FOLDER", help="default: RUN/figures")
    figures.add_argument("--dpi", type=int, default=300, help=f"of pixels; {DEFAULT}")
    export = add("export", _export)
    export.add_argument("run", metavar="RUN", help="its folder, or a checkpoint's")
    export.add_argument("out", metavar="OUT", help="a new folder")
    ui = add("ui", _ui)
    ui.add_argument("--port", type=int, default=5000, help=DEFAULT)
    return parser


def _check(arguments: argparse.Namespace) -> None:
    """Validate a recipe, and what its plugins need of this machine."""
    from mirrorlib.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    installed().require(recipe.offers, slow=False)
    components = ", ".join(f"{kind} {named.name}" for kind, named in recipe.components.items())
    size = f"{recipe.batch.instructions} x {recipe.batch.episodes} pairs"
    print(f"ok: {recipe.name}: {components}; {recipe.train.steps} steps of {size}; {recipe.sha}")
    if recipe.resampling:
        print(f"note: {recipe.resampling}")


def _plugins(arguments: argparse.Namespace) -> None:
    """List the installed plugins and what they offer."""
    rows = installed(not arguments.no_plugins).rows
    if arguments.json:
        print(json.dumps([_plain(row) for row in rows], indent=2))
        return
    if not rows:
        if arguments.no_plugins:
            print("no plugin was loaded (--no-plugins)")
        else:
            print("no plugin is installed; install one with `pip install NAME`")
        return
    width = max((len(c.name) for row in rows for _, c in row.components), default=0)
    for row in rows:
        reason = f": {row.reason}" if row.reason else ""
        print(f"{row.distribution} {row.version}  {row.status}{reason}")
        for kind, component in row.components:
            print(f"  {kind:<10} {component.name:<{width}}  {component.summary}")


def _plain(row: Row) -> dict[str, object]:
    return {
        "distribution": row.distribution,
        "version": row.version,
        "entry_point": row.entry_point,
        "status": row.status,
        "reason": row.reason,
        "components": [
            {"kind": kind, "name": component.name, "summary": component.summary}
            for kind, component in row.components
        ],
    }


def _doctor(arguments: argparse.Namespace) -> None:
    """Look over this machine, MLflow and the plugins, and say what mends what is wrong."""
    from mirrorlib import doctor

    def announce(name: str) -> None:  # a look that hangs is then known by its name
        print(f"{name:<26}", end="  ", flush=True)

    wrong = []
    for row in doctor.rows(announce):
        print(f"{row.status:<8}  {row.detail}", flush=True)
        if row.status == "mend":
            wrong.append(row.name)
    if wrong:
        raise UserError(f"to mend: {', '.join(wrong)}")


def _record(arguments: argparse.Namespace) -> None:
    """Record the demonstrations that a recipe needs and the cache lacks."""
    from mirrorlib.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    from mirrorlib import pipeline  # torch, once the recipe is known to be right

    pipeline.record(recipe, arguments.rebuild)


def _data(arguments: argparse.Namespace) -> None:
    """Read every episode of a recipe or a folder, and report all that are broken at once."""
    from mirrorlib.data.check import check

    check(arguments.target, arguments.overrides, arguments.source)


def _evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate a checkpoint as its recipe says; the report has a run folder of its own."""
    from mirrorlib import pipeline

    pipeline.evaluate(Path(arguments.checkpoint), arguments.overrides)


def _suite(arguments: argparse.Namespace) -> None:
    """Run what a suite still lacks: a base recipe, named changes to it, and seeds."""
    from mirrorlib.suite import load_suite, parse_seeds
    from mirrorlib.suites.records import refuse_mixing
    from mirrorlib.suites.running import chosen, print_lines, run_suite

    seeds = None if arguments.seeds is None else parse_seeds(arguments.seeds)
    suite = load_suite(arguments.suite, arguments.overrides, seeds=seeds, records=arguments.records)
    if arguments.records is None:
        refuse_mixing(suite, arguments.overrides)
    suite = chosen(suite, None if arguments.arms is None else arguments.arms.split(","))
    if arguments.print:
        print_lines(suite)
        return
    installed().require({offer for run in suite.runs for offer in run.recipe.offers})
    run_suite(suite)


def _add_compare(compare: argparse.ArgumentParser) -> None:
    sources = "a suite's YAML, folder of records, record, run folder, MLflow experiment or run id"
    compare.add_argument("sources", metavar="SOURCE", nargs="+", help=sources)
    compare.add_argument("--baseline", metavar="ARM", help="default: the suite's, else none")
    compare.add_argument("--out", metavar="FOLDER", help="default: comparison/NAME")
    compare.add_argument("--records", metavar="FOLDER", help="a suite's, if not records/NAME")
    compare.add_argument("--experiment", help="of MLflow, where the comparison is logged")
    compare.add_argument("--no-mlflow", action="store_true", help="log it nowhere")


def _compare(arguments: argparse.Namespace) -> None:
    """Compare arms over seeds: tables, figures, one page."""
    from mirrorlib.comparison.command import run

    run(arguments)


def _figures(arguments: argparse.Namespace) -> None:
    """Draw the pictures of a run from the files in its folder."""
    from mirrorlib.reporting.figures import draw_command

    draw_command(arguments.run, arguments.out, arguments.format, arguments.dpi)


def _export(arguments: argparse.Namespace) -> None:
    """Write a trained model into a folder that loads without its run: weights, recipe, card."""
    from mirrorlib.export import CARD, export

    out = export(Path(arguments.run), Path(arguments.out))
    print(f"exported to {out}; {out / CARD} shows how it is loaded")


def _ui(arguments: argparse.Namespace) -> None:
    """Open MLflow's pages at the runs, to compare them."""
    from mirrorlib.ui import serve_ui

    serve_ui(arguments.port)


def _output_closed() -> bool:
    """Whether stdout has lost its reader; if so, nothing is written to it any more."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file
        return False
    poll = select.poll()
    poll.register(output, 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


if __name__ == "__main__":
    sys.exit(main())
