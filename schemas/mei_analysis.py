"""What is measured of most exciting inputs: masks, contrasts, natural stimuli, Gabors, stimuli that do as well.

Everything here is wanted by adding its configuration: `populate` computes each table for all MEIs and all
configurations of its kind, and without any it computes nothing. All units of a scan are measured together.
"""

from __future__ import annotations

import time
from typing import Any

import datajoint as dj
import numpy as np

from pipeline.datasets.distinct import distinct_stimuli
from pipeline.mei.contrast import contrast_curves, natural_responses
from pipeline.mei.diverse import diverse_sets
from pipeline.mei.gabors import NAMES as GABOR_PARAMETERS
from pipeline.mei.gabors import optimal_gabors
from pipeline.mei.masks import fit_gaussians, tight_masks
from schemas import config, dataset, model, stimulus
from schemas.connection import schema as open_schema
from schemas.found_meis import ScanMEIs, found_meis
from schemas.mei import MEI
from schemas.provenance import provenance_columns, provenance_row
from schemas.rows import null

schema = open_schema("mei_analysis")

Key = dict[str, Any]


class _OfUnits:
    """A table with a row for each MEI and configuration of one kind, and a part with a row for each unit."""

    kind: str
    """Of the configuration: the name of a part of its table."""
    configurations: str
    """Name of that table in `schemas.config`; no class, of which DataJoint would make a part of this table."""
    prefix: str
    """Of the columns of provenance."""

    Unit: Any
    insert1: Any

    @property
    def key_source(self) -> dj.expression.QueryExpression:
        """Every MEI with every configuration of the kind."""
        return MEI.proj() * getattr(self._configurations(), self.kind).proj()

    def make_fetch(self, key: Key) -> tuple[Any, ...]:
        """Fetch where the weights are, and the configuration."""
        return (model.Model & key).fetch1("model_weights").path, self._configurations().load(key)

    def make_compute(self, key: Key, weights_path: str, settings: Any) -> tuple[Any, ...]:
        """Measure all units of one scan after the other."""
        started = time.perf_counter()
        rows = [row for scan in found_meis(key) for row in self.measure(scan, settings, key)]
        return rows, time.perf_counter() - started

    def make_insert(self, key: Key, rows: list[Key], seconds: float) -> None:
        """Insert the row and its units."""
        self.insert1({**key, **provenance_row(self.prefix, seconds)})
        self.Unit.insert({**key, **row} for row in rows)

    def _configurations(self) -> Any:
        return getattr(config, self.configurations)

    def measure(self, scan: ScanMEIs, settings: Any, key: Key) -> list[Key]:
        """Return the rows of a scan's units."""
        raise NotImplementedError


@schema
class TightMEIMask(_OfUnits, dj.Computed):
    """Masks that leave as little of an MEI as its response allows; see `pipeline.mei.masks.tight_masks`.

    Wanted by ``config.MaskConfig.TightMask.fill()``.
    """

    configurations, kind, prefix = "MaskConfig", "TightMask", "tight_mask"

    definition = f"""
    # Tight masks of most exciting inputs
    -> MEI
    -> config.MaskConfig
    ---
    {provenance_columns("tight_mask")}
    """

    class Unit(dj.Part):
        """The mask of one unit."""

        definition = """
        # Tight mask of one unit
        -> master
        -> MEI.Unit
        ---
        tight_mask : <npy@main>  # (0 to 1) height, width
        reduction_ratio=null : float64  # response with the mask relative to that with the first one; NULL if that is 0
        mask_erosions : int32  # (px) how often a pixel was taken off all round
        mask_converged : bool  # whether the response fell to the target
        """

    def measure(self, scan: ScanMEIs, settings: Any, key: Key) -> list[Key]:
        """Return the masks."""
        found = tight_masks(scan.stimuli, scan.respond, settings)
        return [
            {
                **row,
                "tight_mask": found.masks[i],
                "reduction_ratio": null(found.ratio[i]),
                "mask_erosions": int(found.erosions[i]),
                "mask_converged": bool(found.converged[i]),
            }
            for i, row in enumerate(scan.rows)
        ]


