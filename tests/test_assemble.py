"""The stored model computes what transformers computes, for every tried architecture."""

import pytest
import torch

from core import assemble, modelload
from core.assemble import build
from core.data.chat import Encoded
from core.data.packing import make_row, shared_beginning
from core.layers.lora import AdapterLinear
from core.plan.memory import LiveBytes
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight


def stored(path, bits=16, rank=0):
    def store(name, read, bias, transposed):
        layer = AdapterLinear(
            QuantizedWeight.from_dense(read(), Scheme(bits)), bias, transposed=transposed
        )
        o, i = layer.out_features, layer.in_features
        # s = 0: triplets are there and change nothing
        layer.set_triplets(torch.randn(o, rank), torch.zeros(rank), torch.randn(rank, i))
        return layer

    return build(path, store)


def test_unquantized_with_zero_adapter_gives_the_logits_of_the_base(tiny, architecture):
    path = tiny(architecture)
    dense = modelload.load_dense(path, torch.float32)
    ours = stored(path, 16, rank=2)
    tables = [dense.get_input_embeddings(), dense.get_output_embeddings()]
    for module in [*modelload.linear_targets(dense).values(), *tables]:
        module.weight.data = module.weight.data.bfloat16().float()  # as 16 bits are stored
    ids = torch.randint(0, dense.config.vocab_size, (1, 17))
    with torch.no_grad():
        expected, found = dense(ids).logits, ours.model(ids).logits
    assert torch.allclose(found, expected, atol=1e-4)


def test_examples_packed_in_a_row_do_not_see_each_other(tiny, architecture):
    model = stored(tiny(architecture))
    torch.manual_seed(0)
    a, b = torch.randint(0, 200, (9,)), torch.randint(0, 200, (13,))
    ids, positions = torch.cat([a, b]), torch.cat([torch.arange(9), torch.arange(13)])
    with torch.no_grad():
        packed = model.hidden(ids, positions)
        alone = torch.cat([model.hidden(x, torch.arange(len(x))) for x in (a, b)])
        changed = model.hidden(torch.cat([a.flip(0), b]), positions)
    assert torch.allclose(packed, alone, atol=1e-4)
    assert torch.equal(changed[9:], packed[9:])


def test_a_beginning_held_once_changes_no_loss_and_no_gradient(tiny, architecture):
    model = stored(tiny(architecture), rank=2)
    layers = [x for x in model.model.modules() if isinstance(x, AdapterLinear)]
    for layer in layers:
        layer.s.data.fill_(0.1)
    torch.manual_seed(0)
    head = torch.randint(0, 200, (6,)).tolist()
    examples = []
    for n in (9, 5, 7):
        ids = head + torch.randint(0, 200, (n,)).tolist()
        examples.append(Encoded(ids, [-100] * 8 + ids[8:]))
    found = []
    for shared in (0, shared_beginning(examples)):
        row = make_row(examples, [0, 1, 2], shared)
        tensors = [torch.tensor(x) for x in (row.ids, row.position_ids, row.labels)]
        model.model.zero_grad()
        model.loss(*tensors).backward()
        gradients = torch.cat([x.U.grad.flatten() for x in layers])
        found.append((model.losses(*tensors), gradients, len(row.ids)))
    (losses, gradients, apart), (losses_shared, gradients_shared, tokens) = found
    assert apart - tokens == 2 * 6
    assert torch.allclose(losses, losses_shared, atol=1e-4)
    assert torch.allclose(gradients, gradients_shared, atol=1e-4 * float(gradients.abs().max()))


@pytest.mark.parametrize("bits", [3, 8])
def test_recomputing_activations_changes_no_gradient(tiny, bits):
    model = stored(tiny("llama"), bits, rank=2)
    for layer in model.model.modules():
        if isinstance(layer, AdapterLinear):
            layer.s.data.fill_(0.1)
    ids, positions = torch.randint(0, 200, (20,)), torch.arange(20)
    gradients = []
    for on in (False, True):
        model.set_checkpointing(on)
        model.model.zero_grad()
        model.loss(ids, positions, ids).backward()
        gradients.append([p.grad.clone() for p in model.model.parameters() if p.grad is not None])
    assert gradients[0]
    assert all(torch.equal(x, y) for x, y in zip(*gradients, strict=True))


def test_eight_bit_tables_are_near_the_dense_ones(tiny):
    path = tiny("llama")
    ids, positions = torch.randint(0, 200, (12,)), torch.arange(12)

    def store(name, read, bias, transposed):
        return AdapterLinear(QuantizedWeight.from_dense(read(), Scheme(16)), bias)

    losses = [
        build(path, store, embedding_bits=b).loss(ids, positions, ids).item() for b in (16, 8)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


@pytest.mark.parametrize("bits", [16, 8])
def test_a_large_table_is_stored_block_by_block_and_is_never_there_twice(bits, monkeypatch):
    monkeypatch.setattr(assemble, "TABLE_NUMBERS", 64 * 96)
    rows, width = 50 * 64 + 5, 96
    table = torch.randn(rows, width).bfloat16()

    class Files:
        def shape(self, name):
            return (rows, width)

        def rows(self, name, start, stop):
            return table[start:stop].clone()

    with LiveBytes() as live:
        found = assemble.table_of(Files(), "words", Scheme(bits), torch.device("cpu"))
    for key, expected in QuantizedWeight.from_dense(table, Scheme(bits)).named_buffers():
        assert torch.equal(found.get_buffer(key), expected)
    assert live.peak < 1.5 * found.stored_bytes()
