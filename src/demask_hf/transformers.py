"""The command line of transformers with the classes of this package: `python -m demask_hf.transformers serve MODEL`.

It looks classes up by name in the package transformers, and has no other way to learn of more.
"""

import transformers

from .models.a2d.modeling_a2d import A2DLlamaLMHeadModel, A2DQwen2LMHeadModel, A2DQwen3LMHeadModel
from .models.dream.modeling_dream import DreamModel
from .models.llada.modeling_llada import LLaDAModelLM
from .models.llada2.modeling_llada2 import LLaDA2MoeModelLM
from .models.llada_moe.modeling_llada_moe import LLaDAMoEModelLM
from .models.sdar.modeling_sdar import SDARForCausalLM


def main() -> None:
    """Run the command line of transformers; `serve` and `chat` need `pip install transformers[serving]`."""
    from transformers.cli.transformers import app

    llada_models = (LLaDAModelLM, LLaDAMoEModelLM, LLaDA2MoeModelLM)
    a2d_models = (A2DQwen3LMHeadModel, A2DQwen2LMHeadModel, A2DLlamaLMHeadModel)
    for model_class in (DreamModel, *llada_models, *a2d_models, SDARForCausalLM):
        setattr(transformers, model_class.__name__, model_class)
    app()


if __name__ == "__main__":
    main()
