"""Rows that join and leave between forward passes: each gets what it gets alone."""

import random
import threading
import time

import pytest
import torch

from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest
from demask_hf.serve import QueueFullError, Scheduler, ServedModel
from demask_hf.serve.scheduler import CancelledRowError, ClosedError, Job
from demask_hf.serve.sharing import MAX_PADDED, Pass, grouped, predict_together
from demask_hf.serve.turns import TurnTaker
from demask_hf.strategies import strategy_names


NUM_NEW = 8
KINDS = [(name, {}) for name in strategy_names()]
KINDS += [("demask", {"dependencies": "exact"}), ("demask", {"batch_invariant": True})]
KINDS += [("threshold", {"block_cache": "dual", "block_length": 4}), ("entropy_bound", {"eos_penalty": 2.0})]
KINDS += [("threshold", {"repetition_penalty": 1.3}), ("klass", {"temperature": 0.7, "top_p": 0.9, "block_length": 2})]


@pytest.fixture(scope="module")
def served(dream_with_head, tokenizer):
    return ServedModel(dream_with_head, tokenizer, "tiny", max_length=128)


@pytest.fixture
def scheduler():
    scheduler = Scheduler(max_rows=6, max_waiting=200)
    yield scheduler
    scheduler.close()


class _Waiting:
    """Submits rows and waits for what they become."""

    def __init__(self, scheduler):
        self.scheduler, self.found, self.ends = scheduler, {}, {}
        self._ended = threading.Semaphore(0)

    def submit(self, key, row):
        def work(ask):
            self.found[key] = row.run(ask)

        def end(error):
            self.ends[key] = error
            self._ended.release()

        job = Job(work, end)
        self.scheduler.submit([job])
        return job

    def wait(self, count):
        for _ in range(count):
            assert self._ended.acquire(timeout=60)


def _requests(count, seed=0):
    draw = random.Random(seed)
    for number in range(count):
        name, settings = KINDS[number % len(KINDS)]
        prompt = [draw.randrange(3, 24) for _ in range(draw.randrange(1, 14))]
        settings = {"temperature": draw.choice([0.0, 1.0]), "max_new_tokens": NUM_NEW, "seed": number, **settings}
        yield prompt, name, settings


def test_rows_of_all_kinds_that_arrive_at_random_are_the_rows_alone(served, scheduler, tokenizer):
    requests = list(_requests(3 * len(KINDS)))
    waiting, draw = _Waiting(scheduler), random.Random(1)
    for number, (prompt, name, settings) in enumerate(requests):
        waiting.submit(number, served.row(prompt, {"name": name}, settings))
        time.sleep(draw.choice([0, 0, 0.002, 0.01]))
    waiting.wait(len(requests))
    assert not any(waiting.ends.values())
    for number, (prompt, name, settings) in enumerate(requests):
        ids = torch.tensor([prompt])
        alone = served.model.generate(ids, strategy=name, **settings, return_dict_in_generate=True)
        answer = waiting.found[number]
        text = tokenizer.decode(alone.sequences[0, len(prompt) :], skip_special_tokens=True)
        assert answer.text == text, (name, settings)
        assert answer.num_forward_passes == alone.num_forward_passes[0], (name, settings)
        assert answer.num_probe_passes == alone.num_probe_passes[0]
        assert answer.num_tokens == (alone.unmask_step >= 0).sum()
    counts = scheduler.counts
    assert counts.num_row_passes > counts.num_forward_passes, "no pass was shared"
    assert counts.num_padding <= (MAX_PADDED - 1) * counts.num_positions
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)


def test_a_row_that_fails_and_one_that_is_cancelled_leave_the_others_alone(served, scheduler):
    waiting = _Waiting(scheduler)
    rows = {key: served.row([3, 4, key], {"name": "sequential"}, {"max_new_tokens": 30}) for key in (5, 6, 7, 8)}

    def fail(progress):
        raise RuntimeError("this client is gone")

    def cancel(progress):
        jobs[7].cancel()

    rows[6].on_step, rows[7].on_step = fail, cancel
    jobs = {key: Job(None, None) for key in rows}
    for key, row in rows.items():
        jobs[key] = waiting.submit(key, row)
    waiting.wait(4)
    assert isinstance(waiting.ends[6], RuntimeError)
    assert isinstance(waiting.ends[7], CancelledRowError)
    assert rows[7].state.num_forward_passes[0] < 30
    for key in (5, 8):
        expected = served.model.generate(
            torch.tensor([[3, 4, key]]), strategy="sequential", max_new_tokens=30, return_dict_in_generate=True
        )
        assert waiting.found[key].num_forward_passes == expected.num_forward_passes[0]
        assert waiting.ends[key] is None


