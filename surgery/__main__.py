"""`python -m surgery` is the command."""

from surgery.cli import main

main()
