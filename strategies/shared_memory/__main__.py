"""`python -m strategies.shared_memory`: compiles the exchange if need be, and says whether ranks here can use it."""

from foundation.errors import UserError
from strategies.shared_memory.communicator import LIBRARY
from strategies.shared_memory.files import OwnFile

try:
    LIBRARY.load()
    OwnFile().close()
    print("exchange: shared memory")
except UserError as error:
    print(f"exchange: TensorFlow's collectives ({error.message})")
