"""The command `lm_eval` with the model class `demask`, which it cannot find itself because it has no plugins."""

try:
    from lm_eval.__main__ import cli_evaluate
except ImportError:
    raise ImportError("`lm-eval` must be installed for this command: pip install demask-hf[harness].") from None

from . import model  # noqa: F401 - importing it registers the class


if __name__ == "__main__":
    cli_evaluate()
