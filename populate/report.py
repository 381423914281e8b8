"""The report of one model: its scores, predictions, readouts and MEIs on one page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.figures.diagram import schema_diagram
from pipeline.figures.readouts import (
    feature_weights,
    gaze_shifts,
    readout_positions,
    readout_positions_by_group,
    spatial_masks,
)
from pipeline.figures.scores import score_histogram, scores_against_oracle
from pipeline.figures.traces import predicted_and_recorded
from pipeline.figures.training import learning_curves
from pipeline.provenance import provenance
from pipeline.simulation import GroundTruth
from populate.field_sections import field_sections
from populate.mei_sections import mei_sections
from populate.report_page import Illustration, Section, render_report
from populate.results import (
    Responses,
    ScanResults,
    responses_to_one_movie,
    scan_results,
    true_positions,
)
from populate.schema_map import schema_graph
from schemas import dataset, model, stimulus
from schemas.connection import server_description

MASKS = 18


def write_report(
    key: Mapping[str, Any], path: Path, truth: GroundTruth | None = None, queries: str | None = None
) -> Path:
    """Write the report of one model as a single HTML file that needs nothing else.

    Parameters
    ----------
    key : mapping
        Key of the model.
    path : Path
        File to write; it is replaced when the new one is complete.
    truth : GroundTruth, optional
        Of a simulated recording: true receptive fields are drawn beside the MEIs.
    queries : str, optional
        Python that a reader could type next.
    """
    key = {name: key[name] for name in model.Model().primary_key}
    encoder, info = model.Model.load_encoder(key)
    loaders = dataset.get_dataloaders(key)
    results = [scan_results(key, info, data_key) for data_key in info]
    sections = [_models_section(key)]
    for scan in results:
        sections += _scan_sections(scan, responses_to_one_movie(encoder, loaders, scan), truth)
        sections += field_sections(scan)
        sections += mei_sections(scan, truth)
    sections.append(_schema_section(queries))
    page = render_report("Geniculate report", _subtitle(results), _facts(results[0]), sections)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(page, encoding="utf-8")
    aside.replace(path)
    return path


def _subtitle(results: list[ScanResults]) -> str:
    scans = ", ".join(dataset.scan_name(scan.member) for scan in results)
    return f"The model with the best validation correlation on {scans}"


def _facts(scan: ScanResults) -> dict[str, str]:
    row = (model.Model & scan.key).fetch1()
    trials = (stimulus.Trial * stimulus.ConditionTier & scan.member).to_dicts()
    tiers = pd.Series([trial["tier"] for trial in trials]).value_counts()
    made = provenance()
    return {
        "Units": str(len(scan.unit_names)),
        "Trials": ", ".join(f"{tiers.get(tier, 0)} {tier}" for tier in ("train", "validation", "test")),
        "Validation correlation": _three_digits(row["validation_correlation"]),
        "Test correlation": _three_digits(row["test_correlation"]),
        "Oracle": _three_digits((dataset.Oracle & scan.key).fetch1("oracle_mean")),
        "Server": server_description(),
        "Geniculate": f"{made.version} {made.commit[:8]}{' (changed)' if made.dirty else ''}",
        "Torch, DataJoint, Deeplake": f"{made.torch}, {made.datajoint}, {made.deeplake}",
    }


def _three_digits(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _models_section(key: Mapping[str, Any]) -> Section:
    group = {"group_id": key["group_id"], "data_hash": key["data_hash"]}
    board = model.Model.leaderboard(group)
    columns = [
        "core",
        "recurrent",
        "shifter",
        "modulator",
        "seed",
        "validation_correlation",
        "test_correlation",
        "model_epochs",
    ]
    curves = {}
    for place, row in board.iterrows():
        names = {name: row[name] for name in model.Model().primary_key}
        epochs = pd.DataFrame((model.Model.Epoch & names).to_dicts(order_by="epoch"))
        label = f"{int(str(place)) + 1}: {row['core']}, seed {row['seed']}"
        curves[label] = epochs.rename(columns=lambda c: c.removeprefix("epoch_")).rename(columns={"loss": "train_loss"})
    caption = (
        "Training loss and validation correlation of each model, numbered as in the table. Dots mark the epoch whose "
        "weights were kept, ticks the cuts of the learning rate."
    )
    figure = Illustration(
        learning_curves(curves, loss_label="Training loss per response"), caption, "Learning curves of all models"
    )
    return Section(
        "Models",
        "Models trained on the same data, the best on validation first. Correlations are those of single trials, all "
        "trials and times of a tier joined, averaged over units. Brackets hold the settings in which models differ.",
        (figure,),
        board[columns].rename(columns=lambda name: name.replace("_", " ")),
        "from schemas import model\nmodel.Model.leaderboard()",
    )


def _predictions_section(scan: ScanResults, shown: Responses, correlation: np.ndarray) -> Section:
    traces = predicted_and_recorded(
        shown.time_s,
        shown.recorded,
        shown.predicted,
        scan.unit_names,
        correlation,
        rate_unit=shown.response_unit,
        recorded_label=f"recorded, mean of {shown.repeats} trials" if shown.repeats > 1 else "recorded",
    )
    return Section(
        "Predictions",
        "Responses to the movie that was repeated most, recorded and predicted. The prediction knows the behaviour, "
        "pupil and light of each trial, where they were recorded; both are averaged over the repeats.",
        (Illustration(traces, "Units from the best to the worst predicted.", "Recorded and predicted responses"),),
    )


def _scan_sections(scan: ScanResults, shown: Responses | None, truth: GroundTruth | None) -> list[Section]:
    correlation = scan.scores["single_trial_correlation"].to_numpy(float)
    average = scan.scores["correlation_to_average"].to_numpy(float)
    scores = [
        Illustration(
            score_histogram(
                {"single trial": correlation, "mean of repeats": average}, f"Correlation on {scan.score_tier}"
            ),
            "Correlation of the prediction with single trials and with the mean over repeats.",
            "Histogram of correlations over units",
        )
    ]
    if np.isfinite(scan.oracle).any():
        scores.append(
            Illustration(
                scores_against_oracle(
                    scan.oracle, correlation, scan.unit_names, score_label="Single-trial correlation"
                ),
                "Each unit's correlation against its leave-one-out oracle, which predicts a trial by the mean of the "
                "other repeats. The slope through the origin is the fraction oracle.",
                "Model correlation against oracle correlation",
            )
        )
    return [
        *([_predictions_section(scan, shown, correlation)] if shown is not None else []),
        Section("Scores", "", tuple(scores), code=_score_query(scan)),
        _readout_section(scan, correlation, truth),
    ]


def _score_query(scan: ScanResults) -> str:
    return (
        "from schemas import model\n"
        f"model.Model.UnitScore & {{'score_tier': {scan.score_tier!r}}} & 'single_trial_correlation > 0.5'"
    )


def _readout_section(scan: ScanResults, correlation: np.ndarray, truth: GroundTruth | None) -> Section:
    figures = []
    if scan.screen_deg is not None:
        x, y = (scan.readout[f"position_{axis}_deg"].to_numpy(float) for axis in "xy")
        true = None if truth is None else true_positions(scan, truth)
        figures.append(
            Illustration(
                readout_positions(
                    x,
                    y,
                    correlation,
                    f"Correlation on {scan.score_tier}",
                    screen_deg=scan.screen_deg,
                    true_x_deg=None if true is None else true[:, 0],
                    true_y_deg=None if true is None else true[:, 1],
                ),
                "Where each unit's readout looks on the screen"
                + ("." if true is None else ", and the true centres of the receptive fields."),
                "Readout positions over the screen",
            )
        )
        figures += _readouts_by_place(scan, x, y, scan.screen_deg)
    if scan.masks is not None:
        rows = _spread_out(len(scan.unit_names), MASKS)
        figures.append(
            Illustration(
                spatial_masks(
                    scan.masks.masks[rows],
                    [scan.unit_names[i] for i in rows],
                    frame_px=scan.info.input_shape[1:],
                    first_place_px=scan.masks.first_place_px,
                    pitch_px=scan.masks.pitch_px,
                ),
                "How units weigh the places of the frame, each scaled to its largest weight; red is positive.",
                "Spatial masks of readouts",
            )
        )
    figures.append(
        Illustration(
            feature_weights(scan.feature_weights, scan.unit_names),
            "Weight of each channel of the core for each unit, similar ones side by side.",
            "Feature weights of all readouts",
        )
    )
    return Section("Readouts", "", tuple(figures), code="from schemas import analysis\nanalysis.ReadoutAnalysis.Unit()")


def _readouts_by_place(
    scan: ScanResults, x: np.ndarray, y: np.ndarray, screen: tuple[float, float]
) -> list[Illustration]:
    """Draw where readouts look by area and by depth, if there are several, and where they go with the eye."""
    figures = []
    areas, depth = scan.readout["brain_area"].tolist(), scan.readout["unit_z"].to_numpy(float)
    if len(set(areas)) > 1:
        figure = readout_positions_by_group(x, y, areas, "Brain area", screen_deg=screen)
        figures.append(Illustration(figure, "The same by brain area.", "Readout positions by brain area"))
    if len(set(depth[np.isfinite(depth)])) > 1:
        figure = readout_positions(x, y, depth, "Depth (\N{MICRO SIGN}m)", screen_deg=screen)
        figures.append(Illustration(figure, "The same by the depth of the unit in the tissue.", "Positions by depth"))
    if scan.gaze_shifts_deg:
        figure = gaze_shifts(x, y, scan.gaze_shifts_deg, screen_deg=screen)
        caption = (
            "Where readouts look at the mean eye position, and how the shifter moves them, all alike, when the eye is "
            "one standard deviation away from it."
        )
        figures.append(Illustration(figure, caption, "Shifts of the readouts with the eye"))
    return figures


def _spread_out(count: int, shown: int) -> np.ndarray:
    """Return positions of at most so many of a number of units, evenly spaced from the first to the last."""
    return np.linspace(0, count - 1, min(shown, count)).round().astype(int)


def _schema_section(queries: str | None) -> Section:
    nodes, edges = schema_graph()
    caption = "All tables by schema. Lines are foreign keys: solid where they are part of the primary key."
    return Section(
        "Tables",
        "Everything above is in these tables, keyed by the data, configuration and seed that it came from.",
        (Illustration(schema_diagram(nodes, edges), caption, "Diagram of all schemas"),),
        code=queries,
    )
