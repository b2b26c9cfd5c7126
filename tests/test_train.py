"""`fastopt train` and `fastopt info`: what a user sees, and that the training does what it claims."""

import re
import subprocess
import sys

import numpy as np
import pytest

import fastopt
from fastopt import reference
from fastopt.__main__ import main, make_parser

pytest.importorskip("sklearn")
pytest.importorskip("tqdm")

from fastopt.demo import data, network, train


@pytest.fixture(scope="module")
def digits():
    return data.digits()


def settings(**changes):
    return {"network": "pixels", "optimizer": "adam", "epochs": 2, "batch_size": 32, "seed": 0, **changes}


# The command line

@pytest.fixture(scope="module")
def run():
    """One run of `fastopt train --epochs 2` as a process of its own."""
    return subprocess.run([sys.executable, "-m", "fastopt", "train", "--epochs", "2"],
                          capture_output=True, text=True, check=False, timeout=300)


def test_train_reports_epochs_accuracy_and_time(run):
    assert run.returncode == 0, run.stderr
    def lines(pattern):
        return re.findall(f"^{pattern}$", run.stdout, re.M)

    assert lines(r"epoch (\d)/2   loss \d+\.\d{4}   validation accuracy \d\d\.\d\d%") == ["1", "2"]
    for name in ("fastopt", "fastopt.reference"):
        assert lines(name + r" +(\d\d\.\d\d)% \(\d+ of 360 images, epoch [12]\)   \d+\.\d\d s")
    assert lines(r"With the kernels the same training is \d+\.\d\d times as fast\.")
    assert train.resource is None or lines(r"Page faults a step: \d+\.\d and \d+\.\d\.")


def test_train_is_repeatable(run, capsys):
    """The same seed gives the same training in another process; another seed does not."""
    def epochs(text):
        return re.findall(r"^epoch.*$", text, re.M)

    assert main(["train", "--epochs", "2"]) == 0
    assert epochs(capsys.readouterr().out) == epochs(run.stdout)
    assert main(["train", "--epochs", "2", "--seed", "1"]) == 0
    assert epochs(capsys.readouterr().out) != epochs(run.stdout)


@pytest.mark.parametrize("options", [["--network", "tokens"], ["--optimizer", "momentum"],
                                     ["--optimizer", "sgd", "--lr", "0.1"], ["--batch-size", "100", "--threads", "2"]])
def test_train_takes_options(options, capsys):
    assert main(["train", "--epochs", "1", *options]) == 0
    assert "epoch 1/1" in capsys.readouterr().out


def test_threads_are_set_for_the_training_only(monkeypatch, digits):
    seen = []
    monkeypatch.setattr(train, "compare", lambda *a, **k: (seen.append(fastopt.get_num_threads()), None))
    before = fastopt.get_num_threads()
    assert main(["train", "--threads", "3"]) == 0
    assert main(["train"]) == 0
    assert seen == [3, 1]
    assert fastopt.get_num_threads() == before


@pytest.mark.parametrize(("options", "message"), [
    (["--epochs", "0"], "argument --epochs: expected an int of at least 1, got '0'"),
    (["--epochs", "two"], "argument --epochs: expected an int of at least 1, got 'two'"),
    (["--batch-size", "1"], "argument --batch-size: expected an int of at least 2, got '1'"),
    (["--batch-size", "1438"], "argument --batch-size: expected at most 1437, the number of training images, got 1438"),
    (["--lr", "0"], "argument --lr: expected a finite number above 0, got '0'"),
    (["--lr", "nan"], "argument --lr: expected a finite number above 0, got 'nan'"),
    (["--lr", "inf"], "argument --lr: expected a finite number above 0, got 'inf'"),
    (["--lr", "-1"], "argument --lr: expected a finite number above 0, got '-1'"),
    (["--lr", "fast"], "argument --lr: expected a finite number above 0, got 'fast'"),
    (["--network", "words"], "argument --network: invalid choice: 'words'"),
    (["--optimizer", "adams"], "argument --optimizer: invalid choice: 'adams'"),
    (["--seed", "-1"], "argument --seed: expected an int of at least 0, got '-1'"),
    (["--threads", "0"], "argument --threads: expected an int in [1, 1024], got '0'"),
    (["--threads", "1025"], "argument --threads: expected an int in [1, 1024], got '1025'"),
    (["--plot", "curves.docx"], "argument --plot: expected a name ending in one of ."),
    (["--plot", "curves"], "argument --plot: expected a name ending in one of ."),
    (["--plot", "no/such/folder/curves.png"], "argument --plot: expected a file in an existing folder, got "),
    (["--plot", "x" * 300 + ".png"], "argument --plot: expected a writable file, got "),
    (["--speed", "9"], "unrecognized arguments: --speed 9"),
])
def test_bad_option(options, message, capsys):
    if "--plot" in options:
        pytest.importorskip("matplotlib")
    with pytest.raises(SystemExit) as caught:
        main(["train", *options])
    assert caught.value.code == 2
    text = capsys.readouterr()
    assert message in text.err
    assert text.out == ""       # refused before the training


