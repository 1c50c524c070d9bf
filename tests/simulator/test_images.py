"""What a command starts in a container, and who says that it does not exist."""

import pytest

from collector.simulator.images import EMPTY_IMAGE, Image, Started, start

PLUGIN = Image(frozenset({"/usr/bin/nvidia-smi", "/bin/sh"}))
DISTROLESS = Image(frozenset({"/usr/local/nvidia/bin/nvidia-smi"}))
CHROOT = Image(frozenset({"/busybox/chroot", "/busybox/sh", "/root/usr/bin/nvidia-smi"}), ("/usr/bin", "/busybox"))


@pytest.mark.parametrize(
    ("image", "argv"),
    [
        (PLUGIN, ["nvidia-smi", "-q", "-x"]),
        (PLUGIN, ["/usr/bin/nvidia-smi"]),
        (PLUGIN, ["sh", "-c", "exec nvidia-smi -q -x"]),
        (PLUGIN, ["/bin/sh", "-ec", "LANG=C /usr/bin/nvidia-smi"]),
        (DISTROLESS, ["/usr/local/nvidia/bin/nvidia-smi"]),
        (CHROOT, ["chroot", "/root", "nvidia-smi", "-q"]),
        (CHROOT, ["/busybox/chroot", "/root/", "/usr/bin/nvidia-smi"]),
        (CHROOT, ["sh", "-c", "exec chroot /root nvidia-smi -q -x"]),
    ],
)
def test_a_program_is_found(image: Image, argv: list[str]) -> None:
    assert start(image, argv) == Started(program="nvidia-smi")


@pytest.mark.parametrize(
    ("image", "argv", "error"),
    [
        (EMPTY_IMAGE, ["nvidia-smi"], 'exec: "nvidia-smi": executable file not found in $PATH'),
        (DISTROLESS, ["nvidia-smi", "-q"], 'exec: "nvidia-smi": executable file not found in $PATH'),
        (DISTROLESS, ["sh", "-c", "nvidia-smi"], 'exec: "sh": executable file not found in $PATH'),
        (
            DISTROLESS,
            ["/usr/bin/nvidia-smi"],
            'exec: "/usr/bin/nvidia-smi": stat /usr/bin/nvidia-smi: no such file or directory',
        ),
        (PLUGIN.without("nvidia-smi"), ["nvidia-smi"], 'exec: "nvidia-smi": executable file not found in $PATH'),
    ],
)
def test_the_runtime_refuses_what_the_image_lacks(image: Image, argv: list[str], error: str) -> None:
    assert start(image, argv) == Started(runtime_error=error)


@pytest.mark.parametrize(
    ("image", "argv", "exit_status", "stderr"),
    [
        (PLUGIN, ["sh", "-c", "nvidia-smo -q"], 127, "sh: 1: nvidia-smo: not found\n"),
        (PLUGIN, ["sh", "-c", "'"], 127, "sh: 1: ': not found\n"),
        (CHROOT, ["sh", "-c", "chroot /root smi"], 127, "chroot: can't execute 'smi': No such file or directory\n"),
        (CHROOT, ["chroot", "/root", "smi"], 127, "chroot: can't execute 'smi': No such file or directory\n"),
        (
            CHROOT,
            ["chroot", "/elsewhere", "nvidia-smi"],
            1,
            "chroot: can't change root directory to '/elsewhere': No such file or directory\n",
        ),
    ],
)
def test_shell_and_chroot_name_the_missing_program(
    image: Image, argv: list[str], exit_status: int, stderr: str
) -> None:
    assert start(image, argv) == Started(exit_status=exit_status, stderr=stderr)
