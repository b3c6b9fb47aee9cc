"""The tests of the checker: no broker, no network."""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
# `checker` from the directory above; `story` and `sim` from this one.
sys.path[:0] = [str(HERE), str(HERE.parent)]
