"""The one door to ScaNN's updatable searcher.

`import scann` also imports TensorFlow (0.7 GB, seconds), which neither a worker that builds a shard nor a server that
searches one needs: the extension that holds the searcher is a library of its own in the wheel, imported from there.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from typing import Any

from foundation.errors import UserError


@cache
def scann_numpy() -> Any:
    """ScaNN's class `ScannNumpy`: made of (vectors, config text, training threads) or of (folder, assets text).

    Raises:
      UserError: ScaNN is not installed, or is another release than the one this is written for.
    """
    found = importlib.util.find_spec("scann")
    if found is None or not found.submodule_search_locations:
        raise UserError("the index: ScaNN is not installed.", "Install it: pip install scann==1.4.2.")
    folder = f"{found.submodule_search_locations[0]}/scann_ops/cc/python"
    sys.path.append(folder)
    try:
        return importlib.import_module("scann_pybind").ScannNumpy
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{folder}: ScaNN's extension does not load ({error}).", "Install it again: pip install scann==1.4.2."
        ) from error
    finally:
        sys.path.remove(folder)
