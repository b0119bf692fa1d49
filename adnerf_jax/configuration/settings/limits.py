"""Ranges that several settings share. A most beyond any use keeps a slip or a damaged file from taking all memory."""

INT32 = 2**31 - 1  # compiled programs count in int32
COUNT = (1, INT32)
COUNT_OR_NONE = (0, INT32)
SEED = (0, 2**63 - 1)  # keys of 64 bits
FACTOR = (0, 10**6)
WIDTH = (1, 2**14)
LEVELS = (0, 24)  # float32 has 24 binary digits: a sine of a higher frequency has none left
RAYS = (1, 2**24)
RESOLUTION = (1, 2**19)  # of the finest grid in Instant NGP's experiments
TABLE = (1, 2**24)  # entries of the largest tables there
