"""The `gpuid` command: its subcommands, each imported only when it is used, and how errors end."""

import errno
import gc
import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.shell_completion import CompletionItem

from collector import __version__
from collector.shortage import SHORTAGE_EXIT_CODE, why_short
from collector.text import describe_os_error, one_line

if TYPE_CHECKING:
    from collector.model import GpuidError

__all__ = ["gpuid", "main"]

# In the order a newcomer needs them: name -> its module and function, and its one-line help.
_COMMANDS = {
    "demo": ("collector.cli.demo:demo", "Run a simulated fleet and a collector on this machine."),
    "init": ("collector.cli.init:init", "Write a configuration from the contexts of your kubeconfig."),
    "check": ("collector.cli.check:check", "Check every cluster, the store and every sink."),
    "config": ("collector.cli.config:config", "Print the effective configuration, defaults included, as TOML."),
    "grant": ("collector.cli.grant:grant", "Grant a collector minimal rights in its clusters, with tokens."),
    "run": ("collector.cli.run:run", "Collect from all clusters and serve metrics, API and page."),
    "status": ("collector.cli.status:status", "List the problems of a running collector; exit code 1 if any."),
    "ls": ("collector.cli.ls:ls", "List the GPUs of a running collector, or find one."),
    "nodes": ("collector.cli.nodes:nodes", "List the GPU nodes of a running collector."),
    "clusters": ("collector.cli.clusters:clusters", "List the clusters of a running collector."),
    "top": ("collector.cli.top:top", "Show a running collector's clusters and the latest changes, live."),
    "where": ("collector.cli.where:where", "Show where a GPU is, and everywhere it has been."),
    "diff": ("collector.cli.diff:diff", "List the GPUs that appeared, moved, vanished or were altered."),
    "history": ("collector.cli.history:history", "List the current and former GPUs of a node."),
    "export": ("collector.cli.export:export", "Write the inventory as CSV, JSON Lines or Parquet."),
    "mark": ("collector.cli.mark:mark", "Mark GPUs as rma, quarantine or watch, by serial or UUID."),
    "unmark": ("collector.cli.mark:unmark", "Remove the marks of GPUs."),
    "marks": ("collector.cli.mark:marks", "List the marks of GPUs."),
    "outbox": ("collector.cli.outbox:outbox", "Show sink backlogs and dead letters; replay or drop them."),
    "store": ("collector.cli.store:store", "Back up the store, or take it back to an older gpuid."),
    "print": ("collector.cli.print:print_", "Print rules, PromQL recipes, runbook and Grafana dashboards."),
    "health": ("collector.cli.health:health", "Exit with 0 if a collector responds, for health checks."),
    "parse": ("collector.cli.parse:parse", "Convert the output of nvidia-smi -q -x to JSON."),
    "simulate": ("collector.cli.simulate:simulate", "Run only simulated Kubernetes API servers, for any client."),
}

_C = TypeVar("_C", bound=click.Command)

_COMPLETE_VARIABLE = "_GPUID_COMPLETE"  # click's own, which the completion scripts set
_SIGINT_EXIT_CODE = 130
_SIGPIPE_EXIT_CODE = 141
_OUTPUT_ERRORS = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class _Commands(click.Group):
    """A group that imports commands on demand and prints every failure as one line on stderr."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of the commands in the order of the help."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return one command."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        if not gc.isenabled():  # `collector.__main__` has disabled it
            gc.freeze()
            gc.enable()
        return _unwrapped(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command; for an unknown name, suggest the closest one."""
        if args[0] not in _COMMANDS and not args[0].startswith("-"):
            from collector.cli.suggestions import unknown_name

            ctx.fail(unknown_name("command", args[0], _COMMANDS))
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
        """Run a command and flush its output."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:  # here, because click would exit with its own code
            _end_without_output([error])
        return result

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line and exit; every error that is not a bug is one line."""
        try:
            result = super().main(*args, **kwargs | {"standalone_mode": False})
        except click.Abort:
            sys.exit(_SIGINT_EXIT_CODE)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.UsageError as error:
            _end(_usage(error), error.exit_code)
        except click.ClickException as error:
            _end(error.format_message(), error.exit_code)
        except UnicodeEncodeError:
            if any(not _is_text(argument) for argument in sys.argv):
                _end("expected arguments in UTF-8", 2)
            raise
        except (Exception, BaseExceptionGroup) as error:
            _end_if_expected(error)
            raise
        sys.exit(result if isinstance(result, int) else 0)


