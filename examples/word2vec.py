"""Word vectors by skip-gram with negative sampling, and the nearest words of some.

    python examples/word2vec.py --epochs 5

Needs fastopt only. The corpus is generated: sentences about animals, people and cities. A word's vector is trained to
have a large scalar product with the words around it, and a small one with words drawn at random. embedding_backward
adds the gradients of all places at which a word occurs.
"""

import argparse

import numpy as np

import fastopt

KINDS = {
    "animal": "cat dog horse cow sheep goat rabbit mouse",
    "food": "bread cheese apples carrots rice soup honey beans",
    "person": "anna ben clara david emma felix greta henry",
    "city": "paris london rome madrid vienna prague oslo dublin",
    "colour": "red green blue white black yellow brown grey",
}
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words.split()}
SENTENCES = ["the {colour} {animal} eats {food}", "{person} buys {food} for the {animal}",
             "{person} travels from {city} to {city}", "{person} lives in {city}",
             "{person} wears a {colour} hat in {city}", "a {colour} {animal} sleeps"]
DIM, WINDOW, NEGATIVE, BATCH = 16, 2, 5, 256


def sentence(rng):
    words = SENTENCES[rng.integers(len(SENTENCES))].split()
    return [str(rng.choice(KINDS[word[1:-1]].split())) if word[0] == "{" else word for word in words]


def main():
    parser = argparse.ArgumentParser(description="Train word vectors on a generated corpus.")
    parser.add_argument("--epochs", type=int, default=5)
    epochs = parser.parse_args().epochs
    rng = np.random.default_rng(0)

    corpus = [sentence(rng) for _ in range(3000)]
    vocabulary = sorted({word for words in corpus for word in words})
    size, number = len(vocabulary), {word: i for i, word in enumerate(vocabulary)}
    pairs = np.array([(number[words[i]], number[words[j]]) for words in corpus for i in range(len(words))
                      for j in range(max(i - WINDOW, 0), min(i + WINDOW + 1, len(words))) if i != j])
    counts = np.bincount(pairs[:, 1], minlength=size) ** 0.75
    frequency = counts / counts.sum()

    params = {"words": fastopt.init.normal((size, DIM), rng, std=0.1), "contexts": np.zeros((size, DIM), np.float32)}
    target = np.zeros(1 + NEGATIVE, np.float32)
    target[0] = 1.0         # the word that is there, then those drawn at random
    opt = fastopt.Adam(lr=0.01)
    for epoch in range(1, epochs + 1):
        rng.shuffle(pairs)
        losses = []
        for start in range(0, len(pairs) - BATCH + 1, BATCH):
            centre, context = pairs[start:start + BATCH].T
            others = rng.choice(size, (BATCH, NEGATIVE), p=frequency)
            around = np.column_stack([context, others])
            u = fastopt.embedding_forward(params["words"], centre)              # (BATCH, DIM)
            v = fastopt.embedding_forward(params["contexts"], around)           # (BATCH, 1 + NEGATIVE, DIM)
            scores = np.einsum("bd,bkd->bk", u, v)
            losses.append(np.logaddexp(0, (1 - 2 * target) * scores).sum(axis=1).mean())
            d = (1 / (1 + np.exp(-scores)) - target) / BATCH
            grads = {"words": fastopt.embedding_backward(np.einsum("bk,bkd->bd", d, v), centre, size),
                     "contexts": fastopt.embedding_backward(d[:, :, None] * u[:, None], around, size)}
            opt.update(params, grads)
        print(f"epoch {epoch}   loss {np.mean(losses):.4f}")
    vectors = params["words"] / np.linalg.norm(params["words"], axis=1, keepdims=True)
    order = np.argsort(-(vectors @ vectors.T), axis=1)[:, 1:4]      # the first is the word itself
    nearest = {word: [vocabulary[i] for i in order[number[word]]] for word in KIND_OF}
    for word in ("cat", "bread", "anna", "paris", "red"):
        print(f"{word}: {', '.join(nearest[word])}")
    same = np.mean([KIND_OF.get(other) == KIND_OF[word] for word, others in nearest.items() for other in others])
    print(f"{same:.0%} of the nearest words are of the same kind")


if __name__ == "__main__":
    main()
