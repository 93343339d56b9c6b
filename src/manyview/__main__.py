"""`python -m manyview` is the `manyview` command."""

from manyview.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
