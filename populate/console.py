"""What all commands share: the console, and how errors are shown."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console

from pipeline.errors import GeniculateError

out = Console()


def escaped(text: str) -> str:
    """Return text that rich prints as it is."""
    return text.replace("[", "\\[")


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """Return the function with its own errors printed as one sentence, with exit code 1."""

    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> None:
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        logging.getLogger("schemas").setLevel(logging.INFO)  # such as which server is used
        try:
            function(*arguments, **named)
        except GeniculateError as error:
            Console(stderr=True, soft_wrap=True).print(f"[bold red]Error:[/bold red] {escaped(str(error))}")
            raise typer.Exit(1) from error

    return run


def command(group: typer.Typer, **options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a guarded command."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        group.command(**options)(guarded(function))
        return function

    return register
