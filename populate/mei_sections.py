"""What the report shows of most exciting inputs: galleries of images, movies that move, receptive fields beside."""

from __future__ import annotations

import numpy as np

from pipeline.figures.mei_gallery import fields_beside_meis, mei_gallery, mei_gif
from pipeline.figures.meis import meis_beside_receptive_fields
from pipeline.mei.comparison import best_lag
from pipeline.simulation import GroundTruth
from populate.report_page import Animation, Illustration, Section
from populate.results import MEIResults, ScanResults, mei_results
from schemas import config, mei

MOVIES, IMAGES, PAIRS = 8, 24, 9
"""Units shown at most, evenly spaced from the first to the last: strong and weak matches alike."""
SLOW = 3
"""Movies in the report are so many times slower than they are."""


def mei_sections(scan: ScanResults, truth: GroundTruth | None) -> list[Section]:
    """Return a section for each choice of units and method by which the model's MEIs were found."""
    sections = []
    for target in (mei.MEI & scan.key).keys():
        found = mei_results(scan, target, truth)
        if found is not None:
            method = config.MEIConfig.load(target).kind()
            sections.append(_section(scan, target["target_name"], method, found))
    return sections


def _section(scan: ScanResults, name: str, method: str, found: MEIResults) -> Section:
    moves = found.stimuli.shape[2] > 1
    what = "movie" if moves else "image"
    text = f"The {what} that each unit of {name!r} is predicted to respond to most; method {method!r}."
    if found.correlations is not None:
        defined = found.correlations[np.isfinite(found.correlations)]
        middle = f"; the median is {np.median(defined):.2f}" if len(defined) else ""
        at = f"At the best lag of the {_inside(found)}" if moves else f"With the {_inside(found)}"
        text += f" {at}, {(defined > 0.7).sum()} of {len(found.unit_ids)} MEIs correlate above 0.7{middle}."
    figures = _of_movies(scan, found) if moves else _of_images(scan, found)
    code = "from schemas import mei\n(mei.MEI.Unit & {'unit_id': 1}).to_arrays('mei_movie')"
    return Section("Most exciting inputs", text, tuple(figures), code=code)


def _inside(found: MEIResults) -> str:
    """What receptive fields are called inside a sentence."""
    return found.fields_name[0].lower() + found.fields_name[1:]


def _of_movies(scan: ScanResults, found: MEIResults) -> list[Illustration]:
    lags = found.movies.shape[1] if found.fields is None else min(found.movies.shape[1], found.fields.shape[1])
    frame_ms = 1000 / (scan.info.frame_rate or 1)
    rows = _spread_out(len(found.unit_ids), MOVIES)
    names = [found.unit_names[i] for i in rows]
    figure = meis_beside_receptive_fields(
        found.movies[rows, -lags:],
        None if found.fields is None else found.fields[rows, -lags:],
        names,
        None if found.correlations is None else found.correlations[rows],
        lag_ms=np.arange(1 - lags, 1) * frame_ms,
        degrees_per_pixel=scan.screen_deg[0] / scan.info.input_shape[2] if scan.screen_deg else 1.0,
        rf_title=found.fields_name,
        grey=scan.info.input_mean,
    )
    caption = "The strongest frame of each MEI, and the time course of its strongest pixel."
    if found.fields is not None:
        caption = f"Each MEI and the {_inside(found)} at the field's best lag, and their strongest pixels over time."
    moving = Animation(mei_gif(_visible(found)[rows], frame_ms=SLOW * frame_ms, grey=scan.info.input_mean))
    told = f"The same MEIs as movies, {SLOW} times slower than they are, row by row: {', '.join(names)}."
    return [
        Illustration(figure, caption, "MEIs beside receptive fields"),
        Illustration(moving, told, "Most exciting movies"),
    ]


def _of_images(scan: ScanResults, found: MEIResults) -> list[Illustration]:
    rows = _spread_out(len(found.unit_ids), IMAGES)
    gallery = mei_gallery(
        _visible(found)[rows, :, 0],
        [found.unit_names[i] for i in rows],
        found.activation[rows],
        grey=scan.info.input_mean,
    )
    caption = "Most exciting images with the predicted response (normalised)."
    if found.stimuli.shape[1] == 1:
        caption += " Red is brighter than mean grey, blue is darker; each is scaled to its largest deviation."
    figures = [Illustration(gallery, caption, "Most exciting images")]
    if found.fields is not None and found.correlations is not None:
        rows = _spread_out(len(found.unit_ids), PAIRS)
        fields = np.stack([field[best_lag(field)] for field in found.fields[rows]])
        pairs = fields_beside_meis(
            found.movies[rows, -1],
            fields,
            [found.unit_names[i] for i in rows],
            found.correlations[rows],
            grey=scan.info.input_mean,
            rf_title=found.fields_name,
        )
        figures.append(Illustration(pairs, f"MEIs, and to their right the {_inside(found)}.", "Fields beside MEIs"))
    return figures


def _visible(found: MEIResults) -> np.ndarray:
    """Return the stimuli, of more channels than there are colours only the first."""
    return found.stimuli if found.stimuli.shape[1] <= 3 else found.stimuli[:, :1]


def _spread_out(count: int, shown: int) -> np.ndarray:
    """Return positions of at most so many of a number of units, evenly spaced from the first to the last."""
    return np.linspace(0, count - 1, min(shown, count)).round().astype(int)
