"""Floor 0: what every room stands on: user errors, atomic files, progress, the one TensorFlow gateway."""
