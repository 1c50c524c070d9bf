"""The script of the reader in every shell that is here, with an nvidia-smi that does as the test wants."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import until

FILES = Path(__file__).parents[2] / "config" / "helm" / "gpuid-reader" / "files"
SHELLS = [name for name in ("dash", "bash", "busybox") if shutil.which(name)]
APPLETS = ("awk", "date", "dirname", "grep", "sh", "sleep", "uname")
DOCUMENT = """<?xml version="1.0" ?>
<nvidia_smi_log>
\t<attached_gpus>1</attached_gpus>
\t<gpu id="00000000:04:00.0">
\t\t<serial>1650122000001</serial>
\t\t<processes>
\t\t\t<process_info>
\t\t\t\t<process_name>secret</process_name>
\t\t\t</process_info>
\t\t</processes>
\t</gpu>
</nvidia_smi_log>"""
PRINTED = [
    *("<nvidia_smi_log>", "<attached_gpus>1</attached_gpus>", '<gpu id="00000000:04:00.0">'),
    *("<serial>1650122000001</serial>", "</gpu>", "</nvidia_smi_log>"),
]


class Reader:
    """The script, as it runs in one shell."""

    def __init__(self, folder: Path, shell: str, program: str, **environment: str) -> None:
        """Start it with a shell script as its nvidia-smi."""
        self.folder = folder
        (folder / "bin").mkdir()
        nvidia_smi = folder / "bin" / "nvidia-smi"
        nvidia_smi.write_text(f"#!/bin/sh\n{program}\n")
        nvidia_smi.chmod(0o755)
        if shell == "busybox":
            for applet in APPLETS:
                (folder / "bin" / applet).symlink_to(str(shutil.which("busybox")))
        (folder / "document").write_text(DOCUMENT)
        self.log = folder / "log"
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(shutil.which(shell)), *(["sh"] if shell == "busybox" else []), folder / "files" / "reader.sh"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={"PATH": path, "TMPDIR": str(folder), "INTERVAL_SECONDS": "1"} | environment,
            )

    def lines(self) -> list[str]:
        return [line.strip() for line in self.log.read_text(errors="replace").splitlines()]

    def wait_for(self, line: str, count: int = 1) -> None:
        """Return once it has printed a line this many times."""
        until(lambda: self.lines().count(line) >= count)

    def end(self) -> int:
        """Stop it as the kubelet does; return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)  # a second, on a machine that is not busy

    def leaves_nothing(self) -> bool:
        """Return whether no process is left that it has started."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
                if int(group) == self.process.pid and state != "Z":
                    return False
        return True


Start = Callable[..., list[Reader]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start it in every shell at once, since most of a test is waiting."""
    with contextlib.ExitStack() as stack:

        def run(program: str, *, max_failures: int = 12, **environment: str) -> list[Reader]:
            readers = []
            for shell in SHELLS:
                folder = tmp_path / shell
                shutil.copytree(FILES, folder / "files")
                script = folder / "files" / "reader.sh"
                script.write_text(script.read_text().replace("MAX_FAILURES=12", f"MAX_FAILURES={max_failures}"))
                readers.append(reader := Reader(folder, shell, program, **environment))
                stack.callback(reader.process.wait)
                stack.callback(kill, reader.process.pid)
            return readers

        yield run


def kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def test_it_prints_documents_until_it_is_stopped(start: Start) -> None:
    for reader in start('[ "$*" = "-q -x" ] && printf "a warning" >&2 && cat document'):
        reader.wait_for("</nvidia_smi_log>", 2)  # the output ends without a newline
        lines = reader.lines()
        assert lines[:2] == ["a warning", '<?xml version="1.0" ?>']
        assert lines[2:8] == PRINTED
        assert reader.end() == 0
        until(reader.leaves_nothing)


