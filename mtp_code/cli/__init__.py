"""mtp-code: the one place where training, decoding, judging and containment meet.

A module of commands a topic, imported when one of its commands is asked for; a command is a short
function that imports what it needs, since importing torch takes seconds and judging needs none of
it.
"""

import errno
import importlib
import os
import sys
import time
import traceback
from importlib.metadata import version
from typing import Annotated, Any, Final

import typer

import evals.errors
import mtp_code.errors
from mtp_code.cli.show import in_a_line, log_to_stderr
from mtp_code.cli.status import BAD_INPUT, BUG, GO_ON_LATER, INTERRUPTED, MACHINE_LACKS
from sandbox import SandboxUnavailable

_TOPICS: Final = {
    "training": ("prepare", "train", "memory"),
    "sampling": ("peek", "sample", "reference-bits"),
    "serving": ("serve",),
    "judging": ("micro", "judge", "references", "score", "sweep", "probe"),
    "evaluating": ("evaluate", "report"),
    "gating": ("baseline", "gate"),
    "interop": ("export", "import", "add-heads"),
    "benches": ("bench",),
}
"""Modules of this package, and the commands that each has."""

_UsageError: Final[Any] = typer.BadParameter.__base__
"""What typer raises for a wrong call, of which it names the heirs alone."""


def make_app(asked: str | None = None) -> typer.Typer:
    """All commands; or those of one module, where what is asked for is among them."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # it would take "[default: …]" in a help text for markup
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Multi-token prediction for code: train, sample, judge in a sandbox, decode faster.",
    )

    @app.callback()
    def options(
        version: Annotated[
            bool,
            typer.Option(
                "--version", is_eager=True, callback=_show_version, help="Show it and exit."
            ),
        ] = False,
    ) -> None:
        pass

    wanted = [name for name, commands in _TOPICS.items() if asked in commands]
    for name in wanted or _TOPICS:
        app.add_typer(importlib.import_module(f"{__name__}.{name}").commands)
    return app


def main() -> None:
    """Exit status: 0 done, 2 bad input, 3 the machine lacks something, 70 our bug, 75 training
    ended as it was asked to, to be gone on with by the same command (`EX_TEMPFAIL`), 130 Ctrl-C.

    The gate has more: see `gate check`.
    """
    log_to_stderr()
    try:
        # The status of a command that says one, 130 of one that Ctrl-C ended.
        sys.exit(make_app(*sys.argv[1:2])(standalone_mode=False, prog_name="mtp-code"))
    except _UsageError as error:
        _fail_usage(error)
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except (evals.errors.InputError, mtp_code.errors.InputError) as error:
        _fail(str(error), BAD_INPUT)
    except (
        evals.errors.MachineError,
        evals.errors.IncomparableError,
        mtp_code.errors.MachineError,
        SandboxUnavailable,
    ) as error:
        _fail(str(error), MACHINE_LACKS)
    except mtp_code.errors.AskedToEnd as end:
        if os.environ.get("RANK", "0") == "0":
            typer.echo(f"mtp-code: {end}", err=True)
        sys.exit(GO_ON_LATER)
    except mtp_code.errors.PeerError:
        # torchrun ends all once the first one has: let the one that failed say why.
        time.sleep(1)
        sys.exit(BAD_INPUT)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = error.filename or "disk"
            _fail(f"{where}: full; what was finished is kept: make room, go on", MACHINE_LACKS)
        if error.filename is None:
            _tell_bug()
        _fail(f"{error.filename}: {error.strerror}", BAD_INPUT)
    except Exception:  # noqa: BLE001 - told whole
        _tell_bug()


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"mtp-code {version('mtp-code')}")
        raise typer.Exit


def _fail_usage(error: Any) -> None:
    """A wrong call in one line, as any other bad input."""
    message = error.format_message()
    if message.startswith("Usage:"):  # no arguments: the help itself
        typer.echo(message, err=True)
        sys.exit(BAD_INPUT)
    command = error.ctx.command_path if error.ctx else "mtp-code"
    if hasattr(error, "possibilities") and hasattr(error, "option_name"):
        known = [given for each in error.ctx.command.params for given in each.opts]
        asked = error.option_name
        what = f"no option {asked}{mtp_code.errors.did_you_mean(asked, known)}"
    else:
        what = message.replace(" Value error,", "").replace(": Input", ": input").rstrip(".")
        what = what[:1].lower() + what[1:].replace(". Did you", "; did you")
        what += "" if what.endswith("?") else f"; see {command} --help"
    where = command.removeprefix("mtp-code").strip()
    _fail(f"{where}: {what}" if where else what, BAD_INPUT)


def _fail(message: str, status: int) -> None:
    typer.echo(f"mtp-code: {in_a_line(message)}", err=True)
    sys.exit(status)


def _tell_bug() -> None:
    # Not Python's own exit status for an exception, 1: that would read as a regression.
    traceback.print_exc()
    sys.exit(BUG)
