"""What a user types, and how the command answers; free of torch."""

from visionlora.cli.console import main

__all__ = ["main"]
