"""Rooms import only from floors below their own, and some of them never import TensorFlow."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = [
    ["foundation"],
    ["strategies", "inputs"],
    ["embeddings"],
    ["retrieval", "ranking", "postranking", "evaluation"],
    ["serving"],
    ["trainer"],
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def _imported(room: str) -> set[str]:
    """Top-level packages that a room's files import, at any depth of their code."""
    found = set()
    for file in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module.split(".")[0])
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", FLOOR_OF)
def test_a_room_imports_only_from_below(room):
    others = {name for name in _imported(room) if name in FLOOR_OF} - {room}
    assert {other for other in others if FLOOR_OF[other] >= FLOOR_OF[room]} == set()


@pytest.mark.parametrize("room", ["inputs", "postranking", "evaluation"])
def test_rooms_of_numbers_do_without_tensorflow(room):
    assert _imported(room) & {"tensorflow", "foundation.tf", "foundation.tensors", "tf_keras"} == set()


@pytest.mark.parametrize("room", [room for room in FLOOR_OF if room != "foundation"])
def test_tensorflow_comes_through_its_one_gateway(room):
    assert "tensorflow" not in _imported(room)
    assert "benchmarks" not in _imported(room)
