"""``python -m sfumato`` is ``sfumato``."""

from sfumato.cli.main import main

if __name__ == "__main__":
    main()
