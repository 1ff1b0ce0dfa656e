"""A JSON schema of a request is compiled in a process of its own first, which may not take long, nor much memory."""

import functools
import json
import subprocess
import sys
from typing import Any


#: Seconds and bytes that a schema may take.
MAX_SECONDS, MAX_BYTES = 10, 1 << 30
# Transitions over the tokens of a model, about; each takes some hundred bytes for a moment.
MAX_TRANSITIONS = 4_000_000
# Prints the number of transitions over bytes; what is no valid schema is refused later, with a reason.
_PROGRAM = """
import sys
from outlines_core import Index, Vocabulary
from outlines_core.json_schema import build_regex_from_schema
try:
    import resource
except ImportError:
    pass
else:
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
try:
    expression = build_regex_from_schema(sys.stdin.read())
    index = Index(expression, Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)}))
    print(sum(map(len, index.get_transitions().values())))
except (TypeError, ValueError):
    print(0)
"""


def check_schema(schema: dict[str, Any], vocab_size: int) -> None:
    """Refuse a schema whose automaton is too large to be built for a request.

    Args:
        schema (`dict[str, Any]`):
            The schema.
        vocab_size (`int`):
            Number of tokens of the model.

    Raises:
        ValueError: if it takes too much time, memory or transitions.
        ImportError: if the package outlines-core is missing.
    """
    try:
        import outlines_core  # noqa: F401
    except ImportError as error:
        raise ImportError(
            '`response_format` needs the package outlines-core on the server: pip install "demask-hf[constraints]".'
        ) from error
    count = _num_transitions(json.dumps(schema))
    # A state that reads a share of all bytes reads about that share of the tokens.
    if count is None or count * vocab_size > 256 * MAX_TRANSITIONS:
        raise ValueError(
            "`response_format` must hold a schema that is compiled with little time and memory, got one with too "
            "many states; limits such as maxLength are the usual cause."
        )


@functools.lru_cache(maxsize=256)
def _num_transitions(schema: str) -> int | None:
    """Return the number of transitions over bytes of a schema; `None` if it took too much."""
    command = [sys.executable, "-c", _PROGRAM, str(MAX_BYTES)]
    try:
        ended = subprocess.run(
            command, input=schema, capture_output=True, text=True, encoding="utf-8", timeout=MAX_SECONDS, check=True
        )
    except subprocess.SubprocessError:
        return None
    return int(ended.stdout)
