"""`python -m ingestd`."""

from ingestd.cli import main

if __name__ == "__main__":  # a worker's interpreter may import this module under its own name
    main()
