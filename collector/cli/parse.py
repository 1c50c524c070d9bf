"""`gpuid parse`: converts the output of nvidia-smi to JSON."""

import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import msgspec

from collector.cli.console import encode_json, print_json
from collector.cli.errors import CommandError
from collector.collect.nvidia_smi import MAX_OUTPUT_BYTES, BadOutputError, Report
from collector.collect.nvidia_smi import parse as parse_output
from collector.model import GpuidError
from collector.text import describe_os_error, escaped

__all__ = ["parse"]

_OF_SEVERAL_OUTPUTS = frozenset({"last_known", "ecc_growth"})  # fields that a single output cannot have


@click.command()
@click.argument("file", default="-", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--compact", is_flag=True, help="Print everything on one line.")
def parse(file: Path, compact: bool) -> None:
    r"""Convert the output of `nvidia-smi -q -x` in FILE (default: standard input) to JSON.

    Shows exactly what gpuid reads from a node. Unknown values ("N/A", "Unknown Error", all zeros) are null.
    GPUs that do not respond are listed as `lost`, and vGPUs are marked `virtual`; `health` has a GPU's wear and
    faults. Repairs to broken input are reported on standard error. Exit code 1, with the tool's own message, if
    the input is not such output; 2 if the file cannot be read.

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
        warnings: list[str] = []
        report = _with_boards(parse_output(output, warnings))
    except OSError as error:
        raise GpuidError(f"{name}: {describe_os_error(error, 'cannot be read')}") from error
    except BadOutputError as error:
        raise CommandError(f"{name}: {error}") from error
    for warning in dict.fromkeys(warnings):
        click.echo(f"gpuid: warning: {escaped(name)}: {escaped(warning)}", err=True)
    for lost in report.lost:
        which = " ".join(filter(None, (lost.uuid, f"at {lost.pci_bus_id}" if lost.pci_bus_id else "")))
        click.echo(f"gpuid: warning: {escaped(name)}: the GPU {escaped(which)} does not respond", err=True)
    if compact:
        click.echo(encode_json(_columns(report)))
    else:
        print_json(_columns(report))


def _with_boards(report: Report) -> Report:
    """Return a report in which GPUs that share a serial are marked as one board, as in the inventory."""
    serials = Counter(gpu.serial for gpu in report.gpus)
    gpus = (
        msgspec.structs.replace(gpu, multi_gpu_board=gpu.multi_gpu_board or (gpu.serial is not None and shared > 1))
        for gpu in report.gpus
        for shared in (serials[gpu.serial],)
    )
    return msgspec.structs.replace(report, gpus=tuple(gpus))


def _columns(report: Report) -> dict[str, Any]:
    """Return the fields to print, those that one output can have."""
    columns: dict[str, Any] = msgspec.to_builtins(report)
    columns["gpus"] = [
        {key: value for key, value in msgspec.to_builtins(gpu).items() if key not in _OF_SEVERAL_OUTPUTS}
        for gpu in report.gpus
    ]
    for key in ("lost", "unread"):
        if key in columns:
            columns[key] = [ref._asdict() for ref in getattr(report, key)]
    return columns
