"""What was shown, in which trial, and which tier each stimulus belongs to."""

from __future__ import annotations

from typing import Any

import datajoint as dj

from pipeline.errors import DatasetError
from schemas import recording
from schemas.connection import schema as open_schema

schema = open_schema("stimulus")


@schema
class Condition(dj.Manual):
    """One distinct stimulus, named by its pixels: the same movie in two scans is one condition."""

    definition = """
    # One distinct stimulus
    condition_hash : varchar(64)  # SHA-256 of shape, dtype, frame rate and pixels
    ---
    condition_kind : varchar(16)  # 'video' or 'image'
    """

    class Video(dj.Part):
        """A movie, as it is in the source."""

        definition = """
        # A movie, as it is in the source
        -> master
        ---
        video_frames : int32  # number of frames
        video_rate : float64  # (Hz) frames a second
        video_height : int32  # (px) height of a frame
        video_width : int32  # (px) width of a frame
        video_channels : int32  # 1 for grey, 3 for colour
        """

    class Image(dj.Part):
        """A still image, as it is in the source."""

        definition = """
        # A still image, as it is in the source
        -> master
        ---
        image_height : int32  # (px) height
        image_width : int32  # (px) width
        image_channels : int32  # 1 for grey, 3 for colour
        """


@schema
class Trial(dj.Manual):
    """One presentation of one stimulus."""

    definition = """
    # One presentation of one stimulus
    -> recording.Scan
    trial_idx : int32  # number of the trial in order of time, from 0
    ---
    -> Condition
    trial_start : float64  # (s) on the recording's clock
    trial_duration : float64  # (s) duration
    trial_opto_seconds : float64  # (s) optogenetic light within the trial, over all trains of light
    trial_withheld : bool  # the source keeps the responses to itself
    stimulus_name : varchar(255)  # name of the stimulus in the source
    stimulus_type : varchar(64)  # class of stimuli that the source counts it to; empty if it tells none
    """


@schema
class ExcludedTrial(dj.Manual):
    """A trial that no dataset may use. Exclude trials before the scan is converted."""

    definition = """
    # A trial that no dataset may use
    -> Trial
    ---
    exclusion_comment : varchar(255)  # why
    """

    def insert(self, rows: Any, **options: Any) -> None:
        """Exclude trials.

        Raises
        ------
        DatasetError
            If a dataset was made from the scan already: it, and the models trained on it, hold these trials.
        """
        from schemas.dataset import Dataset  # which refers to this module

        rows = rows.to_dicts() if isinstance(rows, dj.expression.QueryExpression) else list(rows)
        names = recording.Scan().primary_key
        for scan in {tuple(row[name] for name in names) for row in rows}:
            key = dict(zip(names, scan, strict=True))
            if len(Dataset & key):
                raise DatasetError(
                    f"scan {key} was converted already, with the trials that are now to be excluded: first delete its "
                    f"Dataset, (Dataset & {key}).delete(), then exclude them and populate again"
                )
        super().insert(rows, **options)


@schema
class ConditionTier(dj.Manual):
    """The tier of a stimulus in a scan: from the source where it has them, else from the hash. Stored once."""

    definition = """
    # Tier of a stimulus in a scan
    -> recording.Scan
    -> Condition
    ---
    tier : varchar(16)  # 'train', 'validation', 'test', 'final' or 'ood'
    """
