"""Who was recorded, when, and which units were found."""

from __future__ import annotations

import datajoint as dj

from schemas.connection import schema as open_schema

schema = open_schema("recording")


@schema
class Subject(dj.Manual):
    """An animal.

    Attributes
    ----------
    subject : varchar
        Name of the animal: letters, digits, '-' and '_'.
    """

    definition = """
    # An animal
    subject : varchar(64)  # name of the animal
    """


@schema
class Session(dj.Manual):
    """One visit of an animal to the rig."""

    definition = """
    # One visit of an animal to the rig
    -> Subject
    session : int32  # number of the session
    """


@schema
class Scan(dj.Manual):
    """One recording: one population of units that watched one series of stimuli.

    Attributes
    ----------
    source_format : varchar
        Format of the source, a name of `pipeline.recordings.FORMATS`.
    source_location : varchar
        JSON of the reader's arguments: absolute paths and selections.
    source_fingerprint : varchar
        SHA-256 of what was read; conversion refuses a source that has changed since.
    response_unit : varchar
        What responses count or measure: 'spikes', 'dF/F'.
    stimulus_kind : varchar
        'image', 'video' or 'mixed': what preprocessing fits.
    scan_leaks : int32
        Stimuli that the source shows in several tiers; ``scan_leak_rule`` says what became of them.
    screen_width_deg, screen_height_deg : float64
        Size of the stimulus in the animal's field of view (deg); NULL if unknown.
    """

    definition = """
    # One recording
    -> Session
    scan_idx : int32  # number of the scan within its session
    ---
    source_format : varchar(32)  # reader that opens the source
    source_location : varchar(4096)  # JSON of the reader's arguments
    source_fingerprint : varchar(64)  # SHA-256 of what was read
    scan_units : int32  # units in the recording
    scan_trials : int32  # trials in the recording
    response_unit : varchar(32)  # what responses count or measure
    stimulus_kind : varchar(16)  # 'image', 'video' or 'mixed'
    scan_leaks : int32  # stimuli that the source shows in several tiers
    scan_leak_rule : varchar(16)  # what became of these: 'held-out', 'train' or 'exclude'; 'refuse': there are none
    screen_width_deg=null : float64  # (deg) width of the stimulus
    screen_height_deg=null : float64  # (deg) height of the stimulus
    scan_ingested=CURRENT_TIMESTAMP : datetime  # when the scan was ingested
    """

    class Unit(dj.Part):
        """One neuron of a scan."""

        definition = """
        # One neuron
        -> master
        unit_id : int32  # number of the unit within its scan
        ---
        unit_name : varchar(64)  # the laboratory's name for it
        """


@schema
class AreaMembership(dj.Manual):
    """The brain area in which a unit lies."""

    definition = """
    # Brain area of a unit
    -> Scan.Unit
    ---
    brain_area : varchar(64)  # such as 'V1' or 'dLGN'
    """


@schema
class LayerMembership(dj.Manual):
    """The layer in which a unit lies."""

    definition = """
    # Layer of a unit
    -> Scan.Unit
    ---
    layer : varchar(32)  # such as 'L2/3'
    """


@schema
class UnitPosition(dj.Manual):
    """Where a unit lies, in the coordinates of the laboratory."""

    definition = """
    # Where a unit lies
    -> Scan.Unit
    ---
    unit_x : float64  # (um) first coordinate
    unit_y : float64  # (um) second coordinate
    unit_z : float64  # (um) third coordinate, the depth
    """


@schema
class UnitMatch(dj.Manual):
    """Which neuron a unit is, where it is known to be that of another unit, in another scan or in its own."""

    definition = """
    # Which neuron a unit is
    -> Scan.Unit
    ---
    match_id : int32  # units of one animal with the same number are one neuron
    """
