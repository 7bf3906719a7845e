"""`python -m limner`: the command line, whatever the PATH."""

from limner.cli import main

main()
