"""`python -m edgeadapt`."""

from edgeadapt.cli import main

main()
