"""Where z may lie: a prior names its ``space``, a posterior its own or its ``spaces``; R^d where nothing is said."""

REAL = "in all of R^d"
CODES = "among the codes of a quantiser"
