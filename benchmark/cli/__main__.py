"""`python -m pruneboard.benchmark.cli` is the `pruneboard` command."""

from pruneboard.benchmark.cli import main

if __name__ == "__main__":
    main()
