"""A library of C++ ops is compiled once for a machine, whoever asks for it, and when its sources change."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from foundation.errors import UserError
from foundation.native_library import NativeLibrary

ROOT = Path(__file__).parents[2]
OP = """
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op_kernel.h"
REGISTER_OP("TestsAnswer").Output("answer: int64").SetShapeFn(tensorflow::shape_inference::ScalarShape);
class AnswerOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(tensorflow::OpKernelContext* context) override {
    tensorflow::Tensor* answer;
    OP_REQUIRES_OK(context, context->allocate_output(0, {}, &answer));
    answer->scalar<int64_t>()() = 42;
  }
};
REGISTER_KERNEL_BUILDER(Name("TestsAnswer").Device(tensorflow::DEVICE_CPU), AnswerOp);
"""
ASK = """
import sys
from pathlib import Path
from foundation.native_library import NativeLibrary
print(int(NativeLibrary("answers", Path(sys.argv[1])).load().tests_answer()))
"""
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler here")


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "native"
    folder.mkdir()
    (folder / "answer.cc").write_text(OP)
    return folder


def test_two_processes_may_start_with_a_cold_cache(sources, tmp_path):
    cache = tmp_path / "cache"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, str(sources)],
            cwd=ROOT,
            env={**os.environ, "HEADRACE_CACHE": str(cache), "HEADRACE_CXXFLAGS": "-O0"},  # sooner compiled
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    (one, said), (two, also_said) = (process.communicate(timeout=300) for process in processes)
    assert (one, two) == ("42\n", "42\n"), said + also_said
    assert (said + also_said).count("answers: compiling") == 1, "the other waited for it"
    assert [path.suffix for path in sorted(cache.iterdir())] == [".lock", ".so"]


def test_what_does_not_compile_is_told_and_leaves_nothing(sources, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    (sources / "answer.cc").write_text("int answer() { return forty_two; }")
    with pytest.raises(UserError, match=r"answers: g\+\+ failed: .*forty_two"):
        NativeLibrary("answers", sources).load()
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
