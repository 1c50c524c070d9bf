"""The `gpuid` command: its subcommands by name, each imported only when it is used, and how every error ends."""

import errno
import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

import click
from click.shell_completion import CompletionItem

from collector import __version__
from collector.model import GpuidError
from collector.text import one_line

__all__ = ["gpuid", "main"]

# In the order in which a newcomer needs them: name -> where it is, and its help in one line.
_COMMANDS = {
    "demo": ("collector.cli.demo:demo", "See it work: a simulated fleet and a collector, on this machine."),
    "init": ("collector.cli.init:init", "Write a configuration from the contexts of your kubeconfig."),
    "check": ("collector.cli.check:check", "Try every cluster, the store and every sink."),
    "run": ("collector.cli.run:run", "Collect from all clusters and serve metrics, API and page."),
    "ls": ("collector.cli.ls:ls", "List the GPUs of a running collector, or find one."),
    "top": ("collector.cli.top:top", "Watch a running collector's clusters and the latest changes."),
    "where": ("collector.cli.where:where", "Tell where a GPU is, and every place it was."),
    "diff": ("collector.cli.diff:diff", "List what appeared, moved, vanished and altered."),
    "history": ("collector.cli.history:history", "List what sits and sat in a node."),
    "export": ("collector.cli.export:export", "Write the inventory as CSV, JSON Lines or Parquet."),
    "outbox": ("collector.cli.outbox:outbox", "Show what the sinks are owed; send refused batches again."),
    "health": ("collector.cli.health:health", "Exit 0 when a collector answers, for health checks."),
    "parse": ("collector.cli.parse:parse", "Turn the output of nvidia-smi -q -x into JSON."),
    "simulate": ("collector.cli.simulate:simulate", "Simulated Kubernetes API servers alone, for any client."),
}

_C = TypeVar("_C", bound=click.Command)

_SIGINT_EXIT = 130
_SIGPIPE_EXIT = 141
_OUTPUT_ERRORS = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class _Commands(click.Group):
    """A group that imports a command when it is used, and whose every failure is one line on stderr."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Name the commands in the order of the help."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return _unwrapped(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command when there is none of that name."""
        if args[0] not in _COMMANDS and not args[0].startswith("-"):
            nearest = get_close_matches(args[0], _COMMANDS, n=1)
            ctx.fail(f'no command "{args[0]}"' + (f'; did you mean "{nearest[0]}"?' if nearest else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the commands' names without importing them."""
        options = click.Command.shell_complete(self, ctx, incomplete)
        names = [
            CompletionItem(name, help=text) for name, (_, text) in _COMMANDS.items() if name.startswith(incomplete)
        ]
        return names + options

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, all of whose output is written by then."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:  # here, because click would end it in its own way
            _end_without_output([error])
        return result

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line and exit; every error that is not ours to fix is one line."""
        try:
            result = super().main(*args, **kwargs | {"standalone_mode": False})
        except click.Abort:
            sys.exit(_SIGINT_EXIT)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.UsageError as error:
            _end(_usage(error), error.exit_code)
        except click.ClickException as error:
            _end(error.format_message(), error.exit_code)
        except (GpuidError, OSError, BaseExceptionGroup) as error:
            leaves = list(_leaves(error))
            if any(isinstance(leaf, OSError) and leaf.errno in _OUTPUT_ERRORS for leaf in leaves):
                _end_without_output(leaves)
            ours = [leaf for leaf in leaves if isinstance(leaf, GpuidError)]
            if len(ours) < len(leaves):
                raise
            _end(str(ours[0]), 2)
        sys.exit(result if isinstance(result, int) else 0)


def _unwrapped(command: _C) -> _C:
    # Our docstrings are raw: they have the escape that keeps a paragraph's lines apart, and click wants the character.
    command.help = (command.help or "").replace(r"\b", "\b")
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            _unwrapped(subcommand)
    return command


def _end(message: str, code: int) -> NoReturn:
    click.echo(f"gpuid: {one_line(message)}", err=True)
    sys.exit(code)


def _end_without_output(leaves: Iterable[BaseException]) -> NoReturn:
    """End as SIGPIPE would when the reader went away, else in one line: all else that is written is handled at once."""
    # What is still buffered would fail once more when Python exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    error = next(leaf for leaf in leaves if isinstance(leaf, OSError) and leaf.errno in _OUTPUT_ERRORS)
    if error.errno == errno.EPIPE:
        sys.exit(_SIGPIPE_EXIT)
    _end(f"standard output: {error.strerror}", 1)


def _usage(error: click.UsageError) -> str:
    """Say what was used wrongly and where it is explained."""
    path = error.ctx.command_path if error.ctx is not None else "gpuid"
    command = path.partition(" ")[2]
    message = error.format_message().rstrip(".")
    return f"{command}: {message}; see `{path} --help`" if command else f"{message}; see `{path} --help`"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


@_unwrapped
@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", message="gpuid %(version)s", help="Print the version.")
def gpuid() -> None:
    r"""Know where every physical NVIDIA GPU of many Kubernetes clusters is.

    gpuid reads the kubeconfig contexts that you have, asks nvidia-smi on every GPU node, follows pods and
    nodes as they change, and serves one true inventory: Prometheus series, a JSON API and a page.

    \b
    See it work, without any cluster:
      gpuid demo                        then open http://127.0.0.1:8080
      gpuid ls                          in a second terminal
    \b
    On your clusters:
      gpuid init                        writes ./gpuid.toml from ~/.kube/config
      gpuid check                       tries clusters, store and sinks: what is missing?
      gpuid run                         collects and serves, until Ctrl-C
    \b
    Ask a running collector:
      gpuid ls --cluster prod -o csv    all GPUs of one cluster
      gpuid ls 1652922001234            where is this serial, UUID, chassis or node?
      gpuid top                         its clusters and the latest changes, live
      gpuid where 1652922001234         where it is, and every place it was
      gpuid export --format csv         the whole inventory
      gpuid health                      exit 0 when it answers
    \b
    Without a collector:
      nvidia-smi -q -x | gpuid parse    what gpuid reads from one node
      gpuid simulate                    API servers to try kubectl or any client on
    \b
    Completion of commands and options in your shell (bash; zsh and fish likewise):
      eval "$(_GPUID_COMPLETE=bash_source gpuid)"
    """


def main() -> None:
    """Run the command line."""
    gpuid(prog_name="gpuid")
