"""`python -m fedjob` is the `fedjob` command."""

from fedjob.cli import main

main()
