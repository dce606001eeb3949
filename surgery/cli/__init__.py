"""The command `surgery`. Data goes to stdout; progress and errors go to stderr.

Exit codes: 0 ok, 1 a difference was found, 2 usage, 3 an input is unreadable or
unsafe, 4 the plan does not fit, 5 writing failed, 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from surgery.cli import edit, look, recipes

UNREADABLE, UNFIT, UNWRITTEN, INTERRUPTED, BROKEN = 3, 4, 5, 130, 70


class _Group(click.Group):
    """Lists its commands in the order in which they are used, not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="model-surgery", prog_name="surgery")
def surgery() -> None:
    """Look at, compare and convert model checkpoints, as one checked plan.

    \b
    Examples:
      surgery ls model.safetensors
      surgery diff old.safetensors new.safetensors
      surgery convert bert-base/ bert.msgpack --recipe hf/bert
      surgery convert bert.msgpack back/ --recipe hf/bert --reverse
    """


for _command in (*look.COMMANDS, *edit.COMMANDS, recipes.recipe):
    surgery.add_command(_command)


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command and leave with its exit code."""
    try:
        code = surgery.main(args=args, prog_name="surgery", standalone_mode=False)
        _leave(int(code or 0))
    except click.exceptions.Abort:
        _leave(INTERRUPTED, "interrupted")
    except KeyboardInterrupt:
        _leave(INTERRUPTED, "interrupted")
    except click.ClickException as error:
        error.show()
        _leave(error.exit_code)
    except BrokenPipeError:  # `surgery ls big.safetensors | head`
        sys.stderr.close()
        _leave(0)
    except Exception as error:
        _leave(*_explained(error))


def _explained(error: Exception) -> tuple[int, str]:
    """Return the exit code and the message of an error that a command let through."""
    from surgery import AdapterError, FileError, SurgeryError

    if isinstance(error, FileError):
        return (UNWRITTEN if error.verb == "save" else UNREADABLE), f"error: {error}"
    if isinstance(error, AdapterError):
        return UNREADABLE, f"error: {error}"
    if isinstance(error, SurgeryError):
        return UNFIT, f"error: {error}"
    if isinstance(error, MemoryError):
        return UNWRITTEN, "error: there is not enough memory"
    import traceback

    return (
        BROKEN,
        f"{''.join(traceback.format_exception(error))}\nerror: this should not have happened: please report it",
    )


def _leave(code: int, message: str | None = None) -> NoReturn:
    if message:
        click.echo(message, err=True)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    raise SystemExit(code)


__all__: list[Any] = ["main", "surgery"]
