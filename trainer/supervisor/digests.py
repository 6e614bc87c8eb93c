"""What a rank runs, in short: digests and versions for the ranks to compare before they start."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HOME = Path(__file__).parents[2]
PACKAGES = (
    "foundation",
    "strategies",
    "inputs",
    "embeddings",
    "retrieval",
    "ranking",
    "postranking",
    "evaluation",
    "serving",
    "trainer",
)
SOURCES = {".py", ".cc", ".h"}


def software_digests() -> dict[str, str]:
    """{"code": digest of headrace's own sources, "python": version, "tensorflow": version}, without importing it."""
    try:
        tensorflow = version("tensorflow")
    except PackageNotFoundError:
        tensorflow = "not installed"
    return {
        "code": code_digest(HOME / package for package in PACKAGES),
        "python": platform.python_version(),
        "tensorflow": tensorflow,
    }


def code_digest(roots: Iterable[Path]) -> str:
    """BLAKE2b, in 16 hex digits, of the names and content of every source file under `roots`. Where a root lies does
    not matter, what it is called does."""
    digest = hashlib.blake2b(digest_size=8)
    for root in sorted(roots):
        for file in sorted(path for path in root.rglob("*") if path.suffix in SOURCES):
            content = file.read_bytes()
            digest.update(f"{root.name}/{file.relative_to(root)}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()
