"""Writes the nuclei of Arabidopsis ovules (go-nuclear's HDF5 crops) as TIFF volumes, as fit, tune and report.

    pip install h5py
    PLURIMASK_DATA=... python experiments/ovules.py FOLDER

Of the crop 1135 the slices 0-67 are fit/ and 72-99 tune/; the crop 1136, of another ovule, is report/.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import h5py
import tifffile

CROPS = Path("nuclei3d") / "gonuclear_ovule_nuclei"
PARTS = (("fit", 1135, slice(0, 68)), ("tune", 1135, slice(72, 100)), ("report", 1136, slice(0, 100)))
KINDS = {"images": "raw", "masks": "label"}  # folder -> name in the HDF5 file


def main(folder: Path) -> None:
    for part, number, along in PARTS:
        name = f"{number}_z{along.start:02}-{along.stop - 1:02}.tif"
        with h5py.File(Path(os.environ["PLURIMASK_DATA"]) / CROPS / f"{number}_mini.h5") as file:
            for kind, key in KINDS.items():
                (folder / part / kind).mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(folder / part / kind / name, file[key][along], imagej=True, metadata={"axes": "ZYX"})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
