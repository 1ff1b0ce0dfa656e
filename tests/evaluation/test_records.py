from demask_hf.evaluation.records import evaluate
from demask_hf.tasks import FAMILIES, TaskExample, TaskFamily


def test_records_carry_the_verdict_of_their_checker(scripted, tokenizer, monkeypatch):
    model = scripted(lambda position, context: {4 if context[0] == 5 else 6: 0.95})
    family = TaskFamily("fours", "only w4", lambda random: ("", ""), lambda prompt, answer: answer == "w4 w4")
    monkeypatch.setitem(FAMILIES, "fours", family)
    examples = [TaskExample("fours", prompt, "") for prompt in ("w5", "w3", "w5 w3")]
    records = evaluate(model, tokenizer, examples, strategy="threshold", max_new_tokens=2)
    assert [record.is_correct for record in records] == [True, False, True]
    assert [record.answer for record in records] == ["w4 w4", "w6 w6", "w4 w4"]
    assert {record.family for record in records} == {"fours"}
    assert [record.num_forward_passes for record in records] == [1, 1, 1]
