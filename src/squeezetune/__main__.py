"""`python -m squeezetune` runs the command line."""

import sys
from collections.abc import Sequence

from squeezetune.cli.main import main as cli
from squeezetune.cli.terminal import guard_output, open_streams
from squeezetune.errors import OutputError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, whatever the terminal or pipe is like that it speaks to."""
    open_streams()
    try:
        with guard_output():  # commands guard their own output: this is of help texts
            cli.main(arguments)
    except OutputError as error:
        from squeezetune.cli.console import print_error

        print_error(error)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
