"""`python -m chatapi` is the command `chatapi`."""

from chatapi.cli import main

if __name__ == "__main__":
    main()
