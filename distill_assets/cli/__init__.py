"""The command line: each command calls one function of a room below."""

from distill_assets.cli.commands import main

__all__ = ["main"]
