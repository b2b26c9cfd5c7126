"""The written definition of every result: the same names and signatures in plain NumPy."""
