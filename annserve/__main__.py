"""``python -m annserve`` is the command line."""

from annserve.cli.main import main

main()
