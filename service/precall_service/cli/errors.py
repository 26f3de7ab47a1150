"""Turns every failure of a command into one clear message and an exit code.

Owns: the exit codes, and the message that a user reads instead of a traceback.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, cast

import typer

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
"""What shells report for a program ended by Ctrl-C."""

log = logging.getLogger(__name__)


class CommandError(Exception):
    """A command cannot do what it was asked to do; the message says why and what to do about it."""

    def __init__(self, message: str, *, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def reported() -> Generator[None]:
    """Ends the command with a message on stderr and an exit code when the block fails.

    Raises:
        typer.Exit: the block failed, or raised it.
    """
    try:
        yield
    except (typer.Exit, typer.Abort, typer.TyperException):
        raise
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of our output is gone, as with `| head`; flushing at exit would fail as well.
        sys.stdout = None
        raise typer.Exit(EXIT_FAILED) from None
    except Exception as error:  # the last place before a traceback
        failure = _innermost(error)
        log.debug("the command failed", exc_info=failure)
        typer.echo(f"precall: {describe(failure)}", err=True)
        raise typer.Exit(getattr(failure, "exit_code", EXIT_FAILED)) from None


def describe(error: Exception) -> str:
    """Returns the message that the user reads for an error."""
    # Imported here: a command that can raise these errors has loaded the modules already.
    from precall import PrecallError
    from precall_service.cache.redis.connection import StoreUrlError
    from precall_service.engine.base import EngineStartError
    from precall_service.engine.model_files import ModelError
    from precall_service.transport.server import AddressInUseError

    match error:
        case PrecallError():
            return error.message
        case (
            CommandError()
            | AddressInUseError()
            | EngineStartError()
            | ModelError()
            | StoreUrlError()
        ):
            return str(error)
        case OSError():
            return f"{error.filename}: {error.strerror}" if error.filename else str(error)
        case _:
            return (
                f"stopped by a defect of precall: {type(error).__name__}: {error}\n"
                "--log-level debug shows where. Please report it with the command that you ran."
            )


def _innermost(error: Exception) -> Exception:
    """Returns the error inside a group that holds only one."""
    match error:
        case ExceptionGroup(exceptions=[member]):
            return _innermost(cast("Exception", member))
        case _:
            return error
