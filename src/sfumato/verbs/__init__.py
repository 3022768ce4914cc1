"""The commands as Python functions, under the same names. ``cli`` parses and prints; everything is done here."""
