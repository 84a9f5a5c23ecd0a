"""Notices of C++ libraries do not reach standard error; everything else does."""

import os
import subprocess
import sys

import pytest

from shared.library_notices import NOTICES, library_notices_dropped


@pytest.mark.parametrize("notice", NOTICES)
def test_a_notice_is_dropped_and_other_lines_are_kept_in_order(capfd, notice):
    with library_notices_dropped():
        os.write(2, b"first\n")
        os.write(2, b"I0000 00:00 1 " + notice + b", and so on.\n")
        os.write(2, b"second\n")
    os.write(2, b"third\n" + notice + b"\n")
    assert capfd.readouterr().err == f"first\nsecond\nthird\n{notice.decode()}\n"


def test_lines_before_an_error_are_kept(capfd):
    def fail() -> None:
        with library_notices_dropped(), library_notices_dropped():
            os.write(2, b"no line end")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert capfd.readouterr().err == "no line end"


def test_a_process_without_standard_error_goes_on():
    code = "from shared.library_notices import library_notices_dropped as d\nwith d(): print('on')"
    ended = subprocess.run(
        ["/bin/sh", "-c", 'exec 2>&-; exec "$0" -c "$1"', sys.executable, code],
        capture_output=True,
        check=True,
    )
    assert ended.stdout == b"on\n"