@schema
class GaussianMaskFit(_OfUnits, dj.Computed):
    """Gaussians with the moments of MEIs, and the masks that they give; see `pipeline.mei.masks.fit_gaussians`.

    Wanted by ``config.MaskConfig.GaussianMask.fill()``.
    """

    configurations, kind, prefix = "MaskConfig", "GaussianMask", "gaussian_fit"

    definition = f"""
    # Gaussian fits of most exciting inputs
    -> MEI
    -> config.MaskConfig
    ---
    {provenance_columns("gaussian_fit")}
    """

    class Unit(dj.Part):
        """The Gaussian of one unit; NULL if its MEI is flat."""

        definition = """
        # Gaussian fit of one unit
        -> master
        -> MEI.Unit
        ---
        mu_x=null : float64  # (px) centre to the right of the first pixel
        mu_y=null : float64  # (px) centre below the first pixel
        cov_x=null : float64  # (px^2) variance along x
        cov_y=null : float64  # (px^2) variance along y
        cov_xy=null : float64  # (px^2) covariance of x and y
        gaussian_mask : <npy@main>  # (0 to 1) height, width; NaN if the MEI is flat
        frame_fits : <npy@main>  # time, the five numbers above for each frame; NaN for frames that are flat
        """

    def measure(self, scan: ScanMEIs, settings: Any, key: Key) -> list[Key]:
        """Return the fits."""
        height, width = scan.stimuli.shape[-2:]
        found, frames = fit_gaussians(scan.stimuli), fit_gaussians(scan.stimuli, per_frame=True)
        masks = found.mask(height, width, settings.exponent)
        whole, by_frame = found.moments(), frames.moments()
        names = ("mu_x", "mu_y", "cov_x", "cov_y", "cov_xy")
        return [
            {
                **row,
                **{name: null(value) for name, value in zip(names, whole[i], strict=True)},
                "gaussian_mask": masks[i],
                "frame_fits": by_frame[i],
            }
            for i, row in enumerate(scan.rows)
        ]


@schema
class MEIContrast(_OfUnits, dj.Computed):
    """How responses to MEIs grow with contrast; see `pipeline.mei.contrast.contrast_curves`.

    Wanted by ``config.MEIAnalysisConfig.ContrastTuning.fill()``.
    """

    configurations, kind, prefix = "MEIAnalysisConfig", "ContrastTuning", "contrast_tuning"

    definition = f"""
    # Responses to most exciting inputs at rising contrast
    -> MEI
    -> config.MEIAnalysisConfig
    ---
    {provenance_columns("contrast_tuning")}
    """

    class Unit(dj.Part):
        """The curve of one unit; NULL if its MEI is flat."""

        definition = """
        # Contrast curve of one unit
        -> master
        -> MEI.Unit
        ---
        monotonic : bool  # whether the response never falls as contrast rises
        max_activation=null : float64  # (normalised responses) highest response
        max_contrast=null : float64  # (grey values) lowest contrast with the highest response
        saturation_contrast=null : float64  # (grey values) contrast at which the response has risen by 95 percent
        sat_contrast=null : float64  # (grey values) contrast beyond which the screen clips the MEI
        lim_contrast=null : float64  # (grey values) contrast that it could have without clipping, were its mean free
        contrast_curve : <npy@main>  # contrast (grey values) and response, step
        """

    def measure(self, scan: ScanMEIs, settings: Any, key: Key) -> list[Key]:
        """Return the curves and what they say."""
        found = contrast_curves(scan.stimuli, scan.respond, settings)
        columns = {
            "max_activation": found.max_activation,
            "max_contrast": found.max_contrast,
            "saturation_contrast": found.saturation_contrast,
            "sat_contrast": found.screen_contrast,
            "lim_contrast": found.limit,
        }
        return [
            {
                **row,
                "monotonic": bool(found.monotonic[i]),
                **{name: null(values[i]) for name, values in columns.items()},
                "contrast_curve": np.stack([found.contrast[i], found.activation[i]]),
            }
            for i, row in enumerate(scan.rows)
        ]


