"""`python -m spinedose`: the command line where the command itself is not on the path."""

from spinedose.cli import main

if __name__ == "__main__":
    main()
