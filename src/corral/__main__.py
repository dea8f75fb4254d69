"""python -m corral: the command line, for torchrun."""

from corral.cli.main import main

if __name__ == "__main__":
    main()
