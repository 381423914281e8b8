"""What was shown, in which trial, and which tier each stimulus belongs to."""

from __future__ import annotations

import datajoint as dj

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
    trial_opto_seconds : float64  # (s) optogenetic light within the trial
    stimulus_name : varchar(255)  # name of the stimulus in the source
    """


@schema
class ExcludedTrial(dj.Manual):
    """A trial that no dataset may use."""

    definition = """
    # A trial that no dataset may use
    -> Trial
    ---
    exclusion_comment : varchar(255)  # why
    """


@schema
class ConditionTier(dj.Manual):
    """The tier of a stimulus in a scan: from the source where it has them, else from the hash. Stored once."""

    definition = """
    # Tier of a stimulus in a scan
    -> recording.Scan
    -> Condition
    ---
    tier : varchar(16)  # 'train', 'validation' or 'test'
    """
