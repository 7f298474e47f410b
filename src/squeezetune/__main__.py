"""`python -m squeezetune` is the command line."""

from squeezetune.cli import main

if __name__ == "__main__":
    main()