def _unwrapped(command: _C) -> _C:
    # Our docstrings are raw: click keeps the line breaks of a paragraph that follows the character `\b` stands for.
    command.help = (command.help or "").replace(r"\b", "\b")
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            _unwrapped(subcommand)
    return command


def _end(message: str, code: int) -> NoReturn:
    click.echo(f"gpuid: {one_line(message)}", err=True)
    sys.exit(code)


def _end_if_expected(error: BaseException) -> None:
    """Exit with one line unless the error is a bug."""
    from collector.model import GpuidError  # not needed for the version or the help

    leaves = list(_leaves(error))
    if any(isinstance(leaf, OSError) and leaf.errno in _OUTPUT_ERRORS for leaf in leaves):
        _end_without_output(leaves)
    ours = [leaf for leaf in leaves if isinstance(leaf, GpuidError)]
    if len(ours) == len(leaves):
        _end_on(ours[0])


def _end_on(error: "GpuidError") -> NoReturn:
    message, why = str(error), why_short(error)
    if why is None:
        _end(message, 2)
    _end(message if why in message else f"{message}: {why}", SHORTAGE_EXIT_CODE)


def _end_without_output(leaves: Iterable[BaseException]) -> NoReturn:
    """Exit as SIGPIPE would if the reader closed the pipe, else with one line about standard output."""
    # Otherwise, what is still buffered would fail again when Python exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    error = next(leaf for leaf in leaves if isinstance(leaf, OSError) and leaf.errno in _OUTPUT_ERRORS)
    if error.errno == errno.EPIPE:
        sys.exit(_SIGPIPE_EXIT_CODE)
    _end(f"standard output: {describe_os_error(error, 'cannot be written')}", 2)


def _usage(error: click.UsageError) -> str:
    """Return the usage error and the help that explains it."""
    path = error.ctx.command_path if error.ctx is not None else "gpuid"
    command = path.partition(" ")[2]
    message = error.format_message().rstrip(".")
    return f"{command}: {message}; see `{path} --help`" if command else f"{message}; see `{path} --help`"


def _is_text(argument: str) -> bool:
    """Return whether an argument is UTF-8: Python keeps other bytes as lone surrogates."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


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
    r"""Know where every physical NVIDIA GPU in all your Kubernetes clusters is.

    gpuid uses your kubeconfig contexts, runs nvidia-smi on every GPU node, watches pods and nodes for
    changes, and serves one inventory of all clusters: Prometheus series, a JSON API and a page.

    \b
    Try it without a cluster:
      gpuid demo                        then open http://127.0.0.1:8080
      gpuid ls                          in a second terminal
    \b
    On your clusters:
      gpuid init                        writes ./gpuid.toml from ~/.kube/config
      gpuid grant --all --apply         grants a collector its rights in them
      gpuid check                       checks clusters, store and sinks
      gpuid run                         collects and serves, until Ctrl-C
    \b
    Ask a running collector:
      gpuid status                      what is wrong, worst first
      gpuid ls --degraded               which GPUs need a reset or replacement
      gpuid ls --cluster prod -o csv    all GPUs of one cluster
      gpuid ls 1652922001234            where is this serial, UUID, chassis or node?
      gpuid nodes --sort -lost          its GPU nodes, most lost GPUs first
      gpuid clusters                    its clusters and their totals
      gpuid top                         its clusters and the latest changes, live
      gpuid where 1652922001234         where it is, and everywhere it has been
      gpuid export -f gpus.csv          the whole inventory
      gpuid health                      exit code 0 if it responds
    \b
    Without a collector:
      nvidia-smi -q -x | gpuid parse    what gpuid reads from one node
      gpuid simulate                    API servers for kubectl or any other client
    \b
    Completion of commands and options in your shell (bash; zsh and fish likewise):
      eval "$(_GPUID_COMPLETE=bash_source gpuid)"
    """


def _open_closed_streams() -> None:
    """Open /dev/null for streams that the parent process closed (`>&-`), which Python sets to None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  as long as the process


def main() -> None:
    """Run the command line."""
    _open_closed_streams()
    if _COMPLETE_VARIABLE in os.environ:
        importlib.import_module("collector.cli.bash")  # completes bash's words as the user sees them
    gpuid(prog_name="gpuid")