@schema
class BestNaturalStimulus(_OfUnits, dj.Computed):
    """The stimuli of the data that drive units best; see `pipeline.mei.contrast.natural_responses`.

    Wanted by ``config.MEIAnalysisConfig.NaturalStimuli.fill()``. Models on the data of a function are left out, for
    the stimuli of such data have no names.
    """

    configurations, kind, prefix = "MEIAnalysisConfig", "NaturalStimuli", "natural"

    definition = f"""
    # Stimuli of the data that drive units best
    -> MEI
    -> config.MEIAnalysisConfig
    ---
    {provenance_columns("natural")}
    """

    class Unit(dj.Part):
        """The best stimulus of one unit, under the conditions of its MEI."""

        definition = """
        # Best stimulus of the data for one unit
        -> master
        -> MEI.Unit
        ---
        -> stimulus.Condition
        natural_frame : int32  # frame with the highest response; 0 for images
        natural_activation : float64  # (normalised responses) highest response
        natural_ratio=null : float64  # relative to the response to the MEI; NULL unless that is above 0
        natural_mean : float64  # (normalised responses) mean over all stimuli and frames
        natural_std : float64  # (normalised responses) standard deviation over all stimuli and frames
        """

    @property
    def key_source(self) -> dj.expression.QueryExpression:
        """MEIs of models whose stimuli are ours to read."""
        return super().key_source - config.DataConfig.Function.proj()

    def measure(self, scan: ScanMEIs, settings: Any, key: Key) -> list[Key]:
        """Show every stimulus once to all units."""
        natural = distinct_stimuli(dataset.get_dataloaders(key), scan.data_key, settings.tiers)
        found = natural_responses(natural.inputs(), scan.respond.of_inputs, len(scan.rows))
        ratio = found.mei_ratio(scan.activation)
        return [
            {
                **row,
                "condition_hash": natural.conditions[found.best_stimulus[i]],
                "natural_frame": int(found.best_frame[i]),
                "natural_activation": float(found.best[i]),
                "natural_ratio": null(ratio[i]),
                "natural_mean": float(found.mean[i]),
                "natural_std": float(found.std[i]),
            }
            for i, row in enumerate(scan.rows)
        ]


