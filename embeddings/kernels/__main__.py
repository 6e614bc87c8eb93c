"""`python -m embeddings.kernels`: compiles the kernels if need be, and says whether they are used."""

from embeddings.kernels import compiled

print("kernels: " + ("compiled" if compiled() else "TensorFlow's own ops"))
