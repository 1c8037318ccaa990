"""The arguments of the command line, and how errors are shown.

Exit codes: 0; 1 where the work failed; 2 for wrong usage. One message on stderr, no traceback unless QC_DEBUG says so.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

from qcompiler import __version__, knobs
from qcompiler.errors import QCompilerError
from qcompiler.stages import ORDER

_BUILD, _EXPORT, _RUN, _SCALES = "build", "export", "run", "scales"  # loaded when a command needs them
_MODULES = {
    "check": _BUILD, "quantize": _BUILD, "passes": _BUILD, "dump": _BUILD, "draw": _BUILD, "export": _EXPORT,
    "run": _RUN, "bench": _RUN, "compare": _RUN, "targets": _RUN,
    "scales": _SCALES, "diff": _SCALES,
}  # fmt: skip
_MODEL = "FILE.onnx, a saved FILE.qc.safetensors, a text FILE.qir, or package.module:name with --python"


def _size(text: str) -> tuple[str, int]:
    name, equals, size = text.partition("=")
    if not equals or not name.isidentifier() or not size.isdigit() or int(size) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form B=1")
    return name, int(size)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 3600.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 3600")
    return value


def _shared() -> dict[str, argparse.ArgumentParser]:
    """The groups of arguments that several commands take."""
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("--python", action="store_true", help="MODEL is Python code: import the module and run it")
    source.add_argument(
        "--type",
        action="append",
        default=[],
        metavar="TYPE",
        help='the type of a Python model\'s input, such as "f32[B,3,224,224]"; once per input; named sizes may vary',
    )
    source.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE.py",
        help="a Python file, or a module, of yours to run first: it declares ops, observers, passes and importers",
    )
    model = argparse.ArgumentParser(add_help=False, parents=[source])
    model.add_argument("model", metavar="MODEL", help=_MODEL)
    target = argparse.ArgumentParser(add_help=False)
    target.add_argument(
        "--target", default="native", help="native (the default), reference, or a level; `qcompiler targets` lists them"
    )
    threads = argparse.ArgumentParser(add_help=False, parents=[target])
    threads.add_argument(
        "--threads", type=_positive, metavar="N", help="the most threads to use; by default QC_THREADS or all CPUs"
    )
    qconfig = argparse.ArgumentParser(add_help=False)
    qconfig.add_argument(
        "--qconfig",
        metavar="NAME",
        help="int8 (the default), int8:plain, torch:default, ..., dynamic, keep (of a quantized model)",
    )
    batch = argparse.ArgumentParser(add_help=False)
    batch.add_argument(
        "--batch",
        type=_positive,
        metavar="N",
        help="samples in one call, where the model's batch may vary (default: 32)",
    )
    figures = argparse.ArgumentParser(add_help=False)
    figures.add_argument("--json", action="store_true", help="print the figures as JSON")
    return {
        "source": source, "model": model, "threads": threads, "qconfig": qconfig, "batch": batch, "figures": figures
    }  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    parser = argparse.ArgumentParser(
        prog="qcompiler", description="Compile float neural networks into int8 programs, and run them."
    )
    parser.add_argument("--version", action="version", version=f"qcompiler {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    shared = _shared()

    def add(name: str, help: str, *parents: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help, parents=[shared[parent] for parent in parents])

    add("check", "Show, without quantizing, which nodes will run in int8 and why.", "model", "qconfig", "figures")

    quantize = add(
        "quantize",
        "Calibrate and quantize a float model, and save it.",
        "model",
        "qconfig",
        "batch",
        "threads",
        "figures",
    )
    quantize.add_argument(
        "--data",
        metavar="CALIB",
        help=".npz or .npy file, or a folder of them; needed unless --qconfig is dynamic or keep",
    )
    quantize.add_argument(
        "--scales",
        metavar="F.scales",
        help="a file of scales in place of calibration data; `qcompiler scales` writes one",
    )
    quantize.add_argument("-o", "--output", required=True, metavar="OUT.qc.safetensors")

    run = add("run", "Run a model once.", "model", "threads", "figures")
    run.add_argument(
        "--input", required=True, metavar="X.npz", help="the inputs of one call, by name; .npy for a single input"
    )
    run.add_argument("-o", "--output", metavar="Y.npz", help="where to write the outputs")

    bench = add("bench", "Time a model.", "model", "threads", "figures")
    bench.add_argument("--input", metavar="X.npz", help="the inputs of one call; by default random ones, from QC_SEED")
    bench.add_argument(
        "--size",
        action="append",
        type=_size,
        default=[],
        metavar="B=1",
        help="the value of a size that may vary (default: 1)",
    )
    bench.add_argument("--seconds", type=_seconds, default=2.0, help="how long to run, about (default: 2)")
    bench.add_argument("--profile", action="store_true", help="also print the time of each step")

    for name, help in (("dump", "Print a model's graph as text."), ("draw", "Draw a model's graph.")):
        command = add(name, help, "model", "qconfig", "batch")
        command.add_argument(
            "--stage",
            choices=[stage for stage in ORDER if stage != "fake_quant"],
            help="the stage to show; by default the model as it is",
        )
        command.add_argument("--data", metavar="CALIB", help="calibration data, for the stages after observed")
        command.add_argument("--target", help="for the stage lowered: native (the default), or a level")
        command.add_argument("-o", "--output", required=name == "draw", metavar="g.svg" if name == "draw" else "g.qir")

    passes = add(
        "passes",
        "Show what each pass does: its nodes and time, or with --texts its diff.",
        "model",
        "qconfig",
        "batch",
        "figures",
    )
    passes.add_argument(
        "--data", metavar="CALIB", help="calibration data; with it the passes after calibration run too"
    )
    passes.add_argument("--texts", action="store_true", help="print the diff of the graph's text")

    compare = add(
        "compare",
        "Compare two models' outputs: SQNR, top-1 agreement, largest difference.",
        "source",
        "batch",
        "threads",
        "figures",
    )
    compare.add_argument("a", metavar="A", help=f"the reference: {_MODEL}")
    compare.add_argument("b", metavar="B")
    compare.add_argument("--data", required=True, metavar="X.npz", help=".npz or .npy file, or a folder of them")

    export = add("export", "Write a model in another form.", "model", "figures")
    export.add_argument(
        "--to",
        required=True,
        metavar="FORM",
        help="onnx, qoperator (ONNX with ops on codes), python (a script for numpy), torch, text, or object: an object "
        "file with a C header",
    )
    export.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="PATH",
        help="the file to write: m.onnx, m.py or m.qir (and m.safetensors), m.pt or m.pt2, m.o (and m.h)",
    )
    export.add_argument(
        "--check",
        metavar="DATA",
        help="run what was written in a process of its own, and compare; .npz or .npy file, or a folder of them",
    )
    objects = export.add_argument_group("objects")
    objects.add_argument("--target", help="native (the default), or a level of any machine, such as x86-64-linux+avx2")
    objects.add_argument("--prefix", metavar="NAME", help="the prefix of the C names; by default the model's name")
    objects.add_argument(
        "--size",
        action="append",
        type=_size,
        metavar="B=1",
        help="the value of a size that may vary, which the object fixes",
    )
    objects.add_argument(
        "--io", choices=["float", "quantized"], help="with quantized, inputs and outputs are codes (default: float)"
    )

    scales = add(
        "scales", "Calibrate, and write the scale of each value as text.", "model", "qconfig", "batch", "figures"
    )
    scales.add_argument("--data", required=True, metavar="CALIB", help=".npz or .npy file, or a folder of them")
    scales.add_argument("--threads", type=_positive, metavar="N", help="the most threads to use")
    scales.add_argument("-o", "--output", required=True, metavar="F.scales")

    diff = add("diff", "Show which values differ in two files of scales.", "figures")
    diff.add_argument("a", metavar="OLD.scales")
    diff.add_argument("b", metavar="NEW.scales")

    add("targets", "List the targets and say which run here.", "figures")
    return parser


def _check_source(options: argparse.Namespace) -> None:
    """Refuse the options of Python models where no model is one."""
    from qcompiler.cli.inputs import is_file

    models = [getattr(options, name) for name in ("model", "a", "b") if hasattr(options, name)]
    for name in ("python", "type"):
        if getattr(options, name, None) and all(map(is_file, models)):
            raise QCompilerError(
                f"--{name} is for Python models",
                got=", ".join(models),
                expected="package.module:name",
                hint=f"no --{name}",
            )


def refuse_unused(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raise QCompilerError if one of the options is given, which this use of the command has no use for."""
    given = [name for name in names if getattr(options, name) is not None]
    if given:
        raise QCompilerError(f"--{given[0]} has no effect: {why}", hint=f"leave --{given[0]} out")


