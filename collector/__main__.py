"""`python -m collector` is the `gpuid` command."""

from collector.cli import main

if __name__ == "__main__":
    main()