@pytest.mark.parametrize("argv", [[], ["trian"]])
def test_no_such_command(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: fastopt" in capsys.readouterr().err


@pytest.mark.parametrize(("module", "name"),
                         [("sklearn", "scikit-learn"), ("tqdm", "tqdm"), ("matplotlib", "matplotlib")])
def test_missing_extra(module, name):
    """One line and code 2, in an interpreter without the module."""
    code = (f"import sys; sys.modules[{module!r}] = None; from fastopt.__main__ import main; "
            "sys.exit(main(['train', '--plot', 'curves.png']))")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                            timeout=300)
    assert result.returncode == 2
    assert result.stderr == f'fastopt train: {name} is not installed; run: pip install "fastopt[demo]"\n'
    assert result.stdout == ""


def test_matplotlib_is_needed_only_for_a_plot(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["train", "--epochs", "1"]) == 0


def test_diverging(capsys):
    assert main(["train", "--lr", "1e30", "--epochs", "3"]) == 1
    assert re.fullmatch(r"fastopt train: the loss is (nan|inf) in epoch \d: try a smaller --lr than 1e\+30\n",
                        capsys.readouterr().err)


def test_info(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert fastopt.__version__ in text
    assert "threads" in text


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"fastopt {fastopt.__version__}\n"


def test_plot(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for name, start in (("curves.png", b"\x89PNG"), ("curves.SVG", b"<?xml")):
        file = tmp_path / name
        assert main(["train", "--epochs", "2", "--plot", str(file)]) == 0
        assert file.read_bytes().startswith(start)
        assert f"Learning curves: {file}" in capsys.readouterr().out


def test_every_network_and_optimizer_offered_exists():
    offered = make_parser().parse_args(["train"]).parser._option_string_actions
    assert set(offered["--network"].choices) == set(network.NETWORKS)
    assert set(offered["--optimizer"].choices) == set(train.OPTIMIZERS)
    for name, _, _ in train.OPTIMIZERS.values():
        assert hasattr(fastopt, name)
        assert hasattr(reference, name)


# The training

def test_data_holds_every_digit_once(digits):
    from sklearn.datasets import load_digits

    assert digits.train_x.dtype == digits.validation_x.dtype == np.float32
    assert digits.train_x.shape == (1437, 64)
    assert digits.validation_x.shape == (360, 64)
    assert digits.train_x.min() == 0.0
    assert digits.train_x.max() == 1.0
    pixels, labels = load_digits(return_X_y=True)
    ours = np.column_stack([np.concatenate([digits.train_x, digits.validation_x]) * 16,
                            np.concatenate([digits.train_labels, digits.validation_labels])])
    theirs = np.column_stack([pixels, labels])
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
    for again, array in zip(data.digits(), digits, strict=True):
        np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize(("count", "size"), [(1437, 32), (1437, 2), (1437, 1437), (1437, 1000), (7, 3)])
def test_batches_hold_every_image_once_and_are_large_enough(count, size, rng):
    pieces = train.batches(count, size, rng)
    assert min(map(len, pieces)) >= size
    np.testing.assert_array_equal(np.sort(np.concatenate(pieces)), np.arange(count))


def made(name, kernels=fastopt, seed=0):
    return network.Network(kernels, network.NETWORKS[name](kernels, np.random.default_rng(seed)))


NETWORK = pytest.mark.parametrize("name", network.NETWORKS)


def test_a_network_trains_with_every_layer():
    kinds = {type(layer).__name__ for name in network.NETWORKS for layer in made(name).layers}
    assert {kind.__name__ for kind in fastopt.Layer.__subclasses__() if kind.__module__ in
            ("fastopt._layers", "fastopt._dense")} <= kinds


@NETWORK
def test_decay_on_matrices_only(name):
    net = made(name)
    exempt = {key.partition(".")[2] for key, param in net.params.items() if train.decay_matrices_only(key, param)}
    assert exempt == {"gamma", "beta", "bias"}
    assert {key.partition(".")[2] for key in net.params} - exempt == {"weight"}


@NETWORK
def test_gradients_against_finite_differences(name):
    """Every gradient of the reference network, of some elements each, against central differences of the loss."""
    rng = np.random.default_rng(3)
    net = made(name, reference)
    x, labels = rng.integers(0, 17, (16, 64)).astype(np.float32) / 16, rng.integers(0, 10, 16)
    for param in net.params.values():
        if np.abs(param).max() < 0.1:
            param *= 25                                 # an embedding that starts small
        if param.ndim == 1:
            param += rng.standard_normal(param.shape, dtype=np.float32) / 4      # moves ReLU's inputs away from 0
    drawn = [layer.rng.bit_generator.state for layer in net.layers if hasattr(layer, "rng")]

    def loss():
        for layer, state in zip((layer for layer in net.layers if hasattr(layer, "rng")), drawn, strict=True):
            layer.rng.bit_generator.state = state       # the same elements are dropped
        return net.loss_and_gradients(x, labels)

    loss()
    grads = {key: grad.copy() for key, grad in net.grads.items()}
    for key, param in net.params.items():
        flat, step = param.reshape(-1), np.float32(2**-10)
        some = rng.choice(param.size, min(param.size, 12), replace=False)
        expected = np.empty(len(some))
        for place, i in enumerate(some):
            old = flat[i]
            flat[i] = old + step
            above = loss()
            flat[i] = old - step
            below = loss()
            flat[i] = old
            expected[place] = (above - below) / (2 * step)
        np.testing.assert_allclose(grads[key].ravel()[some], expected, atol=2e-3, rtol=0.02, err_msg=key)
        assert np.abs(expected).max() > 0.01, key


@NETWORK
def test_gradients_of_kernels_and_reference_agree(digits, name):
    nets = [made(name, kernels) for kernels in (fastopt, reference)]
    losses = [net.loss_and_gradients(digits.train_x[:33], digits.train_labels[:33]) for net in nets]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for key in nets[0].grads:
        a, b = nets[0].grads[key], nets[1].grads[key]
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6 * np.abs(b).max() + 1e-9, err_msg=key)


@NETWORK
def test_parameters_are_updated_in_place(digits, name):
    net = made(name)
    params, grads, before = dict(net.params), dict(net.grads), net.snapshot()
    opt = fastopt.Adam(lr=0.01)
    for _ in range(2):
        net.loss_and_gradients(digits.train_x[:32], digits.train_labels[:32])
        opt.update(net.params, net.grads)
    for key in params:
        assert net.params[key] is params[key]
        assert net.grads[key] is grads[key]
    for layer, state in zip(net.layers, before, strict=True):
        for key, array in layer.state_dict().items():
            assert not np.array_equal(array, state[key]), key       # all change, running statistics included


@pytest.mark.parametrize("seed", range(3))
@NETWORK
def test_accuracy(digits, name, seed):
    """8 epochs reach 97 % from any seed."""
    result = train.train(fastopt, digits, **settings(network=name, epochs=8, seed=seed))
    assert result.best_accuracy >= 0.97
    assert len(result.losses) == len(result.accuracies) == 8
    assert result.losses[-1] < result.losses[0] / 5


@pytest.mark.parametrize("optimizer", sorted(train.OPTIMIZERS))
def test_kernels_and_reference_reach_the_same_accuracy(digits, optimizer):
    """Only BatchNorm and softmax round differently: within 3 of 360 images, and almost equal losses."""
    kernels = train.train(fastopt, digits, **settings(epochs=6, optimizer=optimizer))
    by_reference = train.train(reference, digits, **settings(epochs=6, optimizer=optimizer))
    assert kernels.best_accuracy >= 0.95
    assert abs(kernels.best_accuracy - by_reference.best_accuracy) <= 3 / 360 + 1e-9
    assert kernels.losses[0] == pytest.approx(by_reference.losses[0], rel=1e-4)
    assert kernels.losses[-1] == pytest.approx(by_reference.losses[-1], rel=0.1)


def test_best_weights_are_kept(digits, monkeypatch):
    """The network returned has the weights and running statistics of the best epoch, not of the last."""
    seen = []
    accuracy = network.Network.accuracy

    def watched(self, x, labels):
        seen.append((accuracy(self, x, labels) - len(seen), self.snapshot()))       # falls from epoch to epoch
        return seen[-1][0]

    monkeypatch.setattr(network.Network, "accuracy", watched)
    result = train.train(fastopt, digits, **settings(epochs=3))
    assert result.best_epoch == 1
    kept = result.network.snapshot()
    assert "running_mean" in kept[1]
    for state, first, last in zip(kept, seen[0][1], seen[2][1], strict=True):
        for key, array in first.items():
            np.testing.assert_array_equal(state[key], array, err_msg=key)
            assert not np.array_equal(state[key], last[key]), key


def test_best_accuracy_is_that_of_the_network_returned(digits):
    result = train.train(fastopt, digits, **settings(epochs=3))
    right = result.network.logits(digits.validation_x).argmax(axis=1) == digits.validation_labels
    assert result.best_accuracy == np.mean(right)


@NETWORK
def test_any_number_of_threads_gives_the_same_bits(digits, name, always_parallel):
    results = []
    for threads in (1, 2, 3):
        with fastopt.num_threads(threads):
            results.append(train.train(fastopt, digits, **settings(network=name, epochs=1)))
    for other in results[1:]:
        assert train.difference(results[0].network, other.network)[0] == 0


def test_public_api_only():
    """The demo uses no private name of fastopt, so that users can copy it."""
    from pathlib import Path

    files = [*Path(train.__file__).parent.glob("*.py")]
    assert len(files) >= 5
    for file in files:
        text = file.read_text("utf-8")
        assert not re.search(r"fastopt(\.\w+)*\._|from fastopt\S* import _|dispatch|_runtime", text)
