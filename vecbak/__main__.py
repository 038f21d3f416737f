"""`python -m vecbak`."""

from vecbak.cli import main

main()
