"""``python -m benchmarks NAME [--json FILE]``; without a name, what there is."""

from __future__ import annotations

import typer

from benchmarks.ingest import ingest_both
from benchmarks.loading import loading
from benchmarks.mei import mei
from benchmarks.training import training

BENCHMARKS = {"loading": loading, "ingest": ingest_both, "training": training, "mei": mei}
"""By name: a function whose parameters are the options of its command and whose docstring is its help."""

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False, add_completion=False)
for _name, _benchmark in BENCHMARKS.items():
    app.command(_name)(_benchmark)


@app.callback()
def _several() -> None:
    """Measure ours against named baselines."""  # without a callback typer would make a single command nameless


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
