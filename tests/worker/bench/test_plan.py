"""A plan measures nothing twice, and counts what its works cost."""

from dataclasses import replace

import pytest

from woolly_worker.bench.plan import Decode, Mixed, ModelCost, Prefill, command, make_plan
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.model.transformer import kv_layout
from woolly_worker.model.weights import open_model

COST = ModelCost(weight_bytes=1000, kv_bytes_per_token=10, products_per_token=2000, products_per_logit_row=300)


def test_the_same_work_is_measured_once() -> None:
    plan = make_plan(prefill=[8], decode_steps=4, batches=[1, 2], depths=[0, 64], mixed=False)
    assert plan == [Prefill(8), Decode(4), Decode(4, batch=2), Decode(4, depth=64)]


def test_names_tell_works_apart() -> None:
    names = [work.name for work in make_plan()]
    assert len(set(names)) == len(names)


def test_a_command_is_what_a_peer_reads() -> None:
    assert command(Decode(4, batch=2, depth=8)) == {"do": "decode", "n_steps": 4, "batch": 2, "depth": 8}


def test_a_decode_reads_the_weights_once_a_step_and_every_sequences_context() -> None:
    work = Decode(4, batch=3, depth=100)
    assert COST.bytes_read(work) == 4 * (1000 + 3 * (100 + 2) * 10)
    assert work.total_tokens == 12


def test_a_prefill_multiplies_every_token_but_wants_one_row_of_logits() -> None:
    assert COST.products(Prefill(1000)) == 1000 * 2000 + 300
    assert Prefill(1000).n_reads == 2


def test_a_mixed_load_ends_with_its_prompt() -> None:
    work = Mixed(batch=8, n_prompt=500, chunk=128)
    assert (work.n_steps, work.total_tokens, work.n_slots) == (4, 500 + 32, 9)


def test_the_cost_of_a_real_model() -> None:
    config, weights = open_model(DEMO_MODEL)
    with weights.file:
        cost = ModelCost.of(config, weights, kv_layout(config))
    products = cost.products_per_token + cost.products_per_logit_row
    assert cost.kv_bytes_per_token == 2 * 2 * config.n_layer * config.kv_width
    assert cost.weight_bytes == pytest.approx(products * 34 / 32)  # every matrix is Q8_0


def test_a_step_reads_the_experts_that_its_tokens_are_sent_to() -> None:
    cost = replace(COST, expert_bytes=800, expert_share=1 / 4)
    assert [cost.step_bytes(n) for n in (1, 2, 1000)] == [1200, 1350, 1800]
    assert COST.step_bytes(8) == COST.weight_bytes
