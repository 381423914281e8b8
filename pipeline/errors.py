"""The errors that users meet. Each names what is wrong (file, trial, unit, field or key) and what to do."""

from __future__ import annotations


class GeniculateError(Exception):
    """Base class: the command line prints these as one sentence, without a traceback."""


class RecordingError(GeniculateError):
    """A source on disk is missing, damaged or does not agree with itself."""


class ConfigurationError(GeniculateError):
    """A configuration has an unknown field or a value outside its range."""


class DatasetError(GeniculateError):
    """A converted dataset is missing, incomplete or not what its row says."""


class TrainingError(GeniculateError):
    """Training cannot go on: the message says at which batch and why."""


class ConnectionRefusedByDesign(GeniculateError):  # noqa: N818 - the name says that it is no fault
    """The configured server is one that this pipeline cannot work with."""
