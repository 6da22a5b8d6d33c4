"""Text of users, as it may be stored and as it is shown. Standard library only."""


def is_text(words: str) -> bool:
    """Whether the words can be encoded as UTF-8.

    Bytes of the command line that are not UTF-8 become surrogates, which no database takes.
    """
    try:
        words.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(words: str) -> str:
    """The words on one line, with escapes such as \\n or \\x1b for what a terminal would obey."""
    return "".join(map(_visible, words))


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()
