"""Runs nvidia-smi in a pod, and makes one report of its output, whatever its exit status.

A complete document counts even if the command reports a problem. If an unresponsive GPU keeps the command from printing
any document, the other GPUs are read one by one.
"""

from collections.abc import Callable, Sequence

import anyio
import msgspec

from collector.collect import nvidia_smi
from collector.collect.charged import parse_charged
from collector.collect.nvidia_smi import BadOutputError, Report
from collector.collect.printable import printable_report
from collector.collect.smi_output import lost_gpus, own_text, own_words
from collector.collect.smi_reading import GpusLostError, SmiReading, distinct, with_exit_status
from collector.config import ClusterSettings, PodSource
from collector.kube import exec as pod_exec
from collector.kube.client import ApiClient
from collector.kube.exec import ExecError, Output
from collector.model import Gpu, GpuRef, ReadFailure
from collector.redaction import redact
from collector.text import counted

__all__ = ["MAX_SINGLE_READS", "SmiCommand", "command_for_one"]

MAX_SINGLE_READS = 16  # GPUs that are read one by one; the largest machines have 16

_PROGRAM = "nvidia-smi"
_NO_DEVICES = b"No devices were found"  # what nvidia-smi prints if there is no GPU with the identifier
_MAX_STDERR_BYTES = 2000
_MAX_STDERR_CHARACTERS = 300

# Reasons after which no further GPU is queried: it would end the same way, or a second command would run in parallel
# with one that hangs.
_HOPELESS = frozenset(
    {
        ReadFailure.TIMEOUT,
        ReadFailure.CONNECTION,
        ReadFailure.FORBIDDEN,
        ReadFailure.NOT_FOUND,
        ReadFailure.NO_CONTAINER,
        ReadFailure.NO_BINARY,
    }
)


class SmiCommand:
    """The configured command in the container of one pod."""

    def __init__(
        self,
        client: ApiClient,
        source: PodSource,
        pod: str,
        cluster: ClusterSettings,
        *,
        parsing: anyio.CapacityLimiter | None = None,
    ) -> None:
        self._client = client
        self._source = source
        self._pod = pod
        self._cluster = cluster
        self._parsing = parsing  # limits how many large outputs are parsed at the same time

    async def read(self, known: Callable[[], Sequence[Gpu]], capacity: int | None) -> SmiReading:
        """Return the command's report; raises ExecError, with the command's own message.

        `known` returns the GPUs of the node's earlier readings, which are queried one by one if necessary; without any,
        the first `capacity` GPUs are.
        """
        output, exit_status = await self._run(self._source.command, self._cluster.exec_timeout)
        warnings: list[str] = []
        try:
            report = await self._parse(output, warnings)
        except BadOutputError as error:
            failure = _failure(exit_status, output, error)
            lost = _said_lost(output)
            if not lost:
                raise failure from error
            return await self._read_one_by_one(failure, lost, known(), capacity)
        if stderr := redact(output.stderr[:_MAX_STDERR_BYTES].decode(errors="replace"), _MAX_STDERR_CHARACTERS):
            warnings.append(f"command succeeded with output on stderr: {stderr}")
        if exit_status:
            warnings.append(f"the command exited with status {exit_status}, after a complete document")
        report = with_exit_status(report, exit_status)
        if report.contested and report.partial:
            return await self._read_contested(report, warnings, capacity)
        return SmiReading(report, distinct(warnings))

    async def _read_one_by_one(
        self, failure: ExecError, lost: tuple[GpuRef, ...], known: Sequence[Gpu], capacity: int | None
    ) -> SmiReading:
        """Return the report of the responding GPUs; raises GpusLostError if there are none."""
        found = _Singles([ref for ref in lost if ref.pci_bus_id])
        warnings = [str(failure)]
        await self._read_singles(found, _targets(known, found.lost, capacity), warnings, known=bool(known))
        if not found.gpus:
            raise GpusLostError(failure, found.report().lost)
        warnings.append(f"{counted(len(found.gpus), 'GPU')} read one by one")
        return SmiReading(found.report(), distinct(warnings), one_by_one=True)

    async def _read_contested(self, report: Report, warnings: list[str], capacity: int | None) -> SmiReading:
        """Return the report of each GPU, queried individually because only the first in the output is certain."""
        found = _Singles(list(report.lost))
        found.add(report)
        await self._read_singles(found, _targets((), (), report.attached or capacity), warnings, known=False)
        whole = report.attached is not None and len(found.gpus) == report.attached
        return SmiReading(
            msgspec.structs.replace(found.report(), partial=not whole), distinct(warnings), one_by_one=True
        )

    async def _read_singles(
        self, found: "_Singles", targets: Sequence[tuple[GpuRef, str]], warnings: list[str], *, known: bool
    ) -> None:
        """Read GPUs one by one, within the timeout of one command; unless they are `known`, stop at a silent one."""
        deadline = anyio.current_time() + self._cluster.exec_timeout
        for at, (ref, argument) in enumerate(targets):
            command = command_for_one(self._source.command, argument)
            left = deadline - anyio.current_time()
            if command is None or left <= 0 or at == MAX_SINGLE_READS:
                found.unread += [one for one, _ in targets[at:]]
                break
            try:
                output, exit_status = await self._run(command, left)
                found.add(with_exit_status(await self._parse(output, [], first_only=True), exit_status))
            except BadOutputError as error:
                if said := _said_lost(output):
                    found.add_silent(ref, said)
                elif not known:  # there are no more
                    break
                elif _NO_DEVICES not in output.stdout:  # such as that of a container that ended
                    warnings.append(f"GPU {argument}: {_failure(exit_status, output, error)}")
                    found.unread.append(ref)
            except ExecError as error:
                warnings.append(f"GPU {argument}: {error}")
                found.unread += [one for one, _ in targets[at:]]
                break

    async def _run(self, command: Sequence[str], timeout: float) -> tuple[Output, int]:
        """Return the output of a command and its exit status; raises ExecError if it did not run to completion."""
        try:
            output = await pod_exec.run(
                self._client,
                self._source.namespace,
                self._pod,
                self._source.container,
                command,
                timeout=timeout,
                limit=nvidia_smi.MAX_OUTPUT_BYTES,
            )
        except ExecError as error:
            if error.output is None or error.exit_status is None or error.reason in _HOPELESS:
                raise
            return error.output, error.exit_status
        return output, 0

    async def _parse(self, output: Output, warnings: list[str], *, first_only: bool = False) -> Report:
        """Parse the output of a command; the time is charged to the cluster."""
        session = self._client.session

        def parse() -> Report:
            report = nvidia_smi.parse(output.stdout, warnings, said=output.stderr, first_only=first_only)
            return printable_report(report, session.secrets)

        return await parse_charged(parse, len(output.stdout), session.share, self._parsing)


