"""Law 2 across interruptions: a job that was cut off at any token goes on as if nothing had happened."""

from typing import Any

import pytest
from fakes import EOG, N_VOCAB, greedy_reference, make_request, make_rig, run_alone
from hypothesis import given, settings
from hypothesis import strategies as st

from woolly_worker.engine.events import SequenceDone
from woolly_worker.engine.metrics import EngineMetrics

samplings = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.7, 1.5]),
        "top_k": st.sampled_from([0, 5]),
        "top_p": st.sampled_from([0.8, 1.0]),
        "seed": st.integers(0, 2**63 - 1),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "presence_penalty": st.sampled_from([0.0, 1.1]),
        "frequency_penalty": st.sampled_from([0.0, 0.6]),
        "ignore_eos": st.booleans(),
        "stop": st.sampled_from([(), ("a",), ("ab", "q")]),
        "logprobs": st.sampled_from([None, 2]),
    },
)


@settings(max_examples=25, deadline=None)
@given(samplings, st.lists(st.integers(0, N_VOCAB - 1), min_size=1, max_size=40), st.integers(1, 40))
def test_interrupted_at_every_token_the_rest_is_the_same(
    sampling: dict[str, Any], prompt: list[int], max_tokens: int
) -> None:
    whole = run_alone(make_request(prompt, max_tokens=max_tokens, **sampling))
    assert isinstance(whole.end, SequenceDone)
    n = len(whole.token_ids)
    for k in range(n + 1):
        rest = run_alone(make_request(prompt, max_tokens=max_tokens, resume=whole.token_ids[:k], **sampling))
        assert rest.token_ids == whole.token_ids[k:]
        assert rest.seqs == whole.seqs[k:]
        assert rest.logprobs == whole.logprobs[k:]
        assert isinstance(rest.end, SequenceDone)
        assert (rest.end.seq, rest.end.finish_reason, rest.end.text) == (n + 1, whole.end.finish_reason, whole.end.text)
        assert rest.end.usage.completion_tokens == n
        assert whole.text.endswith(rest.text)


def test_resume_at_the_limit_ends_without_a_step() -> None:
    ids = greedy_reference((5, 6, 7), 8)
    rig = make_rig()
    rig.submit(make_request(resume=ids))
    assert not rig.engine.step()
    end = rig.outcome().end
    assert isinstance(end, SequenceDone)
    assert (end.seq, end.finish_reason) == (9, "length")
    assert end.metrics == EngineMetrics()
    assert rig.transformer.steps == []
    rig.check_idle()


def test_resume_behind_a_complete_stop_string_ends_without_a_step() -> None:
    request = make_request((5, 6, 7), max_tokens=30)
    stop = run_alone(request).text[10:13]
    stopped = run_alone(make_request((5, 6, 7), max_tokens=30, stop=(stop,)))
    rig = make_rig()
    rig.submit(make_request((5, 6, 7), max_tokens=30, stop=(stop,), resume=stopped.token_ids))
    rig.run()
    end = rig.outcome().end
    assert isinstance(end, SequenceDone)
    assert (end.finish_reason, end.text, end.seq) == ("stop", "", len(stopped.token_ids) + 1)
    assert rig.transformer.steps == []


def test_resume_of_held_back_text_gives_it_in_the_end() -> None:
    """The first half of a character is pending when the job is interrupted, and never becomes whole."""
    rig = make_rig()
    rig.submit(make_request((5,), max_tokens=1, resume=(1,)))
    rig.run()
    assert rig.outcome().text == "\N{REPLACEMENT CHARACTER}"


def test_a_cut_off_before_eos_comes_to_the_same_eos() -> None:
    prompt = next(p for t in range(3, N_VOCAB) if EOG in greedy_reference(p := (t, 9), 40))
    whole = run_alone(make_request(prompt, max_tokens=60, ignore_eos=False))
    rest = run_alone(make_request(prompt, max_tokens=60, ignore_eos=False, resume=whole.token_ids))
    assert rest.token_ids == []
    assert rest.reason == "stop"


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_a_preempted_sequence_shows_nothing_of_it(prefix_cache: bool) -> None:
    """Four sequences of up to 150 tokens each, in a pool for 256: they have to give way to each other."""
    rig = make_rig(n_blocks=8, n_slots=4, prefix_cache=prefix_cache, headroom_blocks=0)
    requests = [
        make_request(
            tuple(range(3, 43 + i)),
            f"job{i}",
            max_tokens=110,
            temperature=0.9 if i % 2 else 0.0,
            repetition_penalty=1.2,
            stop=("zzz",),
        )
        for i in range(4)
    ]
    for request in requests:
        rig.submit(request)
    rig.run()
    assert rig.engine.stats().n_preemptions > 0
    for request in requests:
        alone = run_alone(request)
        assert rig.outcome(request.job_id).token_ids == alone.token_ids
        assert rig.outcome(request.job_id).text == alone.text
    rig.check_idle()
