"""`pluginctl`: finds the command by its name, and is the one place where a failure becomes an exit status.

0 done; 1 some mounts failed; 2 wrong usage, or refused; 3 the daemon was not reachable.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Final

import click

from supervisor.cli import commands
from supervisor.cli.render import visible_lines
from supervisor.cli.session import shared_options

INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141
DEFAULT: Final = "status"


class _ReaderGone(Exception):
    """The reader of the output went away. click would make that exit status 1: some mounts failed."""


class Commands(click.Group):
    """Each command is a module of supervisor.cli.commands and is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        from pkgutil import iter_modules  # noqa: PLC0415 - only for help and mistakes

        return sorted(found.name.replace("_", "-") for found in iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        name = cmd_name.replace("-", "_")
        if (
            not name.isidentifier()
            or name.startswith("_")
            or find_spec(f"{commands.__name__}.{name}") is None
        ):
            return None
        found = import_module(f"{commands.__name__}.{name}").command
        return found if isinstance(found, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            from difflib import get_close_matches  # noqa: PLC0415 - only for mistakes

            near = get_close_matches(name, self.list_commands(ctx))
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {' or '.join(near)}?" if near else ""))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGone from error


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 some mounts failed, 2 wrong usage or refused, 3 daemon not reachable.",
)
@click.version_option(package_name="plugind", prog_name="pluginctl", message="%(prog)s %(version)s")
@shared_options
@click.pass_context
def pluginctl(context: click.Context) -> int:
    """Ask and tell plugind, the supervisor of plugin processes. Without a command: status."""
    if context.invoked_subcommand is not None:
        return 0
    command = pluginctl.get_command(context, DEFAULT)
    if command is None:
        raise click.UsageError(f"the command {DEFAULT} is missing: pluginctl is not installed whole")
    with command.make_context(DEFAULT, [], parent=context) as inner:
        return int(command.invoke(inner))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status; nothing is raised."""
    _prepare_output()
    try:
        status = pluginctl.main(
            arguments if arguments is None else list(arguments), prog_name="pluginctl", standalone_mode=False
        )
        sys.stdout.flush()
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        _complain(error.format_message())
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except (BrokenPipeError, _ReaderGone):
        _give_up_output()
        return PIPE_CLOSED
    except OSError as error:
        # the daemon's errors have become NotReachable: this one is of the output
        _give_up_output()
        _complain(f"cannot write the output: {error.strerror or error}")
        return 2
    return status if isinstance(status, int) else 0


def _prepare_output() -> None:
    """A closed output is like /dev/null, and no character is one too many for it."""
    if sys.stdout is None:  # `>&-`
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - until the end
    if sys.stderr is None:  # `2>&-`
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - until the end
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _give_up_output() -> None:
    """What is still buffered goes nowhere: the interpreter would complain about it at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - until the end


def _complain(message: str) -> None:
    sys.stderr.write(f"pluginctl: {visible_lines(message)}\n")


if __name__ == "__main__":
    sys.exit(main())
