"""``python -m topnine`` is the command ``topnine``."""

from topnine.stages.cli.main import main

if __name__ == "__main__":
    main()
