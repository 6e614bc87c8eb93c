"""The HTTP service says what the funnel says, in this process and as the command users start."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient

from foundation.errors import UserError
from serving.service import application, serve

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "trainer.main"]


def timeless(document: dict) -> dict:
    return {**document, "stages": [{**stage, "milliseconds": 0} for stage in document["stages"]]}


@pytest.fixture(scope="module")
def client(funnel):
    with TestClient(application(funnel)) as client:
        yield client


class TestAnswers:
    def test_equal_the_funnels(self, client, funnel, known_user):
        blocked = funnel.recommend(known_user).items[0].item
        response = client.post("/recommend", json={"user": known_user, "size": 4, "block": [blocked]})
        assert response.status_code == 200
        expected = funnel.recommend(known_user, 4, [blocked]).document()
        assert timeless(response.json()) == timeless(json.loads(json.dumps(expected)))
        assert all(stage["milliseconds"] >= 0 for stage in response.json()["stages"])

    @pytest.mark.parametrize("body", [{}, {"user": None}])
    def test_no_user_is_a_newcomer(self, client, funnel, body):
        response = client.post("/recommend", json=body)
        assert response.status_code == 200
        assert timeless(response.json()) == timeless(funnel.recommend(None).document())

    def test_an_id_as_text_is_the_same_user(self, client, known_user):
        first, second = (client.post("/recommend", json={"user": user}) for user in (known_user, str(known_user)))
        assert timeless(first.json()) == timeless(second.json())

    def test_many_at_once_are_each_answered_as_if_alone(self, client, funnel, served):
        users = served.space.users.ids.to_pylist()[:8]
        answers = {}

        def ask(user):
            answers[user] = client.post("/recommend", json={"user": user}).json()

        threads = [threading.Thread(target=ask, args=(user,)) for user in users]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for user in users:
            assert timeless(answers[user]) == timeless(funnel.recommend(user).document())

    @pytest.mark.parametrize(
        ("body", "told"),
        [
            ({"user": 999_999}, "user 999999 is not in the log"),
            ({"user": "nobody"}, "user 'nobody' is not in the log"),
            ({"block": ["nothing"]}, "blocked item 'nothing' is not in the catalogue"),
        ],
    )
    def test_what_is_not_there_is_404_and_told(self, client, body, told):
        response = client.post("/recommend", json=body)
        assert response.status_code == 404
        assert told in response.json()["detail"]

    @pytest.mark.parametrize(
        "body", [{"size": 0}, {"size": 1_001}, {"size": "many"}, {"user": [1]}, {"block": 3}, {"usr": 1}, [], "x"]
    )
    def test_a_bad_body_is_422(self, client, body):
        assert client.post("/recommend", json=body).status_code == 422

    def test_what_is_no_json_is_422(self, client):
        response = client.post("/recommend", content=b"{", headers={"content-type": "application/json"})
        assert response.status_code == 422

    def test_health_says_what_is_served(self, client, served):
        response = client.get("/health")
        assert response.status_code == 200
        assert response.json() == {"name": "a test", "now": served.card.now, "users": 30, "items": 120}


class TestCommand:
    def test_serve_answers_as_recommend_does_and_stops_on_interrupt(self, served, known_user):
        words = [*COMMAND, "serve", "--run", str(served.run), "--port", "0"]
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        guard = threading.Timer(120, process.kill)
        guard.start()
        try:
            told = ""
            while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", told)):
                line = process.stderr.readline()
                assert line, told
                told += line
            children = psutil.Process(process.pid).children(recursive=True)
            response = httpx.post(f"{found[0]}/recommend", json={"user": known_user}, timeout=30)
            assert response.status_code == 200
            process.send_signal(signal.SIGINT)
            _, rest = process.communicate(timeout=30)
        finally:
            guard.cancel()
            process.kill()
            process.communicate()
        assert process.returncode == 130, rest
        assert "Traceback" not in told + rest
        assert not [child for child in children if child.is_running()]
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{found[0]}/health", timeout=5)

        asked = ["recommend", "--run", str(served.run), "--user", str(known_user), "--json"]
        command = subprocess.run([*COMMAND, *asked], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        assert command.returncode == 0, command.stderr
        assert timeless(json.loads(command.stdout)) == timeless(response.json())

    def test_an_address_that_is_taken_is_told(self, served):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(UserError, match=f"127.0.0.1:{port}: cannot listen there") as caught:
                serve(served.run, "127.0.0.1", port)
        assert "--port" in caught.value.remedy
