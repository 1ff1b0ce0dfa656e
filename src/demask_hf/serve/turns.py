"""A function that stops to ask, and goes on with the answer: in a thread of its own, but never beside its owner."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class TurnTaker:
    """Runs a function in turns with its owner: exactly one of the two runs at any time.

    The denoising loop calls the model deep inside of it, also for the probes of a strategy. In turns it can be stopped
    at each such call, and many loops can be stopped at once, without a second loop that is written for it.

    Args:
        function (`Callable`):
            Called with `ask`, a function that hands a question to the owner and returns the owner's answer, or raises
            it if the answer is an exception.
    """

    def __init__(self, function: Callable[[Callable[[Any], Any]], Any]):
        self.is_over = False
        #: What the function raised, once it is over.
        self.error: BaseException | None = None
        self._function = function
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._questions: SimpleQueue[Any] = SimpleQueue()
        # An owner that is gone must not keep the process alive.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def resume(self, answer: Any = None) -> Any:
        """Let the function run until it asks, or ends, and return its question.

        Args:
            answer (`Any`, *optional*):
                Answer to its last question, an exception to raise there, or nothing for the first turn.

        Returns:
            The question; `None` if the function is over.
        """
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._answers.put(answer)
        return self._questions.get()

    def _ask(self, question: Any) -> Any:
        self._questions.put(question)
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _run(self) -> None:
        try:
            self._function(self._ask)
        except BaseException as error:
            self.error = error
        finally:
            self.is_over = True
            self._questions.put(None)
