"""Ranks that would not compute the same numbers do not start together."""

from trainer.supervisor.agreement import disagreement
from trainer.supervisor.digests import code_digest, software_digests


def test_ranks_that_disagree_are_refused_in_one_message(supervised):
    program = """
        from trainer.main import exit_code_of
        def main():
            join({"job": "3f2a" if rank != 1 else "9c1d", "tensorflow": "2.20.0"})
            print("started")
        sys.exit(exit_code_of(main))
    """
    code, out, err = supervised.run(program, 3)
    assert code == 2
    assert out == ""
    assert err == (
        "error: the ranks disagree on what they run, so none of them starts:\n"
        "  job: ranks 0 and 2 have 3f2a; rank 1 has 9c1d\n"
        "Start every rank with the same job, code and environment.\n"
    )


def test_what_differs_is_named_and_what_is_missing_too():
    same = {"job": "a", "code": "b"}
    assert disagreement([same, dict(same)]) is None
    error = disagreement([same, {"job": "a", "code": "c"}, {"job": "a"}, same])
    assert "  code: ranks 0 and 3 have b; rank 1 has c; rank 2 has nothing" in error.message
    assert "job" not in error.message.splitlines()[1]


def test_a_rank_that_ends_without_joining_does_not_leave_the_others_waiting(supervised):
    program = """
        born()
        if rank == 0:
            join({})
    """
    code, _, err = supervised.run(program)
    assert code == 2
    assert "error: rank 1 of 2 did not join the others, who waited" in err
    assert supervised.all_gone()


def test_strangers_are_not_listened_to(supervised):
    program = """
        import socket, struct
        host, port = os.environ["HEADRACE_RENDEZVOUS"].split(":")
        wrong = b'{"token": "wrong"}'
        for said in (b"GET / HTTP/1.1", struct.pack(">I", len(wrong)) + wrong, b"\\0"):
            stranger = socket.create_connection((host, int(port)))
            stranger.sendall(said)
        silent = socket.create_connection((host, int(port)))
        with join({}):
            print("joined")
    """
    code, out, err = supervised.run(program)
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == ["[rank 0] joined", "[rank 1] joined"]


def test_the_digest_of_code_is_of_names_and_content_and_not_of_place(tmp_path):
    def digest(place, files):
        for name, content in files.items():
            path = tmp_path / place / "package" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return code_digest([tmp_path / place / "package"])

    files = {"a.py": "x = 1", "native/b.cc": "int b;"}
    first = digest("one", files)
    assert digest("two", {**files, "c.pyc": "compiled", "notes.md": "text"}) == first
    assert digest("three", {**files, "a.py": "x = 2"}) != first
    assert digest("four", {"z.py": "x = 1", "native/b.cc": "int b;"}) != first


def test_software_is_named_without_importing_it():
    digests = software_digests()
    assert set(digests) == {"code", "python", "tensorflow"}
    assert digests["tensorflow"].startswith("2.")
