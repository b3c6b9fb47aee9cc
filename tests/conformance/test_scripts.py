"""Every case of the conformance scripts against a broker, over real sockets."""

import pytest

import run_scripts
import script

CASES = [case for file in run_scripts.all_files() for case in script.parse(file)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case(case, broker):
    address, offers = broker
    missing = set(case.needs) - offers
    if missing:
        pytest.skip(f"needs {', '.join(sorted(missing))}")
    try:
        run_scripts.play(case, address)
    except run_scripts.Failure as failure:
        pytest.fail(str(failure), pytrace=False)
