"""``geniculate ingest FORMAT``: one command for each reader, made from its signature and docstring."""

from __future__ import annotations

import inspect
import math
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from pipeline.errors import GeniculateError
from populate.console import guarded, out

if TYPE_CHECKING:
    from pipeline.recordings import Recording
    from populate.ingest import Ingested


class FormatCommands(typer.core.TyperGroup):
    """The readers as commands; they are imported when one is asked for, so that other commands start at once."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all formats."""
        from pipeline.recordings import FORMATS

        return list(FORMATS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of one format."""
        from pipeline.recordings import FORMATS

        return reader_command(FORMATS[cmd_name]) if cmd_name in FORMATS else None


def reader_command(reader: type[Recording]) -> Any:
    """Return the command that ingests one format."""
    own = list(inspect.signature(reader).parameters.values())
    explained = parameter_docs(reader)

    def run(**given: Any) -> None:
        location = {p.name: str(given.pop(p.name)) for p in own}
        _ingest(reader.source_format, {name: value for name, value in location.items() if value}, **given)

    mine = [_option(p.name, explained.get(p.name, ""), p.default) for p in own]
    common = list(inspect.signature(_common).parameters.values())
    required = [p for p in (*mine, *common) if p.default is inspect.Parameter.empty]
    optional = [p for p in (*mine, *common) if p.default is not inspect.Parameter.empty]
    run.__signature__ = inspect.Signature([*required, *optional])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*mine, *common)}
    run.__doc__ = (
        f"{_summary(reader)}\n\nEverything is checked before anything is written; the same recording again is a no-op."
    )
    app = typer.Typer(rich_markup_mode="markdown", add_completion=False, pretty_exceptions_enable=False)
    epilog = f"Example: `geniculate ingest {reader.source_format} {reader.example}`"
    app.command(name=reader.source_format, epilog=epilog if reader.example else None)(_kept(run))
    made = typer.main.get_command(app)
    made.name = reader.source_format
    return made


def _kept(run: Any) -> Any:
    """Return the guarded function with the signature that typer reads."""
    wrapped = guarded(run)
    wrapped.__signature__ = run.__signature__  # type: ignore[attr-defined]
    return wrapped


def _option(name: str, text: str, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    annotation = Annotated[str, typer.Option(help=text)]
    given = default if default is inspect.Parameter.empty else str(default or "")
    return inspect.Parameter(name, kind, default=given, annotation=annotation)


def _common(
    *,
    subject: Annotated[str, typer.Option(help="Name of the animal.")],
    session: Annotated[int, typer.Option(help="Number of the session.")],
    scan: Annotated[int, typer.Option(help="Number of the scan within the session.")],
    screen: Annotated[str, typer.Option(help="Width and height of the stimulus in degrees, such as 108x67.")] = "",
    leaks: Annotated[
        str,
        typer.Option(
            help="Stimuli that the source shows in several tiers: refuse, held-out (to the tier furthest from "
            "training), train (to the nearest) or exclude (their trials)."
        ),
    ] = "refuse",
    validation_fraction: Annotated[
        float, typer.Option(help="Of the stimuli, where the source has no validation tier.")
    ] = 0.1,
    test_fraction: Annotated[float, typer.Option(help="Of the stimuli, where nothing else is for testing.")] = 0.1,
) -> None:
    """Declare the options that all formats share."""


# typer reads annotations as objects, and this module has them as text.
_common.__signature__ = inspect.signature(_common, eval_str=True)  # type: ignore[attr-defined]


def _summary(reader: type[Recording]) -> str:
    """Return what a reader's docstring says before its Parameters."""
    text = inspect.getdoc(reader) or ""
    return re.split(r"\n\w[\w ]*\n-{3,}", text)[0].split("Implements")[0].strip()


def parameter_docs(reader: type[Recording]) -> dict[str, str]:
    """Return what a reader's numpy-style docstring says of each of its parameters."""
    sections = re.split(r"\n(\w[\w ]*)\n-{3,}\n", "\n" + (inspect.getdoc(reader) or ""))
    parameters = dict(zip(sections[1::2], sections[2::2], strict=True)).get("Parameters", "")
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", parameters.strip()):
        names, _, body = entry.partition("\n")
        for name in names.partition(" : ")[0].split(","):
            found[name.strip()] = " ".join(body.split())
    return found


def _ingest(
    source_format: str,
    location: dict[str, str],
    subject: str,
    session: int,
    scan: int,
    screen: str,
    leaks: str,
    validation_fraction: float,
    test_fraction: float,
) -> None:
    from pipeline.recordings import open_recording

    degrees = screen_degrees(screen)
    out.print("[dim]Reading and checking the recording[/dim]")
    source = open_recording(source_format, **location)
    from populate.ingest import ingest as insert

    done = insert(source, subject, session, scan, degrees, validation_fraction, test_fraction, leaks)
    what = f"{subject}-{session}-{scan}: {done.n_units} units, {done.n_trials} trials, {done.n_conditions} stimuli"
    out.print(f"Ingested {what}" if done.is_new else f"Already there, nothing was written: {what}", soft_wrap=True)
    for sentence in remarks(done, leaks):
        out.print(sentence)


def remarks(done: Ingested, leaks: str) -> list[str]:
    """Return what a user must know of an ingest beside its size."""
    told = []
    if done.n_leaks:
        became = {
            "held-out": "each went to the tier furthest from training",
            "train": "each went to the tier nearest to training",
            "exclude": "their trials are excluded",
        }[leaks]
        told.append(f"{done.n_leaks} stimuli are in several tiers of the source: {became}.")
    if done.n_excluded:
        told.append(f"{done.n_excluded} trials are excluded; ExcludedTrial says why.")
    if done.n_withheld:
        told.append(f"{done.n_withheld} trials have responses that the source withholds: they are never used as data.")
    return told


def screen_degrees(text: str) -> tuple[float, float] | None:
    """Return width and height (deg) of ``--screen``."""
    if not text:
        return None
    try:
        width, height = (float(part) for part in text.lower().split("x"))
    except ValueError:
        width = height = math.nan
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise GeniculateError(f"--screen {text!r}: give width and height in degrees, such as 108x67")
    return width, height
