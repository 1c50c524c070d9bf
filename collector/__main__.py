"""The `gpuid` command, also as `python -m collector`: handles signals first, and loads everything else then.

Before Python gets here, a signal does what it does to any program. That takes a few hundredths of a second.
"""

import os
import signal
import sys

from collector.stop import process_stop

__all__ = ["main"]

# The commands that run until they are stopped, and may be stopped from their first instruction on.
_SERVING = ("run", "demo", "simulate")


def main() -> None:
    """Run the command line."""
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
    except KeyboardInterrupt:  # while the rest is loaded
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if (why := shortage.why_short(error)) is None:
            raise
        shortage.end(why)


if __name__ == "__main__":
    main()
