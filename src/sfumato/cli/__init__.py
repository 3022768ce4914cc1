"""The command line: parses, prints, and leaves the work to :mod:`sfumato.verbs`.

Results go to stdout, talk to stderr. Nothing heavy is imported before a command needs it.
"""
