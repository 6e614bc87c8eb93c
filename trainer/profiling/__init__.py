"""Where a step's time goes, rank by rank: TensorFlow's profiler over a few steps, its ops sorted into phases."""

from trainer.profiling.phases import PHASES, breakdown, phase_of
from trainer.profiling.recording import Op, Recording, recorded
from trainer.profiling.timeline import join_timelines, write_timeline
from trainer.profiling.watch import StepWatch

__all__ = [
    "PHASES",
    "Op",
    "Recording",
    "StepWatch",
    "breakdown",
    "join_timelines",
    "phase_of",
    "recorded",
    "write_timeline",
]
