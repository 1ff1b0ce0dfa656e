"""The command `demask-hf`.

Read `main.py` first: it finds the file that has the name of the command, and turns errors into one line and an exit
code. Each of those files holds the options of its command as dataclasses, its parser (`make_parser`) and its action
(`run`); `strategies.py` is the shortest one. `options.py` holds what several commands share, `prompts.py` what they
read: prompts, tasks and training data. `demask_hf_command.py`, next to the package, is where the console script starts.

These files import whatever imports torch inside of functions only: arguments are parsed, and help is printed, before the
package itself is imported. What says defaults in the code is therefore read from its source (`documented.py`), and what
needs the code to be checked is checked by a method `check` of the options.
"""

from .main import main


__all__ = ["main"]