class _Singles:
    """The results of GPUs read one by one."""

    def __init__(self, lost: list[GpuRef]) -> None:
        self.reports: list[Report] = []
        self.gpus: dict[str, Gpu] = {}
        self.lost = lost
        self.unread: list[GpuRef] = []

    def add(self, report: Report) -> None:
        self.reports.append(report)
        for gpu in report.gpus:
            self.gpus.setdefault(gpu.uuid, gpu)
        self.lost += report.lost

    def add_silent(self, ref: GpuRef, said: Sequence[GpuRef]) -> None:
        """Add a GPU whose query only reported an unresponsive GPU: this one, or the one it names."""
        named = [other for other in said if other.pci_bus_id]
        self.lost += named or [ref]
        if named and ref.pci_bus_id not in {other.pci_bus_id for other in named}:
            self.unread.append(ref)

    def report(self) -> Report:
        first = self.reports[0] if self.reports else Report(driver_version=None, cuda_version=None, gpus=())
        return msgspec.structs.replace(
            first,
            gpus=tuple(self.gpus.values()),
            unidentified=tuple(gpu for report in self.reports for gpu in report.unidentified),
            lost=tuple(dict.fromkeys(ref for ref in self.lost if ref != GpuRef())),
            unread=tuple(ref for ref in self.unread if ref != GpuRef()),
            partial=True,
        )


def command_for_one(command: Sequence[str], target: str) -> list[str] | None:
    """Return the command that reads one GPU, by its bus address, UUID or index.

    None if the command is not nvidia-smi itself, as in a shell, or already reads a single GPU.
    """
    names = [word.rpartition("/")[2] for word in command]
    if _PROGRAM not in names:
        return None
    options = list(command[names.index(_PROGRAM) + 1 :])
    if any(not option.startswith("-") or option.startswith(("-i", "--id")) for option in options):
        return None
    return [*command, "-i", target]


def _targets(known: Sequence[Gpu], lost: Sequence[GpuRef], capacity: int | None) -> list[tuple[GpuRef, str]]:
    """Return the GPUs to read one by one, and the identifier of each for nvidia-smi."""
    if not known:
        return [(GpuRef(), str(index)) for index in range(min(capacity or MAX_SINGLE_READS, MAX_SINGLE_READS))]
    return [(GpuRef.of(gpu), gpu.pci_bus_id or gpu.uuid) for gpu in known if not any(ref.means(gpu) for ref in lost)]


def _said_lost(output: Output) -> tuple[GpuRef, ...]:
    return lost_gpus(own_text(output.stdout) + b"\n" + output.stderr)


def _failure(exit_status: int, output: Output, error: BadOutputError) -> ExecError:
    """Return the error for an output without a document, with the command's own message if it printed one."""
    if exit_status:
        words = redact(own_words(output.stderr, own_text(output.stdout)) or str(error))
        return ExecError(ReadFailure.EXIT_STATUS, f"the command exited with status {exit_status}: {words}")
    words, stderr = redact(str(error)), redact(own_words(output.stderr))
    return ExecError(ReadFailure.BAD_OUTPUT, f"{words}; stderr: {stderr}" if stderr else words)
