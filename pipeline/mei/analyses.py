"""The kinds of what is measured of MEIs once they are found; masks are in `pipeline.mei.masks`."""

from __future__ import annotations

from pipeline.configuration import Configuration
from pipeline.mei.contrast import ContrastTuning, NaturalStimuli
from pipeline.mei.diverse import DiverseStimuli
from pipeline.mei.gabors import GaborSearch
from pipeline.mei.transplant import CrossActivation, Transplant

MEI_ANALYSES: tuple[type[Configuration], ...] = (
    ContrastTuning,
    NaturalStimuli,
    GaborSearch,
    Transplant,
    CrossActivation,
    DiverseStimuli,
)
