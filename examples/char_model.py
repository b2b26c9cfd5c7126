"""A character model that learns to write numbers in words, and then samples some.

    python examples/char_model.py --steps 1000

Needs fastopt only. From 16 characters the network predicts the next one:
Embedding → Dense with GELU → LayerNorm → softmax over the alphabet.
"""

import argparse

import numpy as np

import fastopt

CONTEXT, BATCH = 16, 128
ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen").split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(n):
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f"-{ONES[n % 10]}" if n % 10 else "")
    return f"{ONES[n // 100]} hundred" + (f" and {in_words(n % 100)}" if n % 100 else "")


def main():
    parser = argparse.ArgumentParser(description="Learn to write numbers in words, character by character.")
    parser.add_argument("--steps", type=int, default=1000)
    steps = parser.parse_args().steps
    rng = np.random.default_rng(0)

    known = rng.permutation(1000)[:800]         # the other 200 are never seen
    text = "".join(f"{in_words(n)}\n" for n in rng.choice(known, 8000))
    alphabet = sorted(set(text))
    codes = np.array([alphabet.index(character) for character in text])
    windows = np.lib.stride_tricks.sliding_window_view(codes, CONTEXT + 1)

    embedding = fastopt.Embedding(len(alphabet), 16, std=0.1, rng=rng)
    dense = fastopt.Dense(CONTEXT * 16, 128, "gelu", rng=rng)
    norm = fastopt.LayerNorm(128)
    weight, bias = fastopt.init.xavier_normal((len(alphabet), 128), rng), np.zeros(len(alphabet), np.float32)
    layers = embedding, dense, norm
    params = [*(layer.params for layer in layers), weight, bias]

    def features(contexts):
        return norm.forward(dense.forward(embedding.forward(contexts).reshape(len(contexts), -1)))

    opt = fastopt.Adam(lr=fastopt.schedules.cosine(0.005, steps))
    for step in range(1, steps + 1):
        batch = windows[rng.integers(len(windows), size=BATCH)]
        loss, dx, dweight, dbias = fastopt.linear_cross_entropy(features(batch[:, :-1]), weight, batch[:, -1], bias)
        d = dense.backward(norm.backward(dx))
        embedding.backward(d.reshape(BATCH, CONTEXT, 16))
        opt.update(params, [*(layer.grads for layer in layers), dweight, dbias])
        if step % (steps // 5) == 0:
            print(f"step {step}   loss {loss:.4f}")

    context, written = codes[:CONTEXT], ""      # the first characters of the text, then what the network adds
    while written.count("\n") < 41:
        p = fastopt.softmax(features(context[None]) @ weight.T + bias)[0].astype(np.float64)
        following = rng.choice(len(alphabet), p=p / p.sum())
        context, written = np.append(context[1:], following), written + alphabet[following]
    lines = written.split("\n")[1:41]           # without the rest of the number that the context began
    numbers = {in_words(n): n for n in range(1000)}
    valid = [line for line in lines if line in numbers]
    unseen = [line for line in valid if numbers[line] not in known]
    print(*lines[:8], sep="\n")
    print(f"{len(valid)} of {len(lines)} samples are numbers, {len(unseen)} of them not in the text")


if __name__ == "__main__":
    main()
