"""Family of short sentences in which determiner, noun and verb agree in number."""

from random import Random

from .base import TaskFamily, parts_of


NUM_CLAUSES = 6
SINGULAR, PLURAL = ("a", "this", "every"), ("two", "these", "many")
NOUNS = ("cat", "dog", "bird", "horse", "girl", "boy", "king", "queen", "robot", "farmer")
VERBS = ("run", "sing", "sleep", "jump", "read", "swim", "cook", "dance", "paint", "wait", "talk", "work")


def _sample_sentences(random: Random) -> tuple[str, str]:
    verbs = random.choices(VERBS, k=NUM_CLAUSES)
    clauses = []
    for verb in verbs:
        noun, is_plural = random.choice(NOUNS), random.random() < 0.5
        determiner = random.choice(PLURAL if is_plural else SINGULAR)
        clauses.append(f"{determiner} {noun}s {verb}" if is_plural else f"{determiner} {noun} {verb}s")
    return f"say: {'; '.join(f'?? {verb}' for verb in verbs)} -> ", "; ".join(clauses)


def _is_clause(clause: str, verb: str) -> bool:
    words = clause.split(" ")
    if len(words) != 3:
        return False
    determiner, noun, said = words
    if determiner in PLURAL:
        return noun.endswith("s") and noun[:-1] in NOUNS and said == verb
    return determiner in SINGULAR and noun in NOUNS and said == f"{verb}s"


def _check_sentences(prompt: str, answer: str) -> bool:
    verbs, clauses = [blank.removeprefix("?? ") for blank in parts_of(prompt, "; ")], answer.split("; ")
    return len(verbs) == len(clauses) and all(map(_is_clause, clauses, verbs))


SENTENCES = TaskFamily(
    "sentences",
    "one clause for each given verb: any subject; determiner, noun and verb agree in number",
    _sample_sentences,
    _check_sentences,
)
