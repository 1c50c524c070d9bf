"""The `gpuid` command, also as `python -m collector`: handles signals before loading everything else.

Until Python gets here, within a few hundredths of a second, signals have their default effect.
"""

import gc
import os
import signal
import sys

from collector.stop import process_stop

__all__ = ["main"]

# The commands that run until stopped, and may be stopped from the start.
_SERVING = ("run", "demo", "simulate")


def main() -> None:
    """Run the command line."""
    gc.disable()  # until a command's modules are loaded: what they define stays
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    serving = command in _SERVING
    if serving:
        process_stop.install(hangup=command == "run")
    elif os.getpid() == 1:
        process_stop.end_on_sigterm()
    from collector import shortage

    if serving:
        shortage.install_hooks()
    try:
        from collector.cli import main as run_command

        run_command()
    except KeyboardInterrupt:  # while loading the rest
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        shortage.end_if_short(error)
        raise


if __name__ == "__main__":
    main()
