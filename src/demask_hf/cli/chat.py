"""`demask-hf chat`: talk to a model in a terminal, and see it write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .options import ModelOptions, SeededDecodingOptions, StrategyOptions, add_model, chosen_strategies
from .parser import CommandParser, option
from .prompts import warn_of_missing_space


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..evaluation.decoding import Decoding
    from ..generation.encoding import Prompt
    from ..generation.mixin import DemaskGenerationMixin
    from ..strategies import UnmaskingStrategy
    from .terminal import Screen

EXAMPLES = """examples:
  demask-hf chat FOLDER --head FOLDER --max-new-tokens 128
  demask-hf chat FOLDER --system "Answer in one sentence." --strategy threshold
  demask-hf chat < questions.txt > answers.txt

In a terminal each forward pass is shown as it happens: masks, and what this pass wrote. Elsewhere answers are plain
text on standard output, and everything else goes to standard error. A model whose tokenizer has no chat template, such
as that of the package, gets each line as it is, without the lines before it.
"""
HELP = """/strategy NAME FIELD=VALUE ...  decode with another strategy, such as: /strategy demask dependency_bound=0.1
/strategy                       say which strategy is used, and which ones there are
/reset                          forget what was said
/help                           show this
/quit                           end; so does Ctrl-D, and Ctrl-C stops an answer
A line that begins with // is sent with one slash."""
_PLAIN = "The tokenizer has no chat template: each line is sent as plain text, without the lines before it."


@dataclass(frozen=True)
class ChatOptions:
    """How the chat begins and is shown.

    Args:
        system (`str`, *optional*):
            Message to the model before the first one of yours.
        delay (`float`, *optional*, defaults to 0.0):
            Pause after each forward pass that is shown, in seconds.
    """

    _argument_group_name = "chat"

    system: str | None = option(metavar="TEXT")
    delay: float = option(0.0, metavar="SECONDS")


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    options = (ChatOptions, StrategyOptions, SeededDecodingOptions, ModelOptions)
    parser = CommandParser("chat", *options, epilog=EXAMPLES)
    add_model(parser)
    return parser


def run(
    options: ChatOptions,
    strategy: StrategyOptions,
    decoding: SeededDecodingOptions,
    model_options: ModelOptions,
    path: str | None,
) -> None:
    """Load the model, and answer lines until there are none."""
    from .terminal import Screen

    model_options = model_options.named(path)
    head = model_options.head_or_shipped
    chosen = chosen_strategies(strategy, None, head, model_options)
    model, tokenizer = model_options.load(head)
    screen = Screen(tokenizer, options.delay)
    if tokenizer.chat_template is None:
        screen.note(_PLAIN)
        if options.system is not None:
            raise ValueError("`--system` must be used with a tokenizer that has a chat template, got one without.")
    ((spec, rule),) = chosen.items()
    settings = {**decoding.settings(), "seed": decoding.seed}
    chat = Chat(model, tokenizer, screen, spec, rule, settings, options.system)
    screen.note(f"{model_options.public_model} with {spec}; /help lists the commands")

    def choose(text: str) -> tuple[str, UnmaskingStrategy]:
        options = StrategyOptions(text)
        options.check()
        return next(iter(chosen_strategies(options, None, head, model_options).items()))

    for line in screen.lines():
        if not line.strip():
            continue
        if line.startswith("/") and not line.startswith("//"):
            if not chat.obey(line, choose):
                return
            continue
        text = line.removeprefix("/") if line.startswith("//") else line
        if tokenizer.chat_template is None:
            warn_of_missing_space([text], model_options)
        chat.answer(text)


@dataclass
class Chat:
    """What was said, and how the next answer is decoded.

    Args:
        model ([`DemaskGenerationMixin`]): The model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer; without a chat template, nothing is remembered.
        screen ([`Screen`]): Where answers and notes are shown.
        spec (`str`): The strategy as it was named.
        strategy ([`UnmaskingStrategy`]): The strategy.
        settings (`dict[str, Any]`): Arguments of `generate`; each answer gets the next seed.
        system (`str`, *optional*): The first message.
        messages (`list[dict[str, str]]`): What was said.
        num_passes (`int`): Forward passes of all answers.
        num_answers (`int`): How many there are.
    """

    model: DemaskGenerationMixin
    tokenizer: PreTrainedTokenizerBase
    screen: Screen
    spec: str
    strategy: UnmaskingStrategy
    settings: dict[str, Any]
    system: str | None = None
    messages: list[dict[str, str]] = field(init=False)
    num_passes: int = 0
    num_answers: int = 0

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was said."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]

    def answer(self, text: str) -> None:
        """Decode and show the answer to a text; what fails or is stopped is not remembered."""
        prompt: Prompt = [*self.messages, {"role": "user", "content": text}]
        if self.tokenizer.chat_template is None:
            prompt = text
        try:
            decoding = self._decode(prompt)
        except (ValueError, RuntimeError) as error:
            self.screen.note(f"no answer: {(str(error) or type(error).__name__).splitlines()[0]}")
            return
        except KeyboardInterrupt:
            self.screen.note("stopped; what was asked is forgotten")
            return
        if not isinstance(prompt, str):
            self.messages = [*prompt, {"role": "assistant", "content": decoding.answer}]
        self.num_answers += 1
        self.num_passes += decoding.num_forward_passes
        self.screen.answer(decoding.answer)
        self.screen.note(
            f"[{decoding.num_forward_passes} forward passes with {self.spec}, {decoding.tokens_per_forward:.2f} "
            f"tokens per forward pass, {decoding.seconds:.2f} s; {self.num_passes} passes in all]"
        )

    def obey(self, line: str, choose: Callable[[str], tuple[str, UnmaskingStrategy]]) -> bool:
        """Run a command and return whether the chat goes on.

        Args:
            line (`str`):
                The command with what follows it.
            choose (`Callable`):
                Returns a strategy, and its name, from text.
        """
        command, *words = line.split()
        if command in ("/quit", "/exit"):
            return False
        if command == "/help":
            self.screen.note(HELP)
        elif command == "/reset":
            self.reset()
            self.screen.note("forgotten")
        elif command == "/strategy":
            self._choose(words, choose)
        else:
            self.screen.note(f"`{command}` must be /strategy, /reset, /help or /quit; // begins a text with a slash")
        return True

    def _choose(self, words: list[str], choose: Callable[[str], tuple[str, UnmaskingStrategy]]) -> None:
        from ..strategies import strategy_names

        if words:
            try:
                self.spec, self.strategy = choose(":".join([words[0], *filter(None, [",".join(words[1:])])]))
            except (ValueError, TypeError) as error:
                self.screen.note(f"still {self.spec}: {str(error).splitlines()[0]}")
                return
        names = f"; there are {', '.join(strategy_names())}" if not words else ""
        self.screen.note(f"decoding with {self.spec}{names}")

    def _decode(self, prompt: Prompt) -> Decoding:
        from ..evaluation.decoding import decode_prompts

        settings = {**self.settings, "seed": self.settings["seed"] + self.num_answers}
        with self.screen.live() as streamer:
            if streamer is not None:
                settings["streamer"] = streamer
            return decode_prompts(self.model, self.tokenizer, [prompt], self.strategy, 1, **settings)[0]
