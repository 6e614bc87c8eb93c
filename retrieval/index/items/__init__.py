"""The items of an index that changes: the slots they lie in, their attributes, the tree over them."""
