"""Compare every strategy, each at one or two limits, on test prompts of the shipped checkpoint.

    python benchmarks/field.py --out runs/field_t0 --num-prompts 5
    python benchmarks/field.py --out runs/field_t1 --num-prompts 3 --temperature 1 --quick

Further arguments are those of `demask-hf benchmark`; the same command with more prompts goes on where the other one
stopped. Limits of the rules that were there before, and of frechet, local_leap, the factor rules, punt and
entropy_bound by confidence, come from 70 validation prompts at temperature 0: the one with the fewest passes that
loses nothing there, and one at the other end. The others come from the rules' papers or from 21 validation prompts,
and some from neither; nothing was chosen at other temperatures. --quick leaves out the rules that take most time.
"""

import sys

from demask_hf.cli.main import main


def _around(name: str, field: str, *limits: float) -> str:
    return "inner=" + "/".join(f'{{"name":"{name}","{field}":{limit}}}' for limit in limits)


#: Rows of the comparison.
SPECS = [
    "sequential:order=confidence",
    "schedule:plan=ass,algorithm=maskgit_plus,max_denoising_steps=5",
    "threshold:confidence_threshold=0.9/0.5",
    "threshold:factor=0.3",
    "threshold:factor_variant=fast_dllm,factor=0.3",
    "local_leap:confidence_threshold=0.95,relaxed_threshold=0.9/0.3",
    "frechet:frechet_margin=0.9/0",
    "mean_field:intensity_threshold=0.9/0.5",
    "adas:limit=0.1/2",
    "entropy_bound:entropy_bound=0.003/0.3",
    "klass:confidence_threshold=0.8,kl_threshold=0.1",
    "dawn:anchor_threshold=0.98,confidence_threshold=0,induced_threshold=0.9,sink_threshold=1,num_layers=6,"
    "edge_threshold=0.003",
    "dapd:layer_share=1,initial_bound=0.01,final_bound=0.5",
    "punt:kl_threshold=0.01/0.5",
    "distance:gap=8",
    "demask:rule=token,dependency_bound=0.03/0.06/0.1/0.3",
    "demask:rule=total,dependency_bound=0.1",
    "demask:rule=token,order=influence,dependency_bound=0.06/0.1",
    "edit:max_probes=8," + _around("demask", "dependency_bound", 0.1, 0.3),
    "wino:verification_threshold=0.9,confidence_threshold=0.8/0.3",
    "freedave:confidence_threshold=0.95,num_versions=4",
]
#: Rows that take most time.
SLOW = [
    "sequential:order=entropy",
    "schedule:max_denoising_steps=28",
    "eoser:max_denoising_steps=28",
    "threshold:factor_variant=d2cache,factor=1",
    "entropy_bound:order=confidence,entropy_bound=0.3",
    "prophet:answer_length=32,middle_gap=15,late_gap=15,early_gap=15/9",
    "edit:doubt=dependency," + _around("demask", "dependency_bound", 0.1),
    "edit:" + _around("threshold", "confidence_threshold", 0.9, 0.5),
    *(f"t2m:rule={rule},confidence_threshold=0.9" for rule in ("low_prob", "t2t_remask", "t2t")),
    "freedave:num_versions=4",
    "lossless:num_versions=8",
]


if __name__ == "__main__":
    arguments = [each for each in sys.argv[1:] if each != "--quick"]
    rows = SPECS if "--quick" in sys.argv else [*SPECS, *SLOW]
    sys.exit(main(["benchmark", "--prompt-seed", "2026", "--num-validation", "0", *arguments, "--compare", *rows]))