@schema
class OptimalGabor(_OfUnits, dj.Computed):
    """The Gabors that drive units best; see `pipeline.mei.gabors.optimal_gabors`.

    Wanted by ``config.MEIAnalysisConfig.GaborSearch.fill()``; the published grid has 72,800 Gabors, which all units
    share unless their contrast is that of their MEI. Then units whose MEI is flat are left out.
    """

    configurations, kind, prefix = "MEIAnalysisConfig", "GaborSearch", "gabor_search"

    definition = f"""
    # Gabors that drive units best
    -> MEI
    -> config.MEIAnalysisConfig
    ---
    {provenance_columns("gabor_search")}
    """

    class Unit(dj.Part):
        """The Gabor of one unit."""

        definition = """
        # Best Gabor of one unit
        -> master
        -> MEI.Unit
        ---
        best_gabor : <npy@main>  # (grey value) height, width
        best_activation : float64  # (normalised responses) response to it
        grid_activation : float64  # (normalised responses) response to the best Gabor of the grid
        gabor_ratio=null : float64  # best_activation relative to the response to the MEI; NULL unless that is above 0
        gabor_contrast : float64  # (grey values) root mean square contrast that the screen allowed
        best_orientation : float64  # (deg) counter-clockwise, 0 for horizontal stripes; below 180
        best_phase : float64  # (deg) of the sine in the middle of the envelope
        best_wavelength : float64  # (px)
        best_sigma : float64  # (px) standard deviation of the round envelope
        best_dy : float64  # shift down from the middle of the screen, as a fraction of its height
        best_dx : float64  # shift to the right from the middle of the screen, as a fraction of its width
        """

    def measure(self, scan: ScanMEIs, settings: Any, key: Key) -> list[Key]:
        """Search for all units of the scan together."""
        own = scan.stimuli.reshape(len(scan.rows), -1).std(axis=1)
        contrast = np.full(len(scan.rows), settings.contrast) if settings.contrast else own
        usable = np.flatnonzero(contrast > 0)
        mean = scan.info.input_mean if settings.mean is None else settings.mean
        if not len(usable):
            return []
        found = optimal_gabors(
            scan.respond.only(usable.tolist()), scan.stimuli.shape[1:], contrast[usable], mean, settings
        )
        activation = scan.activation[usable]
        ratio = np.divide(found.activation, activation, out=np.full(len(usable), np.nan), where=activation > 0)
        parameters = {f"best_{name}": getattr(found.gabors, name).tolist() for name in GABOR_PARAMETERS}
        return [
            {
                **scan.rows[unit],
                "best_gabor": found.images[i],
                "best_activation": float(found.activation[i]),
                "grid_activation": float(found.grid_activation[i]),
                "gabor_ratio": null(ratio[i]),
                "gabor_contrast": float(found.contrast[i]),
                **{name: values[i] for name, values in parameters.items()},
            }
            for i, unit in enumerate(usable.tolist())
        ]


@schema
class DiverseMEI(_OfUnits, dj.Computed):
    """Stimuli that drive a unit nearly as well as its MEI and differ; see `pipeline.mei.diverse.diverse_sets`.

    Wanted by ``config.MEIAnalysisConfig.DiverseStimuli.fill()``. Units whose MEI is flat or does not raise the response
    above 0 are left out.
    """

    configurations, kind, prefix = "MEIAnalysisConfig", "DiverseStimuli", "diverse"

    definition = f"""
    # Sets of different stimuli that units respond to nearly as well as to their most exciting inputs
    -> MEI
    -> config.MEIAnalysisConfig
    ---
    {provenance_columns("diverse")}
    """

    class Unit(dj.Part):
        """The set of one unit."""

        definition = """
        # Different stimuli for one unit
        -> master
        -> MEI.Unit
        ---
        diverse_stimuli : <npy@main>  # (grey value) stimulus, channel, time, height, width; the most exciting first
        diverse_activations : <npy@main>  # (normalised responses) stimulus
        diverse_similarities : <npy@main>  # stimulus, stimulus
        lowest_share : float64  # lowest response of the set relative to that to the MEI
        mean_similarity=null : float64  # over pairs; NULL if a stimulus is flat where differences were looked for
        share_kept : bool  # whether all keep the share of the response that was asked
        """

    def measure(self, scan: ScanMEIs, settings: Any, key: Key) -> list[Key]:
        """Find the sets of all units of the scan together."""
        usable = np.flatnonzero((scan.activation > 0) & (np.ptp(scan.stimuli, axis=(1, 2, 3, 4)) > 0))
        if not len(usable):
            return []
        activation = scan.activation[usable]
        respond = scan.respond.only(usable.tolist())
        found = diverse_sets(scan.stimuli[usable], activation, respond, scan.info.input_mean, settings)
        return [
            {
                **scan.rows[unit],
                "diverse_stimuli": found.stimuli[i],
                "diverse_activations": found.activation[i],
                "diverse_similarities": found.similarity[i],
                "lowest_share": float(found.activation[i].min() / activation[i]),
                "mean_similarity": null(found.mean_similarity[i]),
                "share_kept": bool(found.kept[i]),
            }
            for i, unit in enumerate(usable.tolist())
        ]
