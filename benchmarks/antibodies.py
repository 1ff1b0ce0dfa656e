"""Compare strategies on a pretrained model of antibodies: AntiBERTy writes third loops of heavy chains, and spans.

    pip install --no-deps antiberty==0.1.3
    python benchmarks/antibodies.py --data ../shared/data/antibodies/therapeutic.tsv --out docs/results

See `infill_study.py` for what is measured. Heads are trained on states of other chains, and what could be chosen was
chosen on held-out chains. `--rows` says how many test chains to decode in all. Without the table of chains, chains are
put together from germline genes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from antibody_chains import generated_chains, read_chains, split
from antibody_model import PARTS, Antibodies, load_model
from infill_study import Settings, Study, add_arguments, settings_of


BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.6)
SETTINGS: Settings = settings_of((2, 3, 4, 6), (1, 2, 3, 4), BOUNDS, (1, 2, 3, 4)) | {
    f"demask {bound:g}, {rule}": {"name": "demask", "dependency_bound": bound, "rule": rule}
    for rule in ("total", "norm", "max")
    for bound in (0.1, 0.3)
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, train, decode, and write records and facts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/antibodies"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data/antibodies/therapeutic.tsv"))
    parser.add_argument("--wheel", type=Path, help="folder with the unpacked wheel; by default the installed one")
    parser.add_argument("--dtype", default="bfloat16", help="precision of the model")
    parser.add_argument("--num-test", type=int, default=200, help="chains to keep for the test")
    parser.add_argument("--num-held-out", type=int, default=40, help="chains to judge heads and choose settings by")
    add_arguments(parser, PARTS)
    parser.set_defaults(states=4000, span_rows=50)
    arguments = parser.parse_args(argv)
    domain = Antibodies(*load_model(arguments.work / "antiberty", arguments.wheel, arguments.dtype))
    chains = read_chains(arguments.data) if arguments.data.is_file() else generated_chains(2000, seed=0)
    train, held_out, test = split(chains, arguments.num_test, arguments.num_held_out)
    # Those that come last were decoded before the order "degree" was written.
    half = len(test) // 2
    parts = (train, held_out, test[half:] + test[:half])
    facts = {"dtype": arguments.dtype, "test": [chain.name for chain in parts[2]]}
    study = Study(domain, parts, SETTINGS, arguments.work, arguments, facts)
    study.write("antibodies", {"dtype": arguments.dtype})


if __name__ == "__main__":
    main()
