"""`python -m tua`, the same as `tua`."""

from tua.cli import main

main()
