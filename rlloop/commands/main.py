"""The `rlloop` command. A verb is a module of this package with a function `run`; its file name is the verb.

A verb with verbs of its own has a typer `app` instead.
"""

from __future__ import annotations

import functools
import importlib
import math
import pkgutil
import sys
from collections.abc import Mapping
from typing import Any

import typer

import rlloop.commands

app = typer.Typer(
    name="rlloop",
    help="Tools around the loop. The loop itself is `python -m rlloop.main`.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _verbs() -> None:
    # With a callback, a single verb stays a verb.
    pass


def one_line_errors(verb):
    """Turns a mistake of the user into one line on standard error and exit status 2; keeps the signature for typer.

    That is a ValueError, or what the system says of a file: missing, a folder, not ours to write, no space.
    """

    @functools.wraps(verb)
    def wrapped(*args, **kwargs):
        try:
            refuse_not_finite(kwargs)
            return verb(*args, **kwargs)
        except ValueError as error:
            message = str(error)
        except BrokenPipeError:  # the reader of our output has seen enough; typer ends quietly
            raise
        except OSError as error:
            said = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
            message = " ".join(said.split()) or type(error).__name__
        print(f"rlloop: {message}", file=sys.stderr)
        raise typer.Exit(2) from None

    return wrapped


def refuse_not_finite(options: Mapping[str, Any]) -> None:
    """An option with a lower bound alone takes infinity, one without bounds nan as well.

    Raises:
        ValueError: names the option.
    """
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected a finite number")


for _, name, _ in pkgutil.iter_modules(rlloop.commands.__path__):
    if name == "main":
        continue
    verb = importlib.import_module(f"rlloop.commands.{name}")
    if hasattr(verb, "app"):
        for command in verb.app.registered_commands:
            command.callback = one_line_errors(command.callback)
        app.add_typer(verb.app, name=name.replace("_", "-"))
    else:
        app.command(name.replace("_", "-"))(one_line_errors(verb.run))


if __name__ == "__main__":
    app()
