"""`gpuid parse`: the output of nvidia-smi as JSON."""

import sys
from contextlib import nullcontext
from pathlib import Path

import click

from collector.cli.console import encode_json, print_json
from collector.cli.options import CommandError
from collector.collect.nvidia_smi import MAX_OUTPUT_BYTES, BadOutputError
from collector.collect.nvidia_smi import parse as parse_output
from collector.text import describe_os_error

__all__ = ["parse"]


@click.command()
@click.argument("file", default="-", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--compact", is_flag=True, help="Print everything on one line.")
def parse(file: Path, compact: bool) -> None:
    r"""Convert the output of `nvidia-smi -q -x` in FILE (default: standard input) to JSON.

    Shows exactly what gpuid reads from a node. Unknown values ("N/A", "Unknown Error", all zeros) are null.
    Exit code 1 if the input is not such output.

    \b
    Examples:
      nvidia-smi -q -x | gpuid parse
      kubectl exec -n gpu-operator POD -- nvidia-smi -q -x | gpuid parse --compact
      gpuid parse h100.xml | jq -r '.gpus[].serial'
    """
    name = "standard input" if str(file) == "-" else str(file)
    try:
        with nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb") as stream:
            output = stream.read(MAX_OUTPUT_BYTES + 1)
        if len(output) > MAX_OUTPUT_BYTES:
            raise BadOutputError(f"more than {MAX_OUTPUT_BYTES >> 20} MiB, which nvidia-smi never prints")
        log = parse_output(output)
    except OSError as error:
        raise CommandError(f"{name}: {describe_os_error(error, 'cannot be read')}") from error
    except BadOutputError as error:
        raise CommandError(f"{name}: {error}") from error
    if compact:
        click.echo(encode_json(log))
    else:
        print_json(log)
