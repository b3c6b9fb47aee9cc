"""The tests of the driver's parts that need no root and no broker."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
