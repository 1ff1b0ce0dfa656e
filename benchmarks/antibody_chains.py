"""Heavy chains of antibodies for `antibodies.py`: where they come from, where their third loop is, and how they split.

The third loop of the heavy chain (CDR-H3) is found by its anchors. The framework behind it starts with W-G-x-G, and
the one before it ends with a cysteine. The loop itself may hold cysteines, so the conserved one is the first among the
40 residues before the last W-G-x-G; the other conserved cysteine lies about 70 residues before it. The loop is what
lies between the two anchors, as IMGT counts it.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from random import Random


RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
# Residues before the second anchor among which the first cysteine is the conserved one.
_REACH = 40
_LENGTHS = range(5, 31)
# Loops of one length with at least this share of equal residues count as one.
_ALIKE = 0.8
# Human germline genes: variable genes up to the conserved cysteine, pieces of diversity genes, and joining genes.
_VARIABLE = (
    "EVQLLESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSAISGSGGSTYYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYC",
    "QVQLVESGGGVVQPGRSLRLSCAASGFTFSSYGMHWVRQAPGKGLEWVAVIWYDGSNKYYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYC",
    "QVQLVQSGAEVKKPGSSVKVSCKASGGTFSSYAISWVRQAPGQGLEWMGGIIPIFGTANYAQKFQGRVTITADESTSTAYMELSSLRSEDTAVYYC",
    "QVQLVQSGAEVKKPGASVKVSCKASGYTFTGYYMHWVRQAPGQGLEWMGWINPNSGGTNYAQKFQGRVTMTRDTSISTAYMELSRLRSDDTAVYYC",
    "QVQLQQWGAGLLKPSETLSLTCAVYGGSFSGYYWSWIRQPPGKGLEWIGEINHSGSTNYNPSLKSRVTISVDTSKNQFSLKLSSVTAADTAVYYC",
    "EVQLVQSGAEVKKPGESLKISCKGSGYSFTSYWIGWVRQMPGKGLEWMGIIYPGDSDTRYSPSFQGQVTISADKSISTAYLQWSSLKASDTAMYYC",
)
_DIVERSITY = ("YYDSSGY", "GYCSGGSCYS", "YSSSW", "YGDY", "VDTAM", "ITMVRGV", "YYGSGSY", "GYSYG", "WELL", "YSGSY")
_JOINING = (
    "YFDYWGQGTLVTVSS",
    "AFDIWGQGTMVTVSS",
    "NWFDPWGQGTLVTVSS",
    "YYYGMDVWGQGTTVTVSS",
    "YWYFDLWGRGTLVTVSS",
)


@dataclass(frozen=True)
class Chain:
    """A heavy chain.

    Args:
        name (`str`): Name of the antibody.
        residues (`str`): Its residues, one letter each.
        start (`int`): Place of the first residue of the third loop.
        end (`int`): Place behind its last one.
    """

    name: str
    residues: str
    start: int
    end: int

    @property
    def loop(self) -> str:
        """The third loop."""
        return self.residues[self.start : self.end]


def chain_of(name: str, residues: str) -> Chain | None:
    """Return a chain with its third loop, or `None` if it has none between the anchors, or letters of other residues.

    Example:

    ```python
    >>> chain_of("made up", "EVQLLESGG" + "A" * 30 + "DTAVYYCARGEGCDYWGQGTLVTVSS").loop
    'ARGEGCDY'

    ```
    """
    anchors = [match.start() for match in re.finditer("(?=WG.G)", residues)]
    if not anchors or set(residues) - set(RESIDUES):
        return None
    start = residues.find("C", max(0, anchors[-1] - _REACH), anchors[-1]) + 1
    if start == 0 or anchors[-1] - start not in _LENGTHS:
        return None
    return Chain(name, residues, start, anchors[-1])


def read_chains(file: Path) -> list[Chain]:
    """Return the heavy chains of a table with the columns name and heavy, separated by tabs, in the order of names."""
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    name, heavy = (rows[0].index(title) for title in ("name", "heavy"))
    chains = [chain_of(row[name], row[heavy]) for row in rows[1:]]
    return sorted((chain for chain in chains if chain is not None), key=lambda chain: chain.name)


def generated_chains(count: int, seed: int) -> list[Chain]:
    """Return chains put together from human germline genes with random residues at the joints, as cells do."""
    random, chains = Random(seed), []
    while len(chains) < count:
        joints = ["".join(random.choices(RESIDUES, k=random.randrange(1, 4))) for _ in range(2)]
        joining = random.choice(_JOINING)
        middle = joints[0] + random.choice(_DIVERSITY) + joints[1] + joining[random.randrange(3) :]
        chain = chain_of(f"generated {len(chains)}", random.choice(_VARIABLE) + "AR" + middle)
        if chain is not None:
            chains.append(chain)
    return chains


def unlike(chains: list[Chain]) -> list[Chain]:
    """Return the chains whose loop is unlike those of all chains before."""
    kept: list[Chain] = []
    for chain in chains:
        if not any(_are_alike(chain.loop, other.loop) for other in kept):
            kept.append(chain)
    return kept


def split(chains: list[Chain], num_test: int, num_held_out: int, seed: int = 0) -> tuple[list[Chain], ...]:
    """Return chains to train on, to choose settings by, and to test, no two of them with loops that are alike.

    Args:
        chains (`list[Chain]`): All chains.
        num_test (`int`): Chains to test.
        num_held_out (`int`): Chains to judge the head and choose settings by.
        seed (`int`, *optional*, defaults to 0): Seed of the order.

    Raises:
        ValueError: if nothing is left to train on.
    """
    chains = list(chains)
    Random(seed).shuffle(chains)
    chains = unlike(chains)
    if len(chains) <= num_test + num_held_out:
        raise ValueError(
            f"`num_test` and `num_held_out` must leave chains to train on, got {num_test} and {num_held_out} of "
            f"{len(chains)}."
        )
    test, rest = chains[:num_test], chains[num_test:]
    return rest[num_held_out:], rest[:num_held_out], test


def _are_alike(first: str, second: str) -> bool:
    if len(first) != len(second):
        return False
    return sum(map(str.__eq__, first, second)) >= _ALIKE * len(first)
