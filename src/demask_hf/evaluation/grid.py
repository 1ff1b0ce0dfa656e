"""What `demask-hf benchmark` compares where nothing else is asked for: a row for each strategy, with its limits."""

#: One strategy per row, with the limits to choose from: both ends of its front, and what lies between.
DEFAULT_GRID = (
    "sequential:order=entropy",
    "sequential:order=confidence",
    "schedule:max_denoising_steps=28/24/20/16/12/8",
    "eoser:max_denoising_steps=28/20/12",
    "threshold:confidence_threshold=0.999/0.99/0.98/0.95/0.9/0.8/0.7/0.5/0.3",
    "threshold:factor=0.003/0.01/0.03/0.1/0.3/0.8/1.2/2.0",
    "threshold:factor_variant=fast_dllm,factor=0.1/0.3/1",
    "threshold:factor_variant=d2cache,factor=0.1/0.3/1",
    "quota:confidence_threshold=0.95/0.9/0.8/0.6",
    "local_leap:confidence_threshold=0.95,relaxed_threshold=0.9/0.75/0.3",
    "frechet:frechet_margin=0.9/0.25/0",
    "mean_field:intensity_threshold=0.99/0.9/0.5",
    "adas:limit=0.1/0.3/1/2",
    "entropy_bound:entropy_bound=0.0003/0.001/0.003/0.01/0.03/0.1/0.3/1.0/3.0",
    "entropy_bound:order=confidence,entropy_bound=0.003/0.03/0.3",
    "klass:confidence_threshold=0.98/0.9/0.8/0.6/0.4,kl_threshold=0.001/0.1",
    "dawn:confidence_threshold=0.95/0.9/0.8/0.6,induced_threshold=0.75,sink_threshold=0.03,edge_threshold=0.05/0.1",
    "dawn:anchor_threshold=0.98,confidence_threshold=0,induced_threshold=0.9,sink_threshold=1,num_layers=6,"
    "edge_threshold=0.0003/0.001/0.003/0.005/0.01/0.02/0.03/0.05",
    "dapd:initial_bound=0.001/0.005/0.01,final_bound=0.01/0.05/0.15",
    "dapd:layer_share=1,initial_bound=0.01/0.03/0.1/0.3,final_bound=0.3/0.5",
    "punt:kl_threshold=0.001/0.01/0.1/0.5",
    "distance:gap=10/8/6/4",
    "prophet:answer_length=32,middle_gap=15,late_gap=15,early_gap=15/12/9",
    "freedave:num_versions=4/16",
    "freedave:confidence_threshold=0.95,num_versions=4/8",
    "lossless:num_versions=4/8/16",
    "wino:verification_threshold=0.9,confidence_threshold=0.8/0.6/0.3",
    *(f"t2m:rule={rule},confidence_threshold=0.9/0.7" for rule in ("low_prob", "t2t_remask", "logit_diff", "t2t")),
    "edit:inner=" + "/".join(f'{{"name":"threshold","confidence_threshold":{limit}}}' for limit in (0.9, 0.7, 0.5)),
    "demask:rule=token,dependency_bound=0.003/0.01/0.03/0.06/0.1/0.15/0.2/0.3",
    "demask:rule=total,dependency_bound=0.01/0.03/0.06/0.1/0.2/0.3",
    "demask:rule=max,symmetric=true,dependency_bound=0.005/0.015/0.03/0.06/0.1/0.15/0.3",
    "demask:rule=token,order=influence,dependency_bound=0.01/0.03/0.06/0.1/0.15/0.2/0.3",
    *(
        f"edit:{way},inner=" + "/".join(f'{{"name":"demask","dependency_bound":{bound}}}' for bound in (0.1, 0.2, 0.3))
        for way in ("max_probes=8", "doubt=dependency")
    ),
)

#: Further rows for sampling: orders that look at the drawn token.
SAMPLING_GRID = (
    "sequential:order=token_probability",
    "demask:rule=token,order=token_probability,dependency_bound=0.003/0.01/0.03/0.06/0.1/0.15/0.2",
)
