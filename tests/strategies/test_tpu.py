"""Strategy "tpu" without a TPU: what it says, that it says it soon, and how a batch is shared out."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.errors import UserError
from foundation.tf import tf
from strategies import is_tpu, tpu

ROOT = Path(__file__).parents[2]
NEEDS = ("a Cloud TPU VM", "tensorflow-tpu 2.20.0", "in place of tensorflow", "TPU_NAME", "TPU_ZONE", "TPU_PROJECT")


@contextmanager
def server(answer: bytes | None):
    """A loopback port that takes connections and answers them so, or never; gives HOST:PORT and who came."""
    came: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                came.append(connection)
                if answer is not None:
                    connection.recv(4096)
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", came
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in came:
        connection.close()


def unused() -> str:
    """A loopback address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.skipif(tpu._installed("tensorflow-tpu"), reason="tensorflow-tpu is here")
@pytest.mark.parametrize("name", [None, "local", "my-tpu", "grpc://10.255.255.1:8470"])
def test_without_a_tpu_one_message_says_what_is_needed_and_nobody_is_asked(name):
    """In a process of its own, whose metadata server takes connections and never answers."""
    program = (
        "from foundation.errors import UserError\n"
        "from strategies import create_strategy\n"
        "try: create_strategy('tpu')\n"
        "except UserError as error: print(error.message, '|', error.remedy)\n"
    )
    with server(answer=None) as (address, came):
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("TPU_", "KUBE_"))}
        environment |= {"GCE_METADATA_HOST": address, "GCE_METADATA_IP": address}
        environment |= {"TPU_NAME": name} if name else {}
        done = subprocess.run(
            [sys.executable, "-c", program],
            check=False,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert (done.returncode, came) == (0, []), done.stderr
    assert done.stdout.startswith(
        "tpu: there is no TPU to be had here: the TensorFlow installed is not tensorflow-tpu."
    )
    assert all(need in done.stdout for need in NEEDS)


@pytest.fixture
def tpu_build(monkeypatch):
    """As if tensorflow-tpu were installed."""
    monkeypatch.setattr(tpu, "_installed", lambda distribution: True)


@pytest.mark.usefixtures("tpu_build")
def test_a_name_is_wanted():
    with pytest.raises(UserError, match="TPU_NAME is not set"):
        tpu._resolver({})


@pytest.mark.usefixtures("tpu_build")
@pytest.mark.skipif(bool(list(Path("/dev").glob("accel*"))) or Path("/dev/vfio").exists(), reason="there may be chips")
def test_local_chips_are_looked_for_before_tensorflow_is_asked():
    with pytest.raises(UserError, match=r"'local', and this machine has no TPU \(/dev/accel"):
        tpu._resolver({"TPU_NAME": "local"})


@pytest.mark.usefixtures("tpu_build")
def test_a_metadata_server_that_never_answers_is_not_waited_for(monkeypatch):
    with server(answer=None) as (address, came):
        monkeypatch.setenv("GCE_METADATA_HOST", address)
        with pytest.raises(UserError, match=r"TPU_NAME is 'my-tpu', and it was not found in 0\.5 s"):
            tpu._resolver({"TPU_NAME": "my-tpu"}, seconds=0.5)
        assert len(came) == 1


@pytest.mark.usefixtures("tpu_build")
@pytest.mark.parametrize("answer", [b"HTTP/1.0 404 Not Found\r\n\r\n", b"what?"])
def test_a_metadata_server_that_does_not_know_is_reported(monkeypatch, answer):
    with server(answer) as (address, _):
        monkeypatch.setenv("GCE_METADATA_HOST", address)
        with pytest.raises(UserError, match="TPU_NAME is 'my-tpu', and where that is was not found"):
            tpu._resolver({"TPU_NAME": "my-tpu"}, seconds=30)


@pytest.mark.usefixtures("tpu_build")
@pytest.mark.skipif(find_spec("googleapiclient") is not None, reason="Google's client is here, and would be used")
def test_with_zone_and_project_no_metadata_server_is_asked(monkeypatch):
    """What is asked then, Google's API, wants a client that is not installed, and that is said."""
    with server(answer=None) as (address, came):
        monkeypatch.setenv("GCE_METADATA_HOST", address)
        named = {"TPU_NAME": "my-tpu", "TPU_ZONE": "nowhere-1", "TPU_PROJECT": "nothing"}
        with pytest.raises(UserError, match=r"where that is was not found \(.*cloud-tpu-client"):
            tpu._resolver(named, seconds=30)
        assert came == []


@pytest.mark.usefixtures("tpu_build")
def test_a_worker_that_does_not_answer_is_named():
    gone = unused()
    with server(answer=None) as (there, _), pytest.raises(UserError, match=f"its worker {gone} does not answer"):
        tpu._resolver({"TPU_NAME": f"grpc://{there},grpc://{gone}"}, seconds=30)


@pytest.mark.usefixtures("tpu_build")
@pytest.mark.parametrize("variable", ["TPU_NAME", "KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS"])
def test_workers_that_answer_make_the_cluster(variable):
    with server(answer=None) as (one, _), server(answer=None) as (other, _):
        resolver = tpu._resolver({variable: f"grpc://{one},grpc://{other}"}, seconds=30)
    assert resolver.cluster_spec().as_dict() == {"worker": [one, other]}


# Batches.


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=4), st.integers(1, 4))
def test_replicas_parts_make_the_batch(rows, replicas):
    rows = rows * replicas
    ragged = tf.ragged.constant(rows, dtype=tf.int32, ragged_rank=1)
    dense = np.arange(len(rows) * 2).reshape(-1, 2)
    batch = {"dense": dense, "ragged": ragged, "pair": (ragged, ragged.with_values(tf.cast(ragged.values, tf.float32)))}
    parts = [tpu.part_of(batch, replica, replicas) for replica in range(replicas)]
    each = len(rows) // replicas
    for part in parts:
        assert part["dense"].shape == [each, 2]
        assert part["ragged"].shape == [each, None]
        assert part["pair"][1].dtype == tf.float32
    assert np.array_equal(np.concatenate([part["dense"] for part in parts]), dense)
    assert tf.concat([part["ragged"] for part in parts], 0).to_list() == rows
    assert tf.concat([part["pair"][0] for part in parts], 0).to_list() == rows


def test_rows_that_cannot_be_shared_out_are_an_error():
    with pytest.raises(UserError, match=r"a batch of 7 rows for 4 cores\.\n.*that 4 divides"):
        tpu.part_of({"x": tf.zeros((7, 2))}, 0, 4)


def test_here_is_no_tpu():
    assert not is_tpu(tf.distribute.get_strategy())
    assert not is_tpu(tf.distribute.MirroredStrategy(["CPU:0"]))
