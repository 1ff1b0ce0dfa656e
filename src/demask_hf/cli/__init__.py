"""The command `demask-hf`.

Read `main.py` first: it finds the file that has the name of the command, and turns errors into one line and an exit
code. Each of those files holds the options of its command as dataclasses, its parser (`make_parser`) and its action
(`run`); `strategies.py` is the shortest one. `options.py` holds what several commands share, `prompts.py` what they
read: prompts, tasks and training data. The console script starts in `demask_hf_command.py`, next to the package.

These files import what imports torch inside of functions only: arguments are parsed, and help is printed, before the
package itself is imported. So defaults and descriptions of functions are read from their source (`documented.py`), and
values that only the code can check are checked afterwards, by a method `check` of the options.
"""

from .main import main


__all__ = ["main"]
