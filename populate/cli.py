"""The command ``geniculate``."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pipeline.provenance import package_version
from populate.console import command, escaped, out
from populate.ingest_commands import FormatCommands

# The tables and torch are imported by the commands that use them, so that --help is there at once.

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Neural system identification of visual neurons: recordings, encoding models and most exciting inputs in "
    "DataJoint tables. Without a configured server everything runs on an embedded one; see `geniculate server status`.",
    pretty_exceptions_enable=False,
)
server = typer.Typer(no_args_is_help=True, help="The embedded server, which is used where no other is configured.")
ingest = typer.Typer(
    no_args_is_help=True,
    cls=FormatCommands,
    help="Bring a recording into the database; one command for each format.",
)
app.add_typer(server, name="server")
app.add_typer(ingest, name="ingest")


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"geniculate {package_version()}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Set options of all commands."""


@command(app, epilog="Example: `geniculate demo`, then open the report that it names.")
def demo() -> None:
    """Run everything on a simulated dLGN recording: ingest, training, scores, readouts, MEIs and a report.

    A second run finds it all there and recomputes nothing.
    """
    started = time.perf_counter()
    out.print("Geniculate demo: simulated dLGN neurons, from spikes and movies to most exciting inputs.\n")
    from populate.demo import queries, run_demo, summary
    from schemas.connection import server_description, settings
    from schemas.model import Model

    out.print(f"[dim]Tables on the {server_description()}[/dim]")
    result = run_demo(settings().home / "demo", out)
    out.print()
    models = Model.leaderboard({"group_id": result.key["group_id"]})
    out.print(_frame(models, "Models and their mean correlations, the best on validation first"))
    for sentence in summary(result):
        out.print(sentence)
    out.print("\n[bold]What to type next, in Python or Jupyter:[/bold]\n")
    out.print(queries(result.key), highlight=False, markup=False, soft_wrap=True)
    if not result.computed:
        out.print("Everything was there already: nothing was recomputed.")
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    out.print(f"Report: [bold]{result.report}[/bold]", soft_wrap=True)
    out.print(f"[dim]{time.perf_counter() - started:.0f} s, {megabytes:.0f} MB of memory at most[/dim]")


def _frame(frame: Any, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("core", "seed", "validation", "test", "epochs"):
        table.add_column(heading, justify="left" if heading == "core" else "right", no_wrap=True)
    for _, row in frame.iterrows():
        scores = [row["validation_correlation"], row["test_correlation"]]
        shown = ["undefined" if score is None or score != score else f"{score:.3f}" for score in scores]  # NaN
        table.add_row(escaped(row["core"]), str(row["seed"]), *shown, str(row["model_epochs"]))
    return table


@command(app, epilog="Example: `geniculate annotate units.csv --subject m0123 --session 2 --scan 1`")
def annotate(
    table: Annotated[
        Path,
        typer.Argument(
            help="CSV with unit_id or unit_name, and any of area, layer, x, y, z together (um), and match_id: the "
            "number of the neuron, the same in all scans of an animal."
        ),
    ],
    subject: Annotated[str, typer.Option(help="Name of the animal.")],
    session: Annotated[int, typer.Option(help="Number of the session.")],
    scan: Annotated[int, typer.Option(help="Number of the scan within the session.")],
) -> None:
    """Tell brain area, layer and position of a scan's units, and which are one neuron, where the recording does not.

    All rows or none are inserted; what is there already may not be contradicted.
    """
    from populate.annotations import annotate_from_csv

    new = annotate_from_csv({"subject": subject, "session": session, "scan_idx": scan}, table)
    out.print(f"{new} annotations of units are new in {subject}-{session}-{scan}.")


@command(app, epilog="Example: `geniculate work --watch 60` on every machine that shares the server.")
def work(
    watch: Annotated[
        float, typer.Option(min=0, help="Look for new keys again after so many seconds, for ever; 0: end when done.")
    ] = 0,
) -> None:
    """Compute everything that is waiting: convert, train, analyse, find MEIs; ends when nothing is left.

    Any number of workers may run side by side: no key is computed twice. What a killed worker on this machine had
    begun is taken over. Keys that fail are named, and wait for `geniculate retry`.
    """
    told: set[str] = set()
    failed = _work_once(told, quiet=False)
    while watch:
        time.sleep(watch)
        failed = _work_once(told, quiet=True)
    if failed:
        raise typer.Exit(1)


def _work_once(told: set[str], quiet: bool) -> bool:
    """Populate every table once and return whether keys had failed; failures that were told are not told again."""
    from populate.work import COMPUTED, WorkError, populate_all

    failed = False
    for table in COMPUTED:
        try:
            made = populate_all(table, on_wait=lambda text: out.print(f"[dim]{text}[/dim]"))
        except WorkError as error:
            failed = True
            if str(error) not in told:
                told.add(str(error))
                out.print(f"[red]{escaped(str(error))}[/red]")
            continue
        if made or not quiet:
            out.print(f"{table.__name__}: {made} computed" if made else f"[dim]{table.__name__}: nothing to do[/dim]")
    return failed


@command(app, epilog="Example: `geniculate status`")
def status() -> None:
    """Show how far each computed table is, and the errors."""
    from populate.work import COMPUTED
    from populate.work import status as progress
    from schemas.connection import server_description

    table = Table(title=f"On the {server_description()}", title_justify="left")
    for name in ("table", "computed", "pending", "reserved", "errors"):
        table.add_column(name, justify="left" if name == "table" else "right")
    for row in progress():
        table.add_row(row.table, str(row.computed), str(row.pending), str(row.reserved), str(row.errors))
    out.print(table)
    for computed in COMPUTED:
        for job in computed.jobs.errors.to_dicts():
            out.print(f"[red]{computed.__name__}[/red] {escaped(job['error_message'])}")


@command(app, epilog="Example: `geniculate retry && geniculate work`")
def retry() -> None:
    """Put all failed keys back into the queue, after their cause is mended."""
    from populate.work import retry as again

    count = again()
    out.print(f"{count} failed key(s) wait again: run 'geniculate work'" if count else "No key had failed.")


@command(app, epilog="Example: `geniculate report --group 1 --output report.html`")
def report(
    group: Annotated[int | None, typer.Option(help="Only models of this group of datasets.")] = None,
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("report.html"),
) -> None:
    """Write the report of the best model: scores, predictions, readouts and MEIs on one page."""
    from populate.report import write_report
    from populate.results import best_model

    key = best_model({} if group is None else {"group_id": group})
    out.print(f"Report: {write_report(key, output)}", soft_wrap=True)


@command(server, epilog="Example: `geniculate server start`")
def start() -> None:
    """Start the embedded server, unless it runs or another server is configured."""
    from schemas.connection import server_description

    out.print(f"Connected to the {server_description()}", soft_wrap=True)


@command(server, epilog="Example: `geniculate server stop`, before the folder is moved or backed up")
def stop() -> None:
    """Stop the embedded server; its data stay."""
    from schemas.connection import stop_embedded

    out.print("Stopped the embedded server." if stop_embedded() else "The embedded server was not running.")


@command(server, name="status", epilog="Example: `geniculate server status`")
def server_status() -> None:
    """Tell which server is used and whether it runs."""
    from schemas.connection import embedded_status, is_embedded, server_description

    if not is_embedded():
        out.print(f"Using the configured {server_description()}", soft_wrap=True)
        return
    state = embedded_status()
    running = f"runs (process {state.pid})" if state.running else "does not run; the next command starts it"
    out.print(f"The embedded server in {state.pgdata} {running}.", soft_wrap=True)
