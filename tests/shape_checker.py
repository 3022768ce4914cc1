"""The type checker of the test run: beartype, for which a whole number is a legal float, as in the typing standard."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
