"""Chatter is hidden, unless it may explain an error."""

import os
import threading

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


def test_blocks_of_several_threads_overlap_and_stderr_comes_back(capfd):
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first():
        with native_stderr_hidden():
            first_in.set()
            second_in.wait()
        first_out.set()

    def second():
        first_in.wait()
        with native_stderr_hidden():
            second_in.set()
            first_out.wait()
            os.write(2, b"chatter")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
