"""Random mixes of jobs, cancels, drops, isolations, drains and small pools: no token changes, and no block is lost."""

from dataclasses import replace
from typing import Any

from fakes import N_VOCAB, Outcome, Rig, make_request, make_rig, run_alone
from hypothesis import event, given, settings
from hypothesis import strategies as st

from woolly_worker.engine.events import EngineRequest

# Few prompts and long common beginnings, so that prefixes are shared, evicted, and computed twice at the same time.
STEM = tuple(3 + i * 7 % 120 for i in range(100))
prompts = st.builds(
    lambda n, tail: STEM[:n] + tuple(tail),
    st.sampled_from([0, 31, 32, 33, 64, 70, 96]),
    st.lists(st.integers(0, N_VOCAB - 1), min_size=1, max_size=5),
)
samplings = st.fixed_dictionaries(
    {"max_tokens": st.sampled_from([1, 5, 40, 60])},
    optional={
        "temperature": st.sampled_from([0.0, 1.0]),
        "top_k": st.sampled_from([0, 8]),
        "frequency_penalty": st.sampled_from([0.0, 0.4]),
        "ignore_eos": st.booleans(),
        "seed": st.integers(0, 5),
    },
)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), prompts, samplings),
        st.tuples(st.just("submit"), prompts, samplings),
        st.tuples(st.just("step"), st.integers(1, 30)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("drop"), st.integers(0, 9)),
        st.tuples(st.just("suspect"), prompts, samplings, st.sampled_from([1, 3, 100])),
        st.tuples(st.just("rejoin")),
    ),
    min_size=8,
    max_size=40,
)
engines = st.fixed_dictionaries(
    {
        "n_blocks": st.sampled_from([6, 7, 40]),
        "n_slots": st.sampled_from([1, 3, 5]),
        "max_step_tokens": st.sampled_from([5, 16, 64, 300]),
        "prefix_cache": st.booleans(),
        "headroom_blocks": st.sampled_from([0, 4]),
    }
)


def play(rig: Rig, script: list[Any]) -> tuple[dict[str, EngineRequest], set[str]]:
    requests: dict[str, EngineRequest] = {}
    dropped: set[str] = set()
    isolated = "nobody"
    for action in script:
        match action:
            case ("suspect", prompt, sampling, until):
                rig.engine.rejoin(isolated, 1)
                isolated = f"job{len(requests)}"
                request = replace(make_request(prompt, isolated, **sampling), alone_until=until)
                requests[isolated] = request
                rig.engine.isolate(isolated, 1)
                rig.submit(request)
            case ("rejoin",):
                rig.engine.rejoin(isolated, 1)
            case ("submit", prompt, sampling):
                request = make_request(prompt, f"job{len(requests)}", **sampling)
                requests[request.job_id] = request
                rig.submit(request)
            case ("step", n):
                for _ in range(n):
                    rig.engine.step()
                    rig.kv.check_invariants()
                    check_ownership(rig)
            case ("cancel", i) if f"job{i}" in requests:
                rig.engine.cancel(f"job{i}")
            case ("drop", i) if f"job{i}" in requests:
                if rig.outcome(f"job{i}").end is None:
                    dropped.add(f"job{i}")
                rig.engine.drop(f"job{i}", 1)
            case _:
                pass
    rig.engine.rejoin(isolated, 1)
    return requests, dropped


def check_ownership(rig: Rig) -> None:
    """Used blocks are exactly those of running sequences, and a block two of them have is a common beginning."""
    owners: dict[int, list[tuple[int, Any]]] = {}
    for sequence in rig.engine._scheduler.running:
        for i, block in enumerate(sequence.blocks):
            owners.setdefault(block, []).append((i, sequence))
    assert len(owners) == rig.kv.n_used
    for block, holders in owners.items():
        positions = {i for i, _ in holders}
        assert len(positions) == 1, f"block {block} at two places"
        end = 32 * (positions.pop() + 1)
        assert len(holders) == 1 or len({tuple(s.ids[:end]) for _, s in holders}) == 1
        assert len(holders) == 1 or all(s.n_computed >= end for _, s in holders)


@settings(max_examples=150, deadline=None)
@given(actions, engines)
def test_any_mix_of_jobs_ends_well(script: list[Any], engine: dict[str, Any]) -> None:
    rig = make_rig(**engine)
    requests, dropped = play(rig, script)
    rig.run()
    rig.check_idle()
    assert rig.engine.wait_idle(0)
    event(f"preempted: {rig.engine.stats().n_preemptions > 0}, cached: {rig.engine.stats().n_cached_tokens > 0}")
    for job_id, request in requests.items():
        got, alone = rig.outcome(job_id), reference(request)
        # The collector has checked: seq without gaps, nothing behind the ending.
        if (job_id in dropped and got.end is None) or got.reason == "cancelled":
            assert alone.token_ids[: len(got.token_ids)] == got.token_ids
        else:
            assert (got.token_ids, got.text, got.reason) == (alone.token_ids, alone.text, alone.reason)


@settings(max_examples=80, deadline=None)
@given(actions, engines, st.sampled_from(["drain", "stop"]))
def test_any_mix_of_jobs_can_be_put_back(script: list[Any], engine: dict[str, Any], how: str) -> None:
    """Released jobs, resumed elsewhere behind what they had got, end up with the same tokens."""
    rig = make_rig(**engine)
    requests, dropped = play(rig, script)
    if how == "drain":
        rig.engine.drain(0)
        rig.run()
    else:
        rig.engine.stop()
    rig.check_idle()
    for job_id, request in requests.items():
        got = rig.outcome(job_id)
        if job_id in dropped or got.reason in ("cancelled", "stop", "length"):
            continue
        assert got.reason == "released"
        rest = run_alone(
            EngineRequest(job_id, 2, request.prompt_ids, request.sampling, resume_ids=tuple(got.token_ids)),
        )
        assert got.token_ids + rest.token_ids == reference(request).token_ids


def reference(request: EngineRequest) -> Outcome:
    key = repr(request)
    if key not in _by_text:
        _by_text[key] = run_alone(request)
    return _by_text[key]


_by_text: dict[str, Outcome] = {}
