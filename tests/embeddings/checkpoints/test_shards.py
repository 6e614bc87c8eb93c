"""Arrays that we write are arrays that tensorstore reads, whoever puts their bytes together."""

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings.checkpoints import arrays
from embeddings.checkpoints.arrays import Reader, Writer
from embeddings.kernels.checksum import crc32c
from foundation.errors import UserError

needs_checksums = pytest.mark.skipif(crc32c() is None, reason="no compiler here: tensorstore writes")


@needs_checksums
def test_the_checksum_is_castagnolis():
    checksum = crc32c()
    assert checksum(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283  # the check value of CRC-32C/iSCSI
    assert checksum(np.zeros(32, np.uint8)) == 0x8A9136AA  # RFC 3720, B.4
    assert checksum(np.zeros(0, np.uint8)) == 0


def _written(root, path, values, together):
    writer = Writer(root, path, values.shape, ts.dtype(values.dtype).name, together)
    for piece in writer.pieces():
        writer.write(piece, values[piece].copy())
    return writer.close()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=3),
    st.lists(st.integers(1, 9), min_size=3, max_size=3),
    st.sampled_from(["float32", "int64", "bfloat16", "float16", "uint8"]),
    st.integers(200, 4000),
)
def test_any_array_is_the_same_to_tensorstore(tmp_path_factory, shape, together, dtype, per_file):
    root = tmp_path_factory.mktemp("arrays")
    plain = np.arange(np.prod(shape)).reshape(shape) % 200
    values = plain.astype(ts.dtype(dtype).numpy_dtype)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(arrays, "BYTES_PER_FILE", per_file)
        ours = _written(root, "ours", values, together[: len(shape)])
        patched.setattr(arrays, "checksum_for_shards", lambda: None)
        theirs = _written(root, "theirs", values, together[: len(shape)])
    assert ours.files.keys() == theirs.files.keys()
    for array in (ours, theirs):
        store = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{root / array.path}/"}}).result()
        assert np.array_equal(store.read().result(), values)
        assert np.array_equal(Reader(root, array).read(...), values)
    for name in ours.files:  # chunks may be in another order
        assert ours.files[name]["bytes"] == theirs.files[name]["bytes"]


@needs_checksums
@pytest.mark.parametrize("place", [0.1, 0.5, 0.999])
def test_a_flipped_bit_is_told(tmp_path, place):
    array = _written(tmp_path, "a", np.arange(4000, dtype=np.float32).reshape(100, 40), [10, 40])
    file = tmp_path / "a" / "c" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[int(len(content) * place)] ^= 4
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        Reader(tmp_path, array).check()
