import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demask_hf.tasks import load_task
from demask_hf.tasks.mathematics import are_equivalent, final_number, last_boxed


WORD_PROBLEM = {"question": "Ann has 3 pens and buys 4.", "answer": "3 + 4 = <<3+4=7>>7 pens.\n#### 7"}
PROBLEM = {"problem": "What is $1/2 + 1/2$?", "solution": r"It is $\boxed{1}$.", "level": 1, "type": "Algebra"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("So it is 3.\n#### 1,234", 1234),
        ("#### $12.50", Fraction(25, 2)),
        ("#### -7\n#### 8", -7),
        ("The answer is 42.", 42),
        (r"First 5, so \boxed{18} of 20", 18),
        ("18.00 dollars", 18),
        ("none", None),
        ("", None),
        ("####", None),
    ],
)
def test_the_final_number_is_marked_or_the_last(text, number):
    assert final_number(text) == number


def test_word_problems_are_judged_by_their_number(write_lines):
    task = load_task("gsm8k", write_lines([WORD_PROBLEM]))
    (example,) = task.examples
    assert example.prompt == "Question: Ann has 3 pens and buys 4.\nAnswer:"
    assert task.check(example, example.answer)
    assert task.check(example, " 3 and 4 are 7.00\nQuestion: Bob has 9.\nAnswer: 9")
    assert not task.check(example, " It is 8.")
    assert not task.check(example, " none")


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{3}", "3"),
        (r"\boxed{1", None),
        ("1", None),
    ],
)
def test_the_last_box_is_read_with_its_braces(text, boxed):
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"\dfrac12", r"\frac{1}{2}"),
        ("1/2", r"\tfrac{1}{2}"),
        ("0.5", r"\frac{1}{2}"),
        (".50", "0.5"),
        ("10,000", "10000"),
        (r"$42$", "42"),
        (r"42\text{ cm}^2", "42"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        (r"15\%", "15"),
        (r"\$3.50", "3.5"),
        (r"x = 5", "5"),
        (r"x \in [1,2]", "[1,2]"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"\sqrt2", r"\sqrt{2}"),
        (r"\text{east}", "east"),
        (r"-\frac{1}{2}", "-0.5"),
        (r"\frac{-1}{2}", "-1/2"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"x \le 3", r"x \leq 3"),
    ],
)
def test_other_ways_of_writing_an_answer_count(answer, reference):
    assert are_equivalent(answer, reference)
    assert are_equivalent(reference, answer)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("x+1", "1+x"),
        (r"(\text{B})", r"(\text{C})"),
        (r"5\text{ or }6", "56 "),
        ("1,2", "12"),
        ("(1,2)", "(2,1)"),
        ("[1,2)", "(1,2)"),
        ("-1", "1"),
        (r"\frac{1}{2}", r"\frac{2}{1}"),
        ("10^2", "10"),
        ("", "0"),
    ],
)
def test_other_answers_do_not(answer, reference):
    assert not are_equivalent(answer, reference)


@given(st.fractions(max_denominator=60))
def test_a_rational_number_is_itself_in_every_form(value):
    forms = [f"{value.numerator}/{value.denominator}", rf"\frac{{{value.numerator}}}{{{value.denominator}}}"]
    forms.append(rf"\dfrac{{{3 * value.numerator}}}{{{3 * value.denominator}}}")
    assert all(are_equivalent(form, forms[0]) for form in forms)
    assert not are_equivalent(forms[0], f"{value.numerator + 1}/{value.denominator}")


@given(st.text(alphabet=r"\{}fracsqtbox 012,./^_$%()=-", max_size=30), st.text(max_size=20))
def test_any_text_is_judged_without_an_error(text, other):
    assert are_equivalent(text, text)
    assert are_equivalent(text, other) == are_equivalent(other, text)
    last_boxed(text)
    final_number(text)


def test_problems_are_judged_by_their_box(write_lines):
    other = {"problem": "What is $x$?", "solution": "So it is three.", "answer": "3"}
    task = load_task("math500", write_lines([PROBLEM, other], "math.json"))
    first, second = task.examples
    assert first.metadata == {"answer": "1", "level": 1, "type": "Algebra"}
    assert task.check(first, r"Clearly $\boxed{1.0}$.")
    assert not task.check(first, "Clearly 1.")
    assert not task.check(first, r"Clearly $\boxed{2}$.")
    assert task.check(second, r"\boxed{x=3}")


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        (
            "gsm8k",
            {**WORD_PROBLEM, "answer": "7"},
            r"an `answer` with a number of at most 1000 digits after ####, got '7'\.",
        ),
        (
            "gsm8k",
            {**WORD_PROBLEM, "answer": f"#### {10**1000}"},
            r"an `answer` with .* 1000 digits after ####, got '0*'\.",
        ),
        ("gsm8k", {"answer": "#### 7"}, r"a text `question` of at least one character, got None\."),
        ("math500", {**PROBLEM, "solution": "1"}, r"an `answer`, or a `solution` with a \\boxed one, got neither\."),
        ("math500", {**PROBLEM, "answer": 7}, r"a text `answer` of at least one character, got 7\."),
    ],
)
def test_broken_records_are_named_with_their_line(name, record, message, write_lines):
    with pytest.raises(ValueError, match=rf"^line 1 of '.*' must have {message}$"):
        load_task(name, write_lines([record]))


@pytest.mark.parametrize(
    ("name", "file", "num_records"),
    [("gsm8k", "gsm8k/test.jsonl", 1319), ("math500", "math500/math_test.json", 500)],
)
def test_published_files_are_read_and_their_answers_count(name, file, num_records, published):
    task = load_task(name, published(file))
    assert len(task.examples) == num_records
    assert all(task.check(example, example.answer) for example in task.examples)
    # Another problem's solution is right by chance only.
    shifted = zip(task.examples, task.examples[1:], strict=False)
    assert sum(task.check(example, other.answer) for example, other in shifted) < num_records / 20


def test_a_solution_reads_the_same_as_its_answer(published):
    with open(published("math500/math_test.json")) as file:
        records = [json.loads(line) for line in file]
    answers = [last_boxed(record["solution"]) for record in records]
    assert all(are_equivalent(answer.replace(r"\frac", r"\dfrac").replace(" ", "  "), answer) for answer in answers)


# More than Python reads, more than it computes in a moment, and more than any memory holds.
EXTREME = ["9" * 5_000, "9" * 10**6, "10**10**10", "10^{10^{10}}", "1e10000000000", r"\frac{1}{" + "9" * 5_000 + "}"]


@pytest.mark.parametrize("text", EXTREME)
def test_extreme_numbers_are_compared_as_they_are_written(text, write_lines):
    record = {"problem": "How many?", "solution": rf"\boxed{{{text}}}"}
    task = load_task("math500", write_lines([record]))
    assert task.check(task.examples[0], rf"\boxed{{{text}}}")
    assert not task.check(task.examples[0], rf"\boxed{{{text}1}}")
    assert not are_equivalent(text, "1")
    assert not are_equivalent("1", text)


@pytest.mark.parametrize("text", EXTREME)
def test_extreme_numbers_in_answers_are_wrong(text, write_lines):
    task = load_task("gsm8k", write_lines([WORD_PROBLEM]))
    assert not task.check(task.examples[0], f"#### {text}")
    assert not task.check(task.examples[0], rf"\boxed{{{text}}}")
    assert not task.check(task.examples[0], f"{text} {text}")