def _show(error: Exception, message: str) -> None:
    """Print one message; with QC_DEBUG the traceback before it."""
    try:
        debug = knobs.DEBUG.get()
    except QCompilerError:  # QC_DEBUG itself is what is wrong, and `message` says so
        debug = 0
    if debug:
        traceback.print_exception(error)
    print(f"qcompiler: {message}", file=sys.stderr)


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """Log warnings to stderr and, with QC_DEBUG, the passes too."""
    logger = logging.getLogger("qcompiler")
    level, handler = logger.level, logging.StreamHandler()
    handler.setFormatter(logging.Formatter("qcompiler: %(levelname)s: %(message)s"))
    logger.setLevel(logging.INFO if knobs.DEBUG.get() else logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Wrong usage raises SystemExit(2), as argparse does."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command == "bench":
        options.size = dict(options.size)
    try:
        with _logging():
            _check_source(options)
            if getattr(options, "imports", None):
                from qcompiler.cli.extensions import import_extensions

                import_extensions(options.imports)
            module = importlib.import_module(f"qcompiler.cli.{_MODULES[options.command]}")
            getattr(module, options.command)(options)
            sys.stdout.flush()
    except QCompilerError as error:
        _show(error, f"error: {error}")
        return 1
    except KeyboardInterrupt:
        print("qcompiler: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the reader of our output has gone: there is nothing to say
        return 1
    except Exception as error:  # a mistake of ours or of the user's Python model
        _show(error, f"internal error: {type(error).__name__}: {error} (QC_DEBUG=1 shows where)")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
