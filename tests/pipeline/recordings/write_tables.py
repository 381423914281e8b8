"""Writes the stored tables of this folder: run it once under each version of pandas that is to be read.

Usage: python write_tables.py FOLDER. Written with pandas 1.0.5, 1.5.3, 2.2.3 and 3.1.1
(the last with pyarrow installed).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd


def table() -> pd.DataFrame:
    """Return two units and three scenes, with every kind of column that a lab might add."""
    rows = []
    for unit in (4, 9):
        for scene in range(3):
            rows.append(
                {
                    "m": "Ntsr1Cre_2019_0008",
                    "s": 3,
                    "u": unit,
                    "scene_id": scene,
                    "trange": [5.0 * scene, 5.0 * scene + 5.0],
                    "spike_times": 5.0 * scene + np.array([0.25, 1.5, 4.75]),
                    "psth": np.arange(4, dtype=np.float32),
                    "opto_tranges": [[5.0 * scene + 1, 5.0 * scene + 2]] if scene == 1 else [],
                    "sRF": np.arange(6.0).reshape(2, 3),
                    "ypos_um": 12.5 + unit,
                    "ypos_norm": np.float32(0.5),
                    "recorded": pd.Timestamp("2019-03-04 05:06:07"),
                    "recorded_utc": pd.Timestamp("2019-03-04", tz="UTC"),
                    "area": None,
                    "valid": True,
                }
            )
    frame = pd.DataFrame(rows)
    frame["layer"] = pd.Categorical(["a", "b"] * 3)
    frame["count"] = pd.array([1, 2, None, 4, 5, 6], dtype="Int64")
    frame["name"] = pd.array(["x", "yé", None, "", "z", "w"], dtype="string")
    frame["waited"] = pd.to_timedelta([1, 2, 3, 4, 5, 6], unit="s")
    frame["flag"] = pd.array([True, None] * 3, dtype="boolean")
    scalars = [pd.Timestamp("2020-01-01"), pd.NaT, pd.NA, pd.Timedelta(1, "s"), np.float64(2), np.int64(3)]
    frame["mixed"] = pd.Series(scalars, dtype=object)
    return frame


if __name__ == "__main__":
    for protocol in (2, 4):
        for suffix, frame in (("", table()), ("_selected", table()[table()["u"] == 9].set_index(["m", "scene_id"]))):
            name = f"pandas_{pd.__version__}_protocol_{protocol}{suffix}.pkl"
            frame.to_pickle(Path(sys.argv[1]) / name, protocol=protocol)
