"""`fedjob demo`: a federation on this machine, from nothing to a trained model, in a minute."""

from fedjob.demo.cli import demo

__all__ = ["demo"]
