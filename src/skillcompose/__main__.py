"""`python -m skillcompose`."""

from skillcompose.cli import main

main()
