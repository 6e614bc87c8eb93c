"""The kernels' compiled ops."""

from __future__ import annotations

from pathlib import Path

from foundation.native_library import NativeLibrary

SOURCES = Path(__file__).with_name("native")
LIBRARY = NativeLibrary("kernels", SOURCES)
