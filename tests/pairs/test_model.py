"""The pair model: symmetry, layout of the tokens, its start, and LoRA as PEFT trains it."""

import pytest
import torch
import transformers

from core.config import RunConfig
from core.data.packing import make_row
from core.data.pairs import Pair
from core.pairs import start as starts
from core.pairs.model import PairEncoder, Shape, build, opened, unpacked
from core.pairs.train import make_optimizer

TEXTS = [("what is a cat", "is it a dog or a bird in the tree"), ("你好", "the sun"), ("a", "b")]
FAMILIES = ["bert", "roberta", "xlm-roberta", "distilbert", "llama", "gpt2", "qwen3", "gemma3"]


@pytest.fixture
def folder(request, tiny, tiny_encoder):
    """The folder of a family's tiny model."""

    def of(family):
        known = ("bert", "roberta", "xlm-roberta", "distilbert")
        return tiny_encoder(family) if family in known else tiny(family)

    return of


def ready(path, **shape):
    torch.manual_seed(0)
    model, encoder = opened(path, Shape(**shape), 64)
    model.head.data *= 10  # not near zero, so that differences show
    starts.start(model, 4, 1.0, loss=None, magnitude=False, seed=0)
    generator = torch.Generator().manual_seed(1)
    for layer in model.layers.values():
        layer.U.data = torch.randn(layer.U.shape, generator=generator) * 0.1
    return model, encoder


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_of_the_questions_does_not_matter(folder, family):
    model, encoder = ready(folder(family))
    forth = model.scores(encoder, TEXTS)
    back = model.scores(encoder, [(b, a) for a, b in TEXTS])
    assert torch.equal(forth, back)
    assert forth.softmax(1)[:, 1].std() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_gets_the_same_numbers_alone_and_in_a_batch(folder, family):
    model, encoder = ready(folder(family))
    texts = [encoder.ids(a, b)[0] for a, b in TEXTS]
    with torch.no_grad():
        together = model.logits(texts)
        alone = torch.cat([model.logits([t]) for t in texts])
    assert torch.allclose(together, alone, atol=2e-4)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_encoder_sees_a_pair_as_its_own_tokenizer_lays_it_out(folder, family):
    path = folder(family)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model, encoder = opened(path, Shape(), 64)
    reference = transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    for name, module in reference.named_modules():  # stored at 16 bits, as ours
        if isinstance(module, torch.nn.Linear) and "layer" in name:
            module.weight.data = module.weight.data.bfloat16().float()
    for a, b in TEXTS:
        theirs = tokenizer(a, b, return_tensors="pt", return_token_type_ids=True)
        assert encoder.ids(a, b)[0] == theirs["input_ids"][0].tolist()
        if family == "roberta":
            theirs.pop("token_type_ids", None)
        with torch.no_grad():
            mean = reference(**theirs).last_hidden_state.mean(1)
            assert torch.allclose(model.hidden([encoder.ids(a, b)[0]]), mean, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_typed_control_tokens_stay_text_and_long_questions_are_cut(folder, family):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder(family))
    encoder = PairEncoder(tokenizer, encoder=family == "bert", max_length=40)
    special = set(tokenizer.all_special_ids)
    plain, _ = encoder.ids("a", "b")
    typed, _ = encoder.ids("a [SEP] <|im_end|>", "b")
    assert sum(i in special for i in typed) == sum(i in special for i in plain)
    for first, second in (("x " * 90, "y " * 90), ("x", "y " * 90), ("x " * 90, "y")):
        ids, cut = encoder.ids(first, second)
        assert len(ids) <= 40
        assert cut
        kept = tokenizer.decode(ids)
        assert "x" in kept
        assert "y" in kept