def test_a_document_is_used_despite_its_exit_status(start: Start) -> None:
    for reader in start("cat document; exit 15", INTERVAL_SECONDS="1000"):
        reader.wait_for("</nvidia_smi_log>")
        warning = "gpuid-reader: nvidia-smi printed its document, but ended with exit status 15"
        assert reader.lines() == [warning, '<?xml version="1.0" ?>', *PRINTED]
        assert reader.end() == 0
        until(reader.leaves_nothing)


def test_a_failing_command_is_quoted_and_the_container_eventually_exits(start: Start) -> None:
    program = 'echo "NVIDIA-SMI has failed"; head -n 5 document; yes "more words" | head -n 1000; exit 9'
    failure = ["NVIDIA-SMI has failed", *["more words"] * 19]
    failure.append("gpuid-reader: nvidia-smi printed no document and ended with exit status 9")
    for reader in start(program, max_failures=2):
        assert reader.process.wait(60) == 1
        assert reader.lines() == [*failure, *failure, "gpuid-reader: 2 failures in a row; ending"]
        until(reader.leaves_nothing)


def test_a_hanging_command_is_killed_before_the_next_starts(start: Start) -> None:
    program = """
    if [ -e running ] && kill -0 "$(cat running)"; then touch twice; fi
    echo $$ >running
    if [ -e once ]; then cat document; exit; fi
    touch once
    trap "" TERM
    head -n 4 document
    while :; do sleep 1; done
    """
    for reader in start(program, TIMEOUT_SECONDS="2"):
        reader.wait_for("</nvidia_smi_log>")
        assert reader.end() == 0
        words = [line for line in reader.lines() if "<" not in line]
        assert "gpuid-reader: nvidia-smi has not ended after 2 s; ending it" in words
        assert "gpuid-reader: nvidia-smi printed no document and ended with exit status 137" in words
        assert reader.lines().count("<nvidia_smi_log>") == reader.lines().count(
            "</nvidia_smi_log>"
        )  # none that is cut off
        assert not (reader.folder / "twice").exists()


def test_it_exits_while_nvidia_smi_hangs(start: Start) -> None:
    for reader in start('trap "" TERM; touch hanging; sleep 1000'):
        until((reader.folder / "hanging").exists)
        assert reader.end() == 0


def test_an_endless_output_is_cut_off(start: Start) -> None:
    for reader in start("exec yes word", INTERVAL_SECONDS="1000"):
        reader.wait_for("word", 20)
        assert reader.log.stat().st_size < 10_000
        assert reader.end() == 0


def test_nodes_run_at_different_times(tmp_path: Path) -> None:
    text = (FILES / "reader.sh").read_text()
    function = text[text.index("choose_wait()") : text.index("exec 2>&1")]
    chosen = set()
    for node in range(20):
        names = f"uname() {{ echo gpuid-reader-x{node}; }}; date() {{ echo 1764130000; }}; interval=300"
        done = subprocess.run(
            ["sh", "-euc", f"{names}; {function} choose_wait; echo $seconds"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stderr == ""
        chosen.add(int(done.stdout))
    assert len(chosen) > 5
    assert min(chosen) >= 285
    assert max(chosen) <= 315


def test_it_exits_if_it_cannot_sleep(start: Start) -> None:
    for reader in start("cat document", PATH="/nonexistent"):
        assert reader.process.wait(60) != 0
        assert len(reader.lines()) < 20


@pytest.mark.parametrize("seconds", ["5m", "0", "-1", "1.5"])
def test_an_invalid_interval_is_refused(tmp_path: Path, seconds: str) -> None:
    done = subprocess.run(
        ["sh", FILES / "reader.sh"],
        env={"PATH": os.environ["PATH"], "INTERVAL_SECONDS": seconds, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    expected = "INTERVAL_SECONDS and TIMEOUT_SECONDS: expected seconds as a whole number from 1"
    assert (done.returncode, done.stdout, done.stderr) == (2, f"gpuid-reader: {expected}, got '{seconds}'\n", "")
