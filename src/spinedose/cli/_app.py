"""The application that all commands belong to: how errors are told, exit codes, and the entry point."""

from __future__ import annotations

import functools
import json
import re
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from spinedose._version import __version__
from spinedose.errors import SpinedoseError

NOT_CLINICAL = "Not for clinical use without local commissioning."


INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""


FAILED = 70
"""Exit code after an error that nobody foresaw: EX_SOFTWARE of sysexits.h. 1 would read as a verdict."""


class _Commands(TyperGroup):
    """The commands; wrong arguments are told in one line, as all other errors are."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run, and end the process where typer would."""
        ends_process = options.pop("standalone_mode", True)
        options["standalone_mode"] = False
        try:
            code = super().main(*args, **options)
        except Exception as error:
            if not ends_process:
                raise
            message = error.format_message() if hasattr(error, "format_message") else ""
            if isinstance(error, typer.Abort):
                sys.exit(INTERRUPTED)
            if not message:
                tell_unexpected(error)
                sys.exit(FAILED)
            if "\n" in message and hasattr(error, "show"):  # the help, where nothing was asked
                error.show()
            else:
                typer.echo(_usage_error(message, getattr(error, "ctx", None)), err=True)
            code = 2
        if ends_process:
            sys.exit(code or 0)
        return code


def tell_unexpected(error: Exception) -> None:
    """The traceback of an error that nobody foresaw, and after it a line that says what to do with it."""
    traceback.print_exception(error)
    what = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
    typer.echo(
        f"spinedose {__version__} failed unexpectedly ({what}). This is an error in spinedose: please report "
        "it, with the lines above.",
        err=True,
    )


def _usage_error(message: str, context: Any) -> str:
    """PROBLEM (WHY) WHAT TO DO from typer's `Invalid value for '--bolus': Value error, 'x' is not one of 'a', 'b'.`"""
    message = message.replace("Value error, ", "").removesuffix(".")
    message = re.sub(r"^(Invalid value for .+?): (.+)$", r"\1 (\2)", message)
    end = "" if message.endswith("?") else "."
    return f"{message}{end} See '{context.command_path if context else 'spinedose'} --help'."


app = typer.Typer(
    cls=_Commands,
    help=f"Independent photon dose from a DICOM plan and CT. {NOT_CLINICAL}",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the `spinedose` command."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


REFUSAL_VERSION = 1
"""Version of the JSON of a refusal."""


def plain_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors that a user can mend into one line on stderr and exit code 2, and Ctrl-C into 130.

    Where JSON was asked for on standard output, the refusal stands there, too (docs/formats/check.md).
    """

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except SpinedoseError as error:
            typer.echo(error.spelled_with(as_option(error.argument)), err=True)
            if options.get("json") == "-":
                typer.echo(refusal(error))
            raise typer.Exit(2) from None
        except OSError as error:
            place = f" '{error.filename}'" if error.filename else ""
            typer.echo(
                f"A file{place} cannot be used ({error.strerror or error}). Check the path, its rights and the disk.",
                err=True,
            )
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("Interrupted; no file is half written.", err=True)
            raise typer.Exit(INTERRUPTED) from None

    return run


def refusal(error: SpinedoseError) -> str:
    """An error as JSON, for programs."""
    advice = f"{error.advice} with {as_option(error.argument)}" if error.argument else error.advice
    parts = {"kind": type(error).__name__, "problem": error.problem, "why": error.why, "advice": advice}
    return json.dumps({"schema_version": REFUSAL_VERSION, "error": parts}, indent=2, ensure_ascii=False)


def as_option(argument: str) -> str:
    """The option of a Python argument: `--bolus ignore` of `bolus="ignore"`, `--per-beam` of `per_beam=True`."""
    name, _, value = argument.partition("=")
    option = f"--{name.replace('_', '-')}" if name else ""
    return option if value in ("", "True") else f"{option} {value.strip(chr(34))}"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spinedose {__version__}")
        raise typer.Exit


@app.callback()
def spinedose(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Independent photon dose from a DICOM plan and CT. Not for clinical use without local commissioning."""
