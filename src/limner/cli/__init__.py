"""The command line: parses words, builds ports, calls one step, prints its result.

`limner --help` answers at once: whatever takes long to import (torch, mlflow, pydantic) is imported by the command that
uses it, inside its function.
"""

from limner.cli.app import main

__all__ = ["main"]
