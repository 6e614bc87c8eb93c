"""Chatter is hidden, unless it may explain an error."""

import os

import pytest

from foundation.quiet import native_stderr_hidden


def test_what_a_library_writes_is_hidden(capfd):
    with native_stderr_hidden():
        os.write(2, b"chatter")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_before_an_error_it_is_shown(capfd):
    def fail():
        with native_stderr_hidden():
            os.write(2, b"the reason")
            raise RuntimeError("failed")

    with pytest.raises(RuntimeError):
        fail()
    assert capfd.readouterr().err == "the reason"
