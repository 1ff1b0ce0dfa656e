"""Grammars of the option `constraint`: those that are regular, as one regular expression."""

import re


# A definition of a rule; names of terminals are upper case.
_RULE = re.compile(r"^[?!]*_?[a-z]\w*(\{[^}]*\})?(\.-?\d+)?\s*:", re.MULTILINE)


def expression_of_grammar(grammar: str) -> str:
    r"""Return the regular expression of a grammar in Lark's notation that consists of terminals, from START on.

    Terminals refer to each other but not to themselves, so they have an automaton with finitely many states. A
    grammar with recursive rules has none in general.

    Args:
        grammar (`str`):
            The terminals.

    Raises:
        ValueError: if it has rules, recursion, an error, or START matches the empty text.
        ImportError: if the package lark is missing.

    Example:

    ```python
    >>> expression_of_grammar('START: PAIR (", " PAIR)*\nPAIR: DIGIT "+" DIGIT\nDIGIT: "0".."9"')  # doctest: +SKIP
    '[0-9]\\+[0-9](?:,\\ [0-9]\\+[0-9])*'

    ```
    """
    try:
        from lark import Lark
        from lark.exceptions import LarkError
    except ImportError as error:
        raise ImportError('A grammar needs the package lark: pip install "demask-hf[constraints]".') from error
    rule = "`constraint` must hold a grammar of terminals (upper case) in Lark's notation that begins with START"
    if _RULE.search(grammar) or re.search(r"^\s*%ignore\b", grammar, re.MULTILINE):
        raise ValueError(
            f"{rule}, without rules (lower case) and %ignore, which need more than finitely many states, got "
            f"{grammar!r}."
        )
    try:
        return str(
            Lark(f"start: START\n{grammar}", parser="lalr", lexer="basic").get_terminal("START").pattern.to_regexp()
        )
    except LarkError as error:
        raise ValueError(f"{rule}, got {grammar!r}: {str(error).splitlines()[0]}.") from error
