"""`skillcompose` and `python -m skillcompose`."""

import sys

COMPUTING = frozenset({"train", "ask", "chat", "eval", "serve", "export", "doctor"})


def main() -> None:
    if COMPUTING.intersection(sys.argv[1:2]):
        from skillcompose.allocator import start_again

        start_again()
    from skillcompose.cli import main

    main()


if __name__ == "__main__":
    main()
