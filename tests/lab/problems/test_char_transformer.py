import copy

import torch

from overparam.lab.problems.char_transformer import CharTransformer, merge_


def test_merged_queries_and_keys_are_the_same_function():
    torch.manual_seed(0)
    model = CharTransformer(characters=11, layers=2, width=12, heads=3, context=7).double()
    for parameter in model.parameters():  # biases too, large enough to matter
        torch.nn.init.normal_(parameter, std=0.5)
    merged = copy.deepcopy(model)
    merge_(merged)
    text = torch.randint(11, (4, 7))
    torch.testing.assert_close(merged(text), model(text))
    names = [name for name, _ in merged.named_parameters()]
    assert not [name for name in names if "query" in name or "key" in name]
    assert "layers.0.scores.2.weight" in names


def test_scores_of_one_head_against_sums():
    torch.manual_seed(0)
    model = CharTransformer(characters=5, layers=1, width=4, heads=2, context=3).double()
    layer = model.layers[0]
    torch.nn.init.normal_(layer.query.bias)
    normal = torch.randn(1, 3, 4, dtype=torch.float64)
    query, key = (part.detach() for part in layer.scored(normal))
    head = 1
    rows = slice(2 * head, 2 * head + 2)
    product = layer.key.weight[rows].T @ layer.query.weight[rows]
    bias = layer.key.weight[rows].T @ layer.query.bias[rows]
    by_hand = normal[0] @ product.T @ normal[0].T + (normal[0] @ bias)[None]
    scores = query[0, head] @ key[0, head].T
    # Up to what is the same for all keys of a query.
    torch.testing.assert_close(scores - scores[:, :1], by_hand - by_hand[:, :1])
    merge_(model)
    query, key = model.layers[0].scored(normal)
    torch.testing.assert_close(query[0, head] @ key[0, head].T, by_hand)
