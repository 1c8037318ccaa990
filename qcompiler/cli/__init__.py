"""The command line: `qcompiler COMMAND` or `python -m qcompiler COMMAND`."""

from qcompiler.cli.arguments import main

__all__ = ["main"]
