"""Messages in pieces, lines in pieces, ports that stay free."""

import itertools
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.supervisor.lines import Lines
from trainer.supervisor.ports import HeldPorts
from trainer.supervisor.wire import LONGEST, Inbox, frame


def _pieces(content, cuts):
    edges = [0, *sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
    return [content[start:end] for start, end in itertools.pairwise(edges)]


MESSAGES = st.lists(st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
CUTS = st.lists(st.integers(0, 10_000))


@settings(max_examples=50, deadline=None)
@given(messages=MESSAGES, cuts=CUTS)
def test_messages_come_whole_however_they_are_cut(messages, cuts):
    inbox = Inbox()
    sent = b"".join(map(frame, messages))
    assert [message for piece in _pieces(sent, cuts) for message in inbox.receive(piece)] == messages


@pytest.mark.parametrize(
    "sent",
    [(LONGEST + 1).to_bytes(4, "big"), b"\0\0\0\1[", b"\0\0\0\2[]", b"\0\0\0\1\xff", b"\0\0\xff\0" + b"[" * 0xFF00],
)
def test_what_is_no_message_is_refused(sent):
    with pytest.raises(ValueError):  # noqa: PT011 - json's own among them
        list(Inbox().receive(sent))


@settings(max_examples=50, deadline=None)
@given(lines=st.lists(st.text(alphabet="ab é")), rest=st.text(alphabet="ab"), cuts=CUTS)
def test_lines_come_whole_however_they_are_cut(lines, rest, cuts):
    parts = Lines()
    written = "".join(f"{line}\n" for line in lines) + rest
    assert [line for piece in _pieces(written, cuts) for line in parts.receive(piece)] == lines
    assert parts.end() == ([rest] if rest else [])


def test_of_a_line_that_is_drawn_again_and_again_the_last_is_kept():
    lines = Lines()
    for percent in range(100_000):
        assert lines.receive(f"\r\x1b[2K\x1b[35m{percent}\x1b[0m %") == []
    assert lines.receive("\r\n") == ["99999 %"]


def test_a_held_port_is_free_for_its_server_alone():
    held = HeldPorts(2)
    first, second = (int(address.rpartition(":")[2]) for address in held.addresses)
    assert first != second
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", first))
    with socket.create_server(("0.0.0.0", first)), socket.create_connection(("127.0.0.1", first)):
        held.close()
    with socket.create_server(("127.0.0.1", second)):
        pass
