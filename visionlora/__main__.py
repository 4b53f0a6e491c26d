"""``python -m visionlora COMMAND``: the console script."""

from visionlora.cli import main

if __name__ == "__main__":
    main()
