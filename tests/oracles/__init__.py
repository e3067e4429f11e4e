"""What the papers say, one scalar at a time: another algorithm than the code's.

Every oracle takes the case's tensors and scalars by name and returns the outputs as nested lists.
"""
