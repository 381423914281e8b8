"""What the parts of a network need of data, each said once: it is asked when networks are planned and when built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.configuration import Configuration
from pipeline.errors import ConfigurationError


@dataclass(frozen=True)
class Need:
    """Something that a part of a network needs of the scans.

    Attributes
    ----------
    what : str
        Its name, such as 'the position of the pupil'.
    met : callable
        Tells whether a scan, by its `ScanInfo` or `ReadoutSite`, has it.
    remedy : str
        What to do without it.
    by : str
        Setting of the part that asks for it; empty if the kind itself does.
    given_by : mapping
        Settings of data configurations that give it, and the values, a tuple or a range, that do.
    everywhere : bool
        Whether every scan must have it; otherwise one is enough.
    """

    what: str
    met: Callable[[Any], bool]
    remedy: str
    by: str = ""
    given_by: Mapping[str, tuple[str, ...] | range] = field(default_factory=dict)
    everywhere: bool = False

    def require(self, part: Configuration, scans: Mapping[str, Any], data: Configuration | None = None) -> None:
        """Refuse scans that lack it.

        Parameters
        ----------
        part : Configuration
            Which needs it.
        scans : mapping
            What `met` judges, by data_key.
        data : Configuration, optional
            How the scans are seen, if known: named if it is what keeps the part from what the scans have.

        Raises
        ------
        ConfigurationError
            Naming the setting, what it may be and the remedy.
        """
        without = [data_key for data_key, scan in scans.items() if not self.met(scan)]
        if not without or (len(without) < len(scans) and not self.everywhere):
            return
        who = f"{part.kind()}.{self.by}: {getattr(part, self.by)!r}" if self.by else part.kind()
        for name, values in self.given_by.items():
            value = getattr(data, name, None)
            if value is not None and value not in values:
                assert data is not None
                raise ConfigurationError(
                    f"{data.kind()}.{name}: {value!r} is not allowed with {who}, which needs {self.what}: "
                    f"it must be {_in_words(values)}, or {self.remedy}"
                )
        whose = f"{without[0]!r} does not have" if self.everywhere else "no scan has"
        raise ConfigurationError(f"{who} needs {self.what}, which {whose}: {self.remedy}")


def _in_words(values: tuple[str, ...] | range) -> str:
    return f">= {values.start}" if isinstance(values, range) else " or ".join(map(repr, values))


@dataclass(frozen=True)
class NetworkPart(Configuration):
    """Base of the kinds that networks are made of: cores, recurrent modules, readouts, shifters, modulators."""

    def needs(self) -> tuple[Need, ...]:
        """Return what this part needs of the scans; most need nothing."""
        return ()


def movies(why: str, remedy: str) -> Need:
    """Return the need of something that makes no sense of a single frame."""
    given_by = {"stimulus": ("videos",)}
    return Need(f"movies, for {why}", lambda scan: scan.shows_movies, remedy, given_by=given_by, everywhere=True)