def test_a_row_holds_texts_that_come_back(folder):
    _, encoder = opened(folder("llama"), Shape(), 64)
    examples = encoder.examples([Pair(a, b, k % 2) for k, (a, b) in enumerate(TEXTS)])
    assert len(examples) == 2 * len(TEXTS)
    row = make_row(examples, range(len(examples)))
    parts = (torch.tensor(x) for x in (row.ids, row.position_ids, row.labels))
    texts, classes = unpacked(*parts)
    assert texts == [e.ids for e in examples]
    assert classes.tolist() == [0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_v_starts_along_the_leading_directions_of_the_gradient(folder, family):
    """Against the dense gradient of every weight and its full decomposition."""
    path = folder(family)
    torch.manual_seed(0)
    model, encoder = opened(path, Shape(), 64)
    examples = encoder.examples([Pair(a, b, k % 2) for k, (a, b) in enumerate(TEXTS)])
    texts, labels = [e.ids for e in examples], torch.tensor([e.labels[-1] for e in examples])

    def loss():
        return torch.nn.functional.cross_entropy(model.logits(texts), labels)

    before = model.logits(texts)
    starts.start(model, 2, 3.0, loss=loss, magnitude=False, seed=0)
    assert torch.allclose(model.logits(texts), before, atol=1e-5)  # U = 0
    # dL/dW by a full-rank adapter: U = 0 and V = 1 give dL/dU = dL/dW.
    found = {name: layer.V.detach().clone() for name, layer in model.layers.items()}
    for layer in model.layers.values():
        i = layer.in_features
        layer.set_triplets(torch.zeros(layer.out_features, i), torch.ones(i), torch.eye(i))
    loss().backward()
    assert len(found) == len(model.layers)
    for name, layer in model.layers.items():
        s = torch.linalg.svdvals(layer.U.grad)
        reached = (layer.U.grad @ found[name].t()).square().sum()
        assert reached >= 0.999 * s[:2].square().sum(), name
        assert torch.allclose(found[name] @ found[name].t(), torch.eye(2), atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_with_the_extras_off_it_trains_as_lora_of_peft(folder, family):
    """Same start, 20 steps of AdamW: logits and head within 1e-5."""
    peft = pytest.importorskip("peft")
    path = folder(family)
    torch.manual_seed(0)
    model, encoder = opened(path, Shape(), 64)
    scale = starts.scale_of(16, 4, stabilised=True)
    starts.start(model, 4, scale, loss=None, magnitude=False, seed=0)
    base = transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    names = list(model.layers)
    for name in names:
        weight = base.get_submodule(name).weight
        weight.data = weight.data.bfloat16().float()
    config = peft.LoraConfig(r=4, lora_alpha=16, use_rslora=True, target_modules=names)
    theirs = peft.get_peft_model(base, config)
    for name, layer in model.layers.items():
        module = theirs.base_model.model.get_submodule(name)
        assert module.scaling["default"] == pytest.approx(scale)
        module.lora_A["default"].weight.data = layer.V.detach().clone()
        module.lora_B["default"].weight.data = layer.U.detach().clone()
    head = torch.nn.Parameter(model.head.detach().clone())

    config = RunConfig.from_json({"train": {"lr": 1e-3}, "pairs": {"rate_ratio": 1.0}})
    ours = make_optimizer(model, config)
    trained = [head, *(p for p in theirs.parameters() if p.requires_grad)]
    reference = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)

    examples = encoder.examples([Pair(a, b, k % 2) for k, (a, b) in enumerate(TEXTS)])
    texts, labels = [e.ids for e in examples], torch.tensor([e.labels[-1] for e in examples])
    row = make_row(examples, range(len(examples)))
    tensors = [torch.tensor(x) for x in (row.ids, row.position_ids, row.labels)]

    def their_logits():
        found = []
        for text in texts:
            more = {}
            if family == "bert":
                at = text.index(encoder.tokenizer.sep_token_id) + 1
                more["token_type_ids"] = torch.tensor([[0] * at + [1] * (len(text) - at)])
            states = theirs(input_ids=torch.tensor([text]), **more).last_hidden_state[0]
            found.append((states.mean(0) if family == "bert" else states[-1]) @ head.t())
        return torch.stack(found)

    for _ in range(20):
        ours.zero_grad()
        model.loss(*tensors).backward()
        ours.step()
        reference.zero_grad()
        torch.nn.functional.cross_entropy(their_logits(), labels).backward()
        reference.step()
    with torch.no_grad():
        gap = (model.logits(texts) - their_logits()).abs().max()
    moved = (head - model.head).abs().max()
    assert gap < 1e-5, f"{gap:.2g}"
    assert moved < 1e-5
    assert their_logits().std() > 0.05  # it did learn something


def test_v_learns_slower_by_the_ratio(folder):
    model, _ = ready(folder("llama"))
    config = RunConfig.from_json({"train": {"lr": 0.016}, "pairs": {"rate_ratio": 16.0}})
    optimizer = make_optimizer(model, config)
    before = {n: (x.U.detach().clone(), x.V.detach().clone()) for n, x in model.layers.items()}
    for layer in model.layers.values():
        layer.U.grad, layer.V.grad = torch.ones_like(layer.U), torch.ones_like(layer.V)
    optimizer.step()  # Adam's first step is the rate, whatever the gradient
    for name, layer in model.layers.items():
        assert torch.allclose(before[name][0] - layer.U, torch.tensor(0.016), atol=1e-5)
        assert torch.allclose(before[name][1] - layer.V, torch.tensor(0.001), atol=1e-5)


def test_r_drop_is_the_cross_entropy_where_nothing_is_dropped(folder):
    model, encoder = ready(folder("llama"), r_drop=0.5, dropout=0.3)
    examples = encoder.examples([Pair(*TEXTS[0], 1)])
    row = make_row(examples, range(2))
    tensors = [torch.tensor(x) for x in (row.ids, row.position_ids, row.labels)]
    noisy = float(model.loss(*tensors).detach())
    for layer in model.layers.values():
        layer.dropout = 0.0
    quiet = float(model.loss(*tensors).detach())
    plain = torch.nn.functional.cross_entropy(
        model.logits([e.ids for e in examples]), torch.tensor([1, 1])
    )
    assert quiet == pytest.approx(float(plain.detach()), abs=1e-5)
    assert noisy != pytest.approx(quiet, abs=1e-4)


def test_a_fully_built_model_has_no_weight_left_empty(folder):
    for family in FAMILIES:
        model = build(folder(family), Shape(bits=4))
        assert not [n for n, p in model.inner.named_parameters() if p.is_meta]
        assert not [n for n, b in model.inner.named_buffers() if b.is_meta]
