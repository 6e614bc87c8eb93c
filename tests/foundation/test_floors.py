"""Rooms, and the packages of the index, import only from floors below their own; some rooms never import TensorFlow."""

import ast
import itertools
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
INDEX = "retrieval/index"
# The packages of the index; "" is what lies in its folder itself: a searcher and what it is made of.
INDEX_FLOORS = [[""], ["sources", "tuner", "items", "workers"], ["sharded", "filters"], ["live"], ["versions"]]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def _imported(room: str) -> set[str]:
    """Top-level packages that a room's files import, at any depth of their code."""
    return set().union(*(_imported_by(file) for file in (ROOT / room).rglob("*.py")))


def _imported_by(file: Path) -> set[str]:
    """Top-level packages that a file imports, and the full names of what it takes from modules."""
    found = set()
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


@pytest.mark.parametrize("package", [package for floor in INDEX_FLOORS for package in floor])
def test_a_package_of_the_index_imports_only_from_below(package):
    below = itertools.takewhile(lambda floor: package not in floor, INDEX_FLOORS)
    allowed = {package, *itertools.chain(*below)}
    for file in (ROOT / INDEX / package).glob("*.py"):
        if file == ROOT / INDEX / "__init__.py":  # the door to all of them
            continue
        parts = [name.split(".") for name in _imported_by(file) if name.startswith("retrieval.index.")]
        named = {part[2] if (ROOT / INDEX / part[2]).is_dir() else "" for part in parts}
        assert named <= allowed, file