def test_a_shared_pass_that_fails_is_run_for_each_row_alone(served, scheduler, monkeypatch):
    usual = Backbone.predict

    def predict(self, request):
        if len(request.sequences) > 1 or (request.sequences == 9).any():
            raise MemoryError("no room")
        return usual(self, request)

    monkeypatch.setattr(Backbone, "predict", predict)
    waiting = _Waiting(scheduler)
    for key in (8, 9, 10):
        waiting.submit(key, served.row([key, key], {"name": "sequential"}, {"max_new_tokens": NUM_NEW}))
    waiting.wait(3)
    assert isinstance(waiting.ends[9], MemoryError)
    assert waiting.ends[8] is None
    assert waiting.ends[10] is None


def test_a_full_queue_and_a_closed_scheduler_refuse():
    scheduler, may_go = Scheduler(max_rows=1, max_waiting=1), threading.Event()
    ended = []
    jobs = [Job(lambda ask: may_go.wait(30), ended.append) for _ in range(3)]
    scheduler.submit(jobs[:2])
    with pytest.raises(QueueFullError, match="at most 1"):
        scheduler.submit(jobs[2:] * 2)
    may_go.set()
    scheduler.close()
    assert ended == [None, None], "what ran and waited is finished"
    assert not scheduler.is_alive
    with pytest.raises(ClosedError, match="shutting down"):
        scheduler.submit(jobs[2:])


def test_a_waiting_row_that_is_cancelled_never_runs():
    scheduler, may_go, ended = Scheduler(max_rows=1, max_waiting=2), threading.Event(), []
    first = Job(lambda ask: may_go.wait(30), ended.append)
    second = Job(lambda ask: pytest.fail("it ran"), ended.append)
    scheduler.submit([first, second])
    second.cancel()
    may_go.set()
    scheduler.close()
    assert ended[0] is None
    assert isinstance(ended[1], CancelledRowError)


def test_an_error_of_the_scheduler_itself_ends_all_rows(served, monkeypatch):
    scheduler = Scheduler()
    monkeypatch.setattr("demask_hf.serve.scheduler.grouped", lambda passes: 1 / 0)
    waiting = _Waiting(scheduler)
    waiting.submit(0, served.row([3], None, {"max_new_tokens": 4}))
    waiting.wait(1)
    assert isinstance(waiting.ends[0], ZeroDivisionError)
    assert not scheduler.is_alive


@pytest.mark.parametrize("name", ["max_rows", "max_waiting"])
def test_limits_are_counts(name):
    with pytest.raises(ValueError, match=f"`{name}` must be an integer of at least 1, got 0"):
        Scheduler(**{name: 0})


def test_turns_alternate_and_errors_go_both_ways():
    order = []

    def work(ask):
        order.append("work")
        with pytest.raises(KeyError):
            ask("first")
        order.append(ask("second"))
        raise ValueError("the end")

    turns = TurnTaker(work)
    assert turns.resume() == "first"
    order.append("owner")
    assert turns.resume(KeyError("no")) == "second"
    assert turns.resume("answer") is None
    assert turns.is_over
    assert str(turns.error) == "the end"
    assert order == ["work", "owner", "answer"]


def _pass(model, prompt, **wanted):
    sequences = torch.tensor([prompt])
    return Pass(Backbone.of(model), PredictionRequest(sequences, sequences == 1, **wanted))


@pytest.mark.parametrize("part_size", [None, 1, 2, 5])
def test_predictions_of_a_shared_pass_are_those_of_each(dream, part_size):
    prompts = [[3, 1, 1], [1, 5, 6, 1, 1, 1], [7, 1]]
    passes = [_pass(dream, prompt, part_size=part_size) for prompt in prompts]
    together = predict_together(passes)
    for one, found in zip(passes, together, strict=True):
        expected = one.backbone.predict(one.request)
        torch.testing.assert_close(found.hidden_states, expected.hidden_states)
        for name in (found, expected):
            name.all = torch.cat([logits for _, logits in name.parts()])
        torch.testing.assert_close(found.all, expected.all)


def test_attention_of_a_shared_pass_is_that_of_each(dream):
    passes = [_pass(dream, prompt, attention_layers=lambda count: 1) for prompt in ([3, 1], [3, 4, 1])]
    for one, found in zip(passes, predict_together(passes), strict=True):
        torch.testing.assert_close(found.attentions, one.backbone.predict(one.request).attentions)


def test_groups_bound_padding_and_separate_what_cannot_be_one(dream):
    lengths = [10, 100, 11, 90, 12, 30]
    passes = [_pass(dream, [1] * length) for length in lengths]
    assert [sorted(lengths[index] for index in group) for group in grouped(passes)] == [[10, 11, 12], [30], [90, 100]]
    alone = [_pass(dream, [1, 1]), _pass(dream, [1, 1], part_size=3), _pass(dream, [1, 1], cache=object())]
    assert grouped([*alone, alone[0]]) == [[0, 3], [1], [2]]
